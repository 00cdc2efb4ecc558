//! `/run/lull`: the [`folder`] with the sockets of the migrations under way, and the
//! [`claim`]s on guests' dirty logs.

pub mod claim;
pub mod folder;
