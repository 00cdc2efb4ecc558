//! One guest, one link, one order and one mishap.

use lull_core::downtime::{FixedCosts, LastPages, SuspendPages};
use lull_core::limits::{Limits, Risk};
use lull_core::machine::Config;
use lull_core::units::Micros;

use crate::guest::Guest;
use crate::link::Link;

/// All facts about an attempt, both those known before it starts and those known only
/// afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The guest to be moved.
    pub guest: Guest,
    /// The link to the destination.
    pub link: Link,
    /// What the operator allows.
    pub limits: Limits,
    /// The share of pauses that may be given up.
    pub risk: Risk,
    /// The bounds that lull assumes.
    pub assumed: FixedCosts,
    /// What lull knows of the pages that the guest's kernel dirties in order to stop. The
    /// true number is [`Guest::stop_pages`].
    pub suspend_pages: SuspendPages,
    /// What lull knows of the time that the last pages take. The truth is
    /// [`Link::within_pause`].
    pub last_pages: LastPages,
    /// The true durations of those parts.
    pub actual: Actual,
    /// What goes wrong, apart from guest and link.
    pub mishap: Mishap,
}

/// The true durations of the parts of a pause, in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actual {
    /// From the attempt's start until copying begins.
    pub prepare: u64,
    /// From the request until the guest has stopped.
    pub suspend: u64,
    /// Taking any of the bitmaps.
    pub bitmap: u64,
    /// Reading and writing the CPU state.
    pub cpu_state: u64,
    /// From the last byte to READY, at the destination.
    pub until_ready: u64,
    /// From READY to the guest's first instruction.
    pub after_ready: u64,
    /// From the decision to give up until the guest runs at the source.
    pub resume: u64,
    /// The handshake, where it precedes the guest's stop and is no part of its pause.
    pub handover: Option<u64>,
}

/// A mishap, apart from guest and link. Costs that are worse than assumed are not a mishap
/// but part of [`Actual`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The attempt is left undisturbed.
    None,
    /// The operator cancels at this time, in µs.
    Cancelled(u64),
    /// The operator cancels so long (µs) after the guest was asked to stop.
    CancelledAfterRequest(u64),
    /// The guest does not stop at all; libxl reports that after a minute.
    NeverStops,
    /// The stub stops responding after so many pages of the final round.
    StubHangs(u64),
}

impl Scenario {
    /// The configuration with which the machine decides.
    pub const fn config(&self) -> Config {
        Config {
            limits: self.limits,
            costs: self.assumed,
            expected_costs: self.assumed,
            suspend_pages: self.suspend_pages,
            last_pages: self.last_pages,
            risk: self.risk,
            guest_pages: self.guest.pages,
            hands_over: self.actual.handover.is_some(),
        }
    }

    /// The limit on the pause in µs; a simulated attempt always has one.
    pub fn limit(&self) -> u64 {
        self.limits
            .max_suspend
            .map_or(u64::MAX, |limit| limit.micros().0)
    }

    /// The time at which dom0 takes the guest back unless the stream is complete, in µs
    /// after the request (`Session::until_deadline` of the engine).
    pub fn deadline(&self) -> u64 {
        Micros(self.limit()).since(self.assumed.reserve()).0
    }

    /// The same deadline while pages are still to be sent: reading the CPU state cannot be
    /// cut short.
    pub fn pages_deadline(&self) -> u64 {
        self.deadline().saturating_sub(self.assumed.cpu_state.0)
    }

    /// Gate 4: the time at which the relay takes the guest back unless the destination is
    /// ready, in µs after the request.
    pub fn ready_by(&self) -> u64 {
        let after = self.assumed.resume.0.max(self.actual.after_ready);
        self.limit().saturating_sub(after)
    }

    /// The same scenario with every cost at its bound, unless it already exceeds it.
    pub fn at_the_bounds(&self) -> Self {
        let (actual, assumed) = (self.actual, self.assumed);
        let until_ready = assumed.landing.0.saturating_sub(actual.after_ready);
        Self {
            actual: Actual {
                suspend: actual.suspend.max(assumed.suspend.0),
                bitmap: actual.bitmap.max(assumed.final_bitmap.0),
                cpu_state: actual.cpu_state.max(assumed.cpu_state.0),
                until_ready: actual.until_ready.max(until_ready),
                resume: actual.resume.max(assumed.resume.0),
                ..actual
            },
            ..self.clone()
        }
    }

    /// Whether the guest stopped within the assumed time. If not, the limit can only apply
    /// from its stop on, because nothing can make it stop sooner.
    pub const fn stops_in_time(&self) -> bool {
        self.actual.suspend <= self.assumed.suspend.0
    }
}
