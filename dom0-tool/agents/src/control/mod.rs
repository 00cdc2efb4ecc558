//! The control socket of a migration under way: the [`server`], and the [`picture`] of the
//! migration that it shows.

pub mod picture;
pub mod server;
