//! One guest, one link, one order and one mishap.

use lull_core::downtime::FixedCosts;
use lull_core::limits::{Limits, Risk};
use lull_core::machine::Config;
use lull_core::units::Micros;

use crate::guest::Guest;
use crate::link::Link;

/// All there is to know of an attempt before it starts, and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Who is to be moved.
    pub guest: Guest,
    /// Over what.
    pub link: Link,
    /// What the operator allows.
    pub limits: Limits,
    /// The share of pauses that may be given up.
    pub risk: Risk,
    /// The bounds that lull assumes.
    pub assumed: FixedCosts,
    /// What those parts take in truth.
    pub actual: Actual,
    /// What goes wrong, apart from guest and link.
    pub mishap: Mishap,
}

/// What the parts of a pause really take, µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actual {
    /// From the attempt's start until copying begins.
    pub prepare: u64,
    /// From the request until the guest has stopped.
    pub suspend: u64,
    /// Taking a bitmap, any.
    pub bitmap: u64,
    /// Reading and writing the CPU state.
    pub cpu_state: u64,
    /// At the destination, from the last byte to READY.
    pub until_ready: u64,
    /// From READY to the first instruction.
    pub after_ready: u64,
    /// From the decision to give up until the guest runs at the source.
    pub resume: u64,
}

/// What goes wrong, apart from guest and link. Costs that are worse than
/// assumed are no mishap but simply [`Actual`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing.
    None,
    /// The operator gives up at this time, µs.
    Cancelled(u64),
    /// The operator gives up so long (µs) after the guest was asked to stop.
    CancelledAfterRequest(u64),
    /// The guest does not stop at all; libxl says so after a minute.
    NeverStops,
    /// The stub says nothing more after so many pages of the final round.
    StubHangs(u64),
}

impl Scenario {
    /// What the machine is told.
    pub const fn config(&self) -> Config {
        Config {
            limits: self.limits,
            costs: self.assumed,
            expected_costs: self.assumed,
            risk: self.risk,
            guest_pages: self.guest.pages,
        }
    }

    /// The limit on the pause, µs; a simulated attempt always has one.
    pub fn limit(&self) -> u64 {
        self.limits
            .max_suspend
            .map_or(u64::MAX, |limit| limit.micros().0)
    }

    /// When dom0 takes the guest back unless the stream is complete, µs after
    /// the request (`Session::until_deadline` of the engine).
    pub fn deadline(&self) -> u64 {
        Micros(self.limit()).since(self.assumed.reserve()).0
    }

    /// The same while pages are still to be sent: reading the CPU state cannot
    /// be cut short.
    pub fn pages_deadline(&self) -> u64 {
        self.deadline().saturating_sub(self.assumed.cpu_state.0)
    }

    /// When the relay takes the guest back unless the destination is ready, µs
    /// after the request: gate 4.
    pub fn ready_by(&self) -> u64 {
        let after = self.assumed.resume.0.max(self.actual.after_ready);
        self.limit().saturating_sub(after)
    }

    /// The same with every cost at its bound, if it is not beyond.
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

    /// Whether the guest stopped in the time assumed. If it did not, the limit
    /// can only hold from its stop on: nobody can hurry it.
    pub const fn stops_in_time(&self) -> bool {
        self.actual.suspend <= self.assumed.suspend.0
    }
}
