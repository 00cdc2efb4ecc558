//! Why an attempt was refused, with the numbers an operator needs to do better.

use crate::{
    downtime::{Downtime, FixedPart},
    limits::Limits,
    service::Stretch,
    units::{Bounds, ByteRate, Micros, PageRate},
};

/// A refusal: the guest goes on (or goes on again) at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What was known at that moment.
    pub figures: Figures,
}

/// Why an attempt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Reason {
    /// Gate 0: what every pause costs is more than the limit; nothing was
    /// copied.
    FixedCosts {
        /// The part that costs most.
        part: FixedPart,
    },
    /// Gate 1: no further round can bring the pause within the limit.
    Hopeless(Hopeless),
    /// Gate 2: the guest had stopped, and the exact count of dirty pages did
    /// not fit into what was left of the limit. No page of the final round
    /// was sent.
    DowntimeAfterSuspend,
    /// Gate 3: the guest had stopped, and sending took so long that the rest
    /// would not fit into what was left of the limit.
    BehindSchedule,
    /// The guest could not be suspended in the time the operator gave.
    Timeout,
    /// The operator asked.
    Cancelled,
    /// The guest would not stop.
    SuspendFailed,
}

/// Why no further round can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Hopeless {
    /// The guest dirties at least as fast as the link carries at best.
    Outpaced,
    /// The predicted downtime has stopped falling.
    NoProgress,
    /// It still falls, but too slowly.
    TooManyRounds,
}

/// The numbers behind a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Figures {
    /// The round that ran last; 0 is the full pass.
    pub round: u32,
    /// Since the attempt started.
    pub elapsed: Micros,
    /// What the operator allowed.
    pub limits: Limits,
    /// Pages dirty when last counted; `None` if they never were.
    pub dirty_count: Option<u64>,
    /// Upper bound of the pause, as last predicted, however it ends: its
    /// landing is as long as a resume here would be, if that is longer. `None`
    /// before the first count.
    pub predicted_downtime: Option<Downtime>,
    /// The pause then expected. `None` before the first count.
    pub expected_downtime: Option<Downtime>,
    /// What the upper bound of its pages' time rests on; see
    /// [`ServiceCurve::basis`](crate::service::ServiceCurve::basis).
    pub rests_on: Option<Stretch>,
    /// The smallest downtime limit under which this attempt would have
    /// suspended the guest: the least of what was predicted at the end of each
    /// round, [however it ends](crate::downtime::FixedCosts::at_worst), or the
    /// fixed costs if they alone were too much. `None` before the end of the
    /// first round.
    pub smallest_limit: Option<Micros>,
    /// Bandwidth that would have met the limit. `None` without a limit, before
    /// the first count, or when no bandwidth would: the fixed costs alone leave
    /// nothing of it.
    pub bandwidth_needed: Option<ByteRate>,
    /// How fast the guest dirties pages.
    pub dirty_rate: Bounds<PageRate>,
    /// How fast the link carries them, at least and at most.
    pub transfer_rate: Bounds<PageRate>,
    /// And as of late.
    pub expected_rate: PageRate,
    /// What more than which was not sent.
    pub cap: Option<PageRate>,
}
