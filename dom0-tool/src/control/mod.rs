//! Looking at migrations under way, and steering them: `lull status`,
//! `lull set`, `lull cancel`, `lull switch-now`.
//!
//! Each helper serves a socket of its own ([`folder`], [`server`]), whoever
//! started the migration: lull, xl or libvirt. While the guest lands, and the
//! helper has gone, `lull migrate` does. Both sides speak [`control`](lull_wire::control); what
//! there is to see is kept as a [`picture`]. The commands are its clients
//! ([`client`]): [`show`] looks once and [`watch`] until the end, [`set`] and
//! [`cancel`] steer.
//!
//! Whose a guest's dirty log is, one lull tells the other by a [`claim`].
//!
//! Nothing that a client does or leaves undone makes the helper wait: the guest
//! may be stopped at that moment.

pub mod cancel;
pub mod claim;
mod client;
pub mod folder;
pub mod picture;
pub mod server;
pub mod set;
pub mod show;
mod watch;

pub use client::names;

/// Exit code of what was done.
const DONE: u8 = 0;
/// Wrong words, or nobody to say them to: nothing was done.
const NOT_DONE: u8 = 2;
/// The migration goes on as if nothing had been asked.
const REFUSED: u8 = 3;
/// Nobody knows.
const UNKNOWN: u8 = 8;
