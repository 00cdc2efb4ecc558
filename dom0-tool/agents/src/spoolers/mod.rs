//! `lull keep-run` and `lull keep-trace`: the processes that keep the record of an attempt
//! until it is over, so that no attempt waits for a disk ([`spool`](lull_store::spool)).

pub mod runs;
pub mod trace;
