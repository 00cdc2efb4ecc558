//! Prints progress, one line a phase, with the seconds since the start: a rig that takes
//! half a minute to boot must show that it is alive.

use std::fmt::Display;
use std::time::Instant;

/// Prints phases relative to one starting point.
#[derive(Debug, Clone, Copy)]
pub struct Timeline {
    start: Instant,
}

impl Timeline {
    /// Returns a timeline that starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Prints one line for a phase that has just been reached.
    pub fn phase(&self, what: impl Display) {
        eprintln!("[{:7.1} s] {what}", self.seconds());
    }

    /// Returns the seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}
