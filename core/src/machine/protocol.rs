//! What goes into a machine and what comes out of it.

use crate::{
    downtime::{FixedCosts, LastPages, SuspendPages},
    limits::{Limits, Risk},
    policy::PolicyKind,
    refusal::Refusal,
    units::{Micros, PageRate},
};

/// The configuration of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Config {
    /// What the operator allows: pause and timeout.
    pub limits: Limits,
    /// Upper bounds of the parts of a pause that do not depend on the pages left to send.
    pub costs: FixedCosts,
    /// The usual length of the same parts.
    pub expected_costs: FixedCosts,
    /// The pages that the guest's kernel dirties in order to stop.
    pub suspend_pages: SuspendPages,
    /// How long the last pages of earlier pauses took, beside what the path's curve said.
    pub last_pages: LastPages,
    /// The share of pauses that may exceed their predicted upper bound and may therefore be
    /// given up.
    pub risk: Risk,
    /// The most pages that the guest can have.
    pub guest_pages: u64,
    /// Whether the guest may be asked to stop only after a handover to the destination
    /// ([`Action::HandOver`]).
    pub hands_over: bool,
}

impl Config {
    /// The rule that decides; it follows from the limits alone.
    pub const fn policy(&self) -> PolicyKind {
        match self.limits.max_suspend {
            Some(_) => PolicyKind::WithinLimit,
            None => PolicyKind::XenDefault,
        }
    }
}

/// An event that dom0 reports to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event {
    /// Log-dirty mode is on, and the bitmap of round 0, which marks every populated page,
    /// is in place.
    Begin {
        /// The number of bits set in the bitmap.
        pages: u64,
        /// How long a trial read of the bitmap took.
        took_bitmap: Micros,
    },
    /// One batch went to the stream.
    Sent {
        /// The number of frames taken from the bitmap; never zero.
        requested: u32,
        /// The number of those frames whose contents were written.
        pages: u32,
        /// The number of those frames that are all zero: of them only the numbers were
        /// written.
        zeros: u32,
    },
    /// Reports the time, about every 100 ms while copying.
    Tick {
        /// Pages dirty since the last bitmap was taken, if the hypervisor was asked.
        dirty: Option<u64>,
    },
    /// Answers [`Action::Count`].
    Counted {
        /// Pages dirty since the last bitmap was taken.
        dirty: u64,
    },
    /// Answers [`Action::TakeBitmap`]: the bitmap is in place and the
    /// hypervisor counts from zero again.
    Bitmap {
        /// The number of bits set in the bitmap.
        dirty: u64,
        /// How long it took to take the bitmap.
        took: Micros,
    },
    /// Answers [`Action::Suspend`]: the guest has stopped and the final bitmap
    /// is in place.
    Suspended {
        /// The number of bits set in the final bitmap.
        dirty: u64,
        /// How long it took to take the bitmap.
        took_bitmap: Micros,
    },
    /// Answers [`Action::Suspend`]: the guest never stopped.
    SuspendFailed,
    /// The driver's own deadline has passed: the pause is over, whatever is left to send.
    OutOfTime,
    /// Answers [`Action::RunOn`]: the guest runs on at the source.
    RunsOn,
    /// The operator cancels the attempt. May come at any time.
    Cancel,
    /// The operator changes the limits. May come at any time, but has no effect once the
    /// guest was asked to stop, because its deadlines are already running.
    Limits(Limits),
    /// The operator sets a bandwidth cap; `None` removes it. May come at any time, but has
    /// no effect once the guest was asked to stop. From the request to suspend on, sending
    /// is not held back.
    Bandwidth(Option<PageRate>),
    /// The cap has held sending back since the previous batch.
    HeldBack,
    /// Pages, the last ones included, use another path from now on. May come between two
    /// rounds.
    PathChanged,
    /// The destination has answered a ping that was sent ahead of the round's first batch. May
    /// come at any time, and counts if no batch of the round was sent before.
    RoundTrip,
    /// The guest's memory has grown or shrunk since the last bitmap was taken. The guest
    /// must not be stopped before another round. May come between two rounds.
    Unsettled,
    /// What [`Action::HandOver`] began is over: the guest may be asked to stop. May come at
    /// any time after it.
    HandedOver,
    /// The operator prefers stopping the guest to another round, if the pause fits. May
    /// come at any time, but has no effect once the guest was asked to stop. Applies to the
    /// next decision only.
    SwitchNow,
}

/// The action to perform. Any action but [`None`](Self::None) must be performed before the
/// next event, except that ticks and the operator's requests may come in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Action {
    /// Continue with what is under way.
    None,
    /// Scan the current bitmap and send the pages it marks.
    Copy {
        /// The round's number; 0 is the full pass.
        round: u32,
        /// The number of bits set in the bitmap.
        pages: u64,
    },
    /// Ask the hypervisor how many pages are dirty.
    Count,
    /// Take the dirty bitmap and clear it in the hypervisor.
    TakeBitmap,
    /// Begin the handover to the destination, and answer with [`Event::HandedOver`] once it
    /// is over. Another round goes on beside it: take the bitmap too, as for
    /// [`TakeBitmap`](Self::TakeBitmap).
    HandOver,
    /// Ask the guest to stop, then take the final bitmap.
    Suspend,
    /// Scan the final bitmap and send the pages it marks.
    CopyFinal {
        /// The number of bits set in the bitmap.
        pages: u64,
    },
    /// All pages are sent: send the CPU state, end the stream.
    Finish,
    /// Give up. The guest never stopped and must not be resumed.
    Refuse(Refusal),
    /// Give up. The guest has stopped: resume it at once.
    Resume(Refusal),
    /// Give up this pause, but not the attempt. The guest has stopped: resume it at once
    /// and answer with [`Event::RunsOn`]. The pages marked in the final bitmap are then
    /// copied like those of any other round.
    RunOn(Refusal),
}

/// The state of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// The machine waits for [`Event::Begin`].
    Waiting,
    /// A round is being sent.
    Copying,
    /// A round has been sent, and the machine waits for its count.
    Counting,
    /// The machine waits for the next round's bitmap.
    TakingBitmap,
    /// The guest is to be stopped, and the handover is not over yet.
    HandingOver,
    /// The guest has been asked to stop.
    Suspending,
    /// The guest has stopped, and its last pages are being sent.
    CopyingFinal,
    /// The pause was given up, and the guest is being resumed for another try.
    RunningOn,
    /// All pages have been sent.
    Finished,
    /// The attempt was given up, and the guest never stopped.
    Refused,
    /// The attempt was given up after the guest had stopped. The guest must be resumed.
    Resumed,
    /// The driver broke the protocol. Only the driver knows whether the guest has stopped.
    Failed,
}

/// The driver broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProtocolError {
    /// The event cannot happen in this state.
    Unexpected(State),
    /// The event is older than the previous one.
    TimeWentBack,
    /// The batch has no frames.
    EmptyBatch,
    /// More frames were taken than the bitmap has bits left, or more pages were written
    /// than frames taken.
    TooManyPages,
}

impl core::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unexpected(state) => write!(f, "unexpected event while {state:?}"),
            Self::TimeWentBack => f.write_str("an event lies before the one before"),
            Self::EmptyBatch => f.write_str("a batch of no frames"),
            Self::TooManyPages => f.write_str("more pages sent than the bitmap names"),
        }
    }
}

impl core::error::Error for ProtocolError {}
