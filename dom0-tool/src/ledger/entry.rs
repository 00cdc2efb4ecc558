//! What one pause was made of, and how long an entry about it counts.

use lull_wire::events::Landing;
use serde::{Deserialize, Serialize};

/// An older entry, in seconds, no longer counts: hosts, links and guests are
/// rebuilt. By the wall clock, which serves for this and nothing else.
pub const LASTS: u64 = 90 * DAY;

/// An entry about a destination that was late counts for so long. It may have
/// been a hitch; and where it keeps every later attempt from beginning, nothing
/// newer is learned that would outweigh it.
pub const LATE_LASTS: u64 = DAY;

const DAY: u64 = 24 * 60 * 60;

/// What one pause was made of: of a guest that moved, or that was resumed at
/// the source. Absent: not known, or not come so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// When, in seconds since 1970; the ledger dates what is added undated.
    pub at: Option<u64>,
    /// Whose: by name, or of a probe guest of lull's own.
    pub guest: Option<String>,
    /// The guest was not seen to run at the destination: it was resumed at the
    /// source, if it did not die.
    pub resumed: bool,
    /// From the request until the guest had stopped.
    pub suspend_ms: Option<u64>,
    /// Reading the final bitmap.
    pub final_bitmap_ms: Option<u64>,
    /// CPU state, parameters, end of the stream.
    pub cpu_state_ms: Option<u64>,
    /// In which order it landed.
    pub landing: Landing,
    /// From there until the guest ran at the destination; of one that was not
    /// ready in time, what it took at least.
    pub landing_ms: Option<u64>,
    /// Part of the landing, from READY.
    pub after_ready_ms: Option<u64>,
    /// From the decision to give up until the guest ran at the source.
    pub resume_ms: Option<u64>,
    /// The pause as it was expected when the guest was asked to stop.
    pub expected_ms: Option<u64>,
    /// And at most.
    pub predicted_ms: Option<u64>,
    /// What it was, at most, of a guest that moved; of a destination that was
    /// not ready in time: what it would have been, at least.
    pub observed_ms: Option<u64>,
}

impl Entry {
    /// Seconds since it was made; none for one from the future, which a clock
    /// that was set back leaves behind.
    pub fn age(&self, now: u64) -> u64 {
        self.at.map_or(0, |at| now.saturating_sub(at))
    }

    /// Whether it still counts.
    pub fn counts(&self, now: u64) -> bool {
        let was_late = self.resumed && self.landing_ms.is_some();
        self.age(now) <= if was_late { LATE_LASTS } else { LASTS }
    }

    /// Whether it teaches anything.
    pub fn is_empty(&self) -> bool {
        [
            self.suspend_ms,
            self.final_bitmap_ms,
            self.cpu_state_ms,
            self.landing_ms,
            self.after_ready_ms,
            self.resume_ms,
        ]
        .iter()
        .all(Option::is_none)
    }

    /// The bitmap, the CPU state and so on of a probe guest say nothing
    /// of another's size, but are better than what is assumed everywhere.
    pub fn is_rehearsal(&self) -> bool {
        self.guest.is_none()
    }

    /// Whether it is `guest`'s.
    pub fn is_of(&self, guest: &str) -> bool {
        self.guest.as_deref() == Some(guest)
    }
}
