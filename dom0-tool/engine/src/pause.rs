//! The guest's pause and its parts.

use std::time::{Duration, Instant};

use lull_core::downtime::Downtime;
use lull_core::machine::Machine;
use lull_core::units::{Micros, PageRate};
use lull_wire::events::PauseParts;

use super::emit::millis;

/// The guest's pause so far. It counts from the request to suspend, because the users of
/// the guest also feel the guest's own way to its stop.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When the engine asked the guest to stop.
    pub requested: Instant,
    /// The prediction on which the guest was asked to stop.
    pub predicted: Option<Downtime>,
    /// The expected time for the last pages, if conditions are as usual.
    pub likely_pages: Option<Micros>,
    /// When the guest was first seen suspended, if that was before [`Self::stopped`].
    pub suspended: Option<Instant>,
    /// When the engine saw that the guest had stopped, and its QEMU if it has one.
    pub stopped: Option<Instant>,
    /// How long the final bitmap took.
    pub bitmap: Option<Duration>,
    /// When the guest's last page was in the stream.
    pub pages_sent: Option<Instant>,
    /// When the stream was complete.
    pub state_sent: Option<Instant>,
    /// Whether libxl has answered the request.
    pub answered: bool,
    /// Whether the request is irrevocable: the guest has acknowledged it, or libxl made it.
    pub binding: bool,
}

impl Pause {
    /// Starts a pause at this moment.
    pub fn begin(machine: &Machine) -> Self {
        Self {
            requested: Instant::now(),
            predicted: machine.prediction(),
            likely_pages: likely_pages(machine),
            suspended: None,
            stopped: None,
            bitmap: None,
            pages_sent: None,
            state_sent: None,
            answered: false,
            binding: false,
        }
    }

    /// The parts observed so far. The landing is measured elsewhere.
    pub fn parts(&self) -> PauseParts {
        let between =
            |from: Option<Instant>, to: Option<Instant>| Some(millis(to?.duration_since(from?)));
        let bitmap_done = self.bitmap_done();
        PauseParts {
            suspend_ms: between(Some(self.requested), self.stopped),
            final_bitmap_ms: self.bitmap.map(millis),
            pages_ms: between(bitmap_done, self.pages_sent),
            cpu_state_ms: between(self.pages_sent, self.state_sent),
            landing_ms: None,
        }
    }

    fn bitmap_done(&self) -> Option<Instant> {
        self.stopped.zip(self.bitmap).map(|(at, took)| at + took)
    }

    /// The time that the last pages took without the round trip, per mille of `by_curve`.
    /// `None` if they were not all sent, or if the curve gave them no time.
    pub fn pages_per_mille_of(&self, by_curve: Micros, round_trip: Micros) -> Option<u64> {
        let took = self.pages_sent?.duration_since(self.bitmap_done()?);
        let took = took.as_micros().saturating_sub(round_trip.0.into());
        let share = (took * 1_000).checked_div(by_curve.0.into())?;
        u64::try_from(share).ok()
    }
}

/// The machine's expectation for the last pages. `None` while the link's rate is unknown.
fn likely_pages(machine: &Machine) -> Option<Micros> {
    let known = machine.service().expected_rate() > PageRate::ZERO;
    known.then_some(machine.expected()?.pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pages_are_timed_from_their_bitmap_and_only_when_all_are_sent() {
        let stopped = Instant::now();
        let ms = Duration::from_millis;
        let mut pause = Pause {
            requested: stopped,
            predicted: None,
            likely_pages: None,
            suspended: None,
            stopped: Some(stopped),
            bitmap: Some(ms(3)),
            pages_sent: None,
            state_sent: None,
            answered: true,
            binding: true,
        };
        let by_curve = Micros(40_000);
        assert_eq!(pause.pages_per_mille_of(by_curve, Micros::ZERO), None);
        pause.pages_sent = Some(stopped + ms(13));
        assert_eq!(pause.pages_per_mille_of(by_curve, Micros::ZERO), Some(250));
        assert_eq!(pause.pages_per_mille_of(by_curve, Micros(2_000)), Some(200));
        assert_eq!(pause.parts().pages_ms, Some(10));
        assert_eq!(pause.pages_per_mille_of(Micros::ZERO, Micros::ZERO), None);
    }
}
