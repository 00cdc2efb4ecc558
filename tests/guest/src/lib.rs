//! The guest model, which runs in a test guest instead of a distribution.
//!
//! [`protocol`] defines the requests of the tests. [`page`] is one page that can be
//! verified, and [`working_set`] is all of them. [`dirtier`] writes them at a set rate, and
//! [`verifier`] checks them; [`disk`] does both on disks, if there are any, and
//! [`screen`] on a screen; [`checks`] counts those of a device. [`boot`] does
//! the few tasks of PID 1, and [`server`] answers the tests.

pub mod boot;
pub mod checks;
pub mod dirtier;
pub mod disk;
pub mod machine;
pub mod page;
pub mod protocol;
pub mod screen;
pub mod server;
pub mod verifier;
pub mod working_set;
