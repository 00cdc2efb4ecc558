//! The guest's pause and what it is made of.

use std::time::{Duration, Instant};

use lull_core::downtime::{Downtime, Outlook};
use lull_core::machine::Machine;
use lull_core::units::{Bounds, Micros, PageRate};

use super::telling::millis;
use crate::events::PauseParts;

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

/// The same reckoning as the prediction's, at rates halfway between their
/// bounds, as far as there is an upper one. `None` while the link's rate is not known.
fn likely_pages(machine: &Machine) -> Option<Micros> {
    let halfway = |rate: Bounds<PageRate>| match rate.upper {
        PageRate::MAX => rate.lower,
        upper => PageRate(rate.lower.0.midpoint(upper.0)),
    };
    let outlook = Outlook {
        costs: machine.config().costs,
        guest_pages: machine.config().guest_pages,
        dirty_rate: halfway(machine.dirty_rate()),
        transfer_rate: halfway(machine.transfer_rate()),
    };
    let known = machine.transfer_rate().lower > PageRate::ZERO;
    known.then_some(outlook.predict(machine.dirty_count()?).pages)
}
