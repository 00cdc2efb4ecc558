//! What lull keeps in files: in `/run/lull` while a guest moves ([`running`]), and what
//! outlives an attempt: what its pause took ([`ledger`]), and the [`limits`] that hold for
//! the next. Lines that may not wait for a disk
//! go through a [`spool`].

#![forbid(unsafe_code)]

pub mod ledger;
pub mod limits;
pub mod running;
pub mod spool;
