//! The control socket of a migration under way: the [`server`], and the [`status_snapshot`] of the
//! migration that it shows.

pub mod server;
pub mod status_snapshot;
