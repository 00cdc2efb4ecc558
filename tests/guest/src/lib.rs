//! The guest model: what runs in a test guest instead of a distribution.
//!
//! [`protocol`] is what the tests say to it; [`page`] is one page that can
//! prove itself, [`working_set`] all of them; [`dirtier`] writes them at a set
//! rate, [`verifier`] checks them; [`disk`] does both to a disk, if there is one;
//! [`boot`] is the little that PID 1 must do, and [`server`] answers the tests.

pub mod boot;
pub mod dirtier;
pub mod disk;
pub mod page;
pub mod protocol;
pub mod server;
pub mod verifier;
pub mod working_set;
