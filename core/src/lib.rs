//! Scan, estimate, decide.
#![no_std]
#![forbid(unsafe_code)]

pub mod link;
pub mod units;
