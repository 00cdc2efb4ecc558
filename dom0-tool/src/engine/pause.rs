//! The guest's pause and what it is made of.

use std::time::{Duration, Instant};

use lull_core::downtime::Downtime;
use lull_core::machine::Machine;
use lull_core::units::{Micros, PageRate};
use lull_wire::events::PauseParts;

use super::telling::millis;

/// The guest's pause, as far as it has come. It counts from the request: the
/// guest's own way to its stop is part of what its users feel.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When the guest was asked to stop.
    pub requested: Instant,
    /// On what it was asked.
    pub predicted: Option<Downtime>,
    /// How long its pages will take, if everything is as it mostly is.
    pub likely_pages: Option<Micros>,
    /// When it was seen stopped.
    pub stopped: Option<Instant>,
    /// How long the final bitmap took.
    pub bitmap: Option<Duration>,
    /// When its last page was in the stream.
    pub pages_sent: Option<Instant>,
    /// When the stream was complete.
    pub state_sent: Option<Instant>,
    /// libxl has answered.
    pub answered: bool,
    /// The request cannot be taken back: the guest has acknowledged it, or libxl made it.
    pub binding: bool,
}

impl Pause {
    /// A pause that begins now.
    pub fn begin(machine: &Machine) -> Self {
        Self {
            requested: Instant::now(),
            predicted: machine.prediction(),
            likely_pages: likely_pages(machine),
            stopped: None,
            bitmap: None,
            pages_sent: None,
            state_sent: None,
            answered: false,
            binding: false,
        }
    }

    /// Its parts as observed; the landing is seen by others.
    pub fn parts(&self) -> PauseParts {
        let between =
            |from: Option<Instant>, to: Option<Instant>| Some(millis(to?.duration_since(from?)));
        let bitmap_done = self.stopped.zip(self.bitmap).map(|(at, took)| at + took);
        PauseParts {
            suspend_ms: between(Some(self.requested), self.stopped),
            final_bitmap_ms: self.bitmap.map(millis),
            pages_ms: between(bitmap_done, self.pages_sent),
            cpu_state_ms: between(self.pages_sent, self.state_sent),
            landing_ms: None,
        }
    }
}

/// As the machine expects. `None` while the link's rate is not known.
fn likely_pages(machine: &Machine) -> Option<Micros> {
    let known = machine.service().expected_rate() > PageRate::ZERO;
    known.then_some(machine.expected()?.pages)
}
