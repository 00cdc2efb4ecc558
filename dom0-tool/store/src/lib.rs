//! What lull keeps in files: in `/run/lull` while a guest moves ([`running`]), and what
//! outlives an attempt: how it went ([`runs`], made of what was seen of the [`attempt`]),
//! what it decided ([`trace`]), what its pause took ([`ledger`]), and how many there were
//! ([`metrics`]). The [`limits`] hold for the next. Lines that may not wait for a disk go
//! through a [`spool`].

#![forbid(unsafe_code)]

pub mod attempt;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod running;
pub mod runs;
pub mod spool;
pub mod trace;
