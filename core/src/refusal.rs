//! Why an attempt was refused, with the figures an operator needs to adjust the limits.

use crate::{
    downtime::{Downtime, FixedPart},
    limits::Limits,
    service::Stretch,
    units::{Bounds, ByteRate, Micros, PageRate},
};

/// A refusal: the guest keeps running, or runs again, at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Refusal {
    /// The reason for the refusal.
    pub reason: Reason,
    /// The figures at that moment.
    pub figures: Figures,
}

/// Why an attempt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Reason {
    /// Gate 0: the fixed costs of any pause exceed the limit. Nothing was copied.
    FixedCosts {
        /// The largest of the fixed parts.
        part: FixedPart,
    },
    /// Gate 1: no further round can bring the pause within the limit.
    NotConverging(NotConverging),
    /// Gate 2: the guest had stopped, and the exact number of dirty pages did not fit into
    /// the rest of the limit. No page of the final round was sent.
    DowntimeAfterSuspend,
    /// Gate 3: the guest had stopped, and sending was so slow that the remaining pages
    /// would not have fit into the rest of the limit.
    BehindSchedule,
    /// The guest could not be suspended within the operator's timeout.
    Timeout,
    /// The operator cancelled the attempt.
    Cancelled,
    /// The guest did not suspend itself.
    SuspendFailed,
}

/// Why no further round can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum NotConverging {
    /// The guest dirties pages at least as fast as the link carries them at best.
    DirtyRateTooHigh,
    /// The predicted downtime has stopped falling.
    Stalled,
    /// The predicted downtime still falls, but too slowly.
    TooManyRounds,
}

/// The figures behind a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Figures {
    /// The last round that ran; 0 is the full pass.
    pub round: u32,
    /// Time since the attempt started.
    pub elapsed: Micros,
    /// The limits that applied when the attempt was refused.
    pub limits: Limits,
    /// The number of dirty pages at the last count; `None` if there was no count.
    pub dirty_count: Option<u64>,
    /// The last predicted upper bound of the pause, however it ends: its landing is the
    /// longer of the landing and a resume at the source. `None` before the first count.
    pub predicted_downtime: Option<Downtime>,
    /// The pause expected at that moment. `None` before the first count.
    pub expected_downtime: Option<Downtime>,
    /// The measurement behind the upper bound of its pages' time; see
    /// [`ServiceCurve::basis`](crate::service::ServiceCurve::basis).
    pub rests_on: Option<Stretch>,
    /// The smallest downtime limit under which this attempt would have suspended the guest:
    /// the lowest prediction at the end of any round, [however it
    /// ends](crate::downtime::FixedCosts::at_worst), or the fixed costs if they alone
    /// exceeded the limit. `None` before the end of the first round.
    pub smallest_limit: Option<Micros>,
    /// The bandwidth that would have met the limit. `None` without a limit, before the
    /// first count, or if no bandwidth would have been enough because the fixed costs alone
    /// use up the limit.
    pub bandwidth_needed: Option<ByteRate>,
    /// The bounds of the rate at which the guest dirties pages.
    pub dirty_rate: Bounds<PageRate>,
    /// The bounds of the rate at which the link carries pages.
    pub transfer_rate: Bounds<PageRate>,
    /// The rate at which the link has carried pages recently.
    pub expected_rate: PageRate,
    /// The bandwidth cap while the guest runs.
    pub cap: Option<PageRate>,
}
