//! The checks of a device that a guest makes for as long as it lives, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::MachineStatus;

/// The number of checks so far, and of those that failed.
#[derive(Default)]
pub struct Checks {
    read: AtomicU64,
    errors: AtomicU64,
}

impl Checks {
    /// Counts one check.
    pub fn count(&self, is_right: bool) {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.errors
            .fetch_add(u64::from(!is_right), Ordering::Relaxed);
    }

    /// Returns the counters so far.
    pub fn status(&self) -> MachineStatus {
        MachineStatus {
            read: self.read.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}
