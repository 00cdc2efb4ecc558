//! Shows and steers migrations under way: `lull status`, `lull set`, `lull cancel`,
//! `lull switch-now`.
//!
//! Each helper serves a [socket](lull_agents::control) of its own, in the
//! [folder](lull_store::running::folder) of all sockets, whether lull, xl or libvirt started
//! the migration. When the helper has ended and the guest lands, `lull migrate` serves
//! one instead. The protocol is [`control`](lull_wire::control). The commands are clients of
//! the socket ([`client`]): [`show`] prints the state once, [`watch`] until the end, and
//! [`set`] and [`cancel`] send requests.
//!
//! A [claim](lull_store::running::claim) on a guest's dirty log tells other lull processes
//! that the log is in use.
//!
//! No action or omission of a client makes the helper wait: the guest may be stopped at
//! that moment.

pub mod cancel;
mod client;
pub mod set;
pub mod show;
mod watch;

pub use client::names;

/// Exit code: the request was carried out.
const DONE: u8 = 0;
/// Exit code: the request was refused, and the migration goes on unchanged.
const REFUSED: u8 = 3;
/// Exit code: the result is not known.
const UNKNOWN: u8 = 8;
