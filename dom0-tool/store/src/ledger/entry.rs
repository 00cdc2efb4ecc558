//! The parts of one pause, and how long an entry about it counts.

use lull_wire::events::Landing;
use serde::{Deserialize, Serialize};

/// The age in seconds beyond which an entry no longer counts, because hosts, links and
/// guests are rebuilt. Ages use the wall clock, which is used for nothing else.
pub const LASTS: u64 = 90 * DAY;

/// The age in seconds up to which an entry about a late destination counts. The delay may
/// have been a one-off; and if it kept every later attempt from beginning, no newer
/// measurement could ever outweigh it.
pub const LATE_LASTS: u64 = DAY;

const DAY: u64 = 24 * 60 * 60;

/// How long the last pages of a pause took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// The number of pages.
    pub pages: u64,
    /// The time, per mille of what the path's curve said of them when the guest had stopped.
    pub per_mille: u64,
    /// How much longer than that curve's time they took, in milliseconds. `None` in entries of
    /// an older lull.
    #[serde(default)]
    pub longer_ms: Option<u64>,
    /// The round trip before them, which is in neither figure; zero where it was not measured.
    /// `None` in entries of an older lull, whose figures include it.
    #[serde(default)]
    pub round_trip_ms: Option<u64>,
}

impl Took {
    /// The time per mille of the curve's, without what is known to have been added to it.
    pub fn share(&self) -> u64 {
        match self.longer_ms {
            Some(_) => self.per_mille.min(1_000),
            None => self.per_mille,
        }
    }
}

/// The parts of one pause, of a guest that moved or that was resumed at the source. An
/// absent part is unknown or was not reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The time of the entry in seconds since 1970. The ledger dates undated entries when
    /// they are added.
    pub at: Option<u64>,
    /// The name of the guest; absent for a probe guest of lull.
    pub guest: Option<String>,
    /// Whether the guest has emulated devices.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
    /// The guest was not seen to run at the destination: it was resumed at the source,
    /// unless it died.
    pub resumed: bool,
    /// From the request to suspend until the guest had stopped, in milliseconds.
    pub suspend_ms: Option<u64>,
    /// The pages that the guest's kernel dirtied in order to stop, without the estimated
    /// share of its load. `None` where the load made up most of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend_pages: Option<u64>,
    /// How long the last pages took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_pages: Option<Took>,
    /// Reading the final bitmap, in milliseconds.
    pub final_bitmap_ms: Option<u64>,
    /// CPU state, parameters and end of the stream, in milliseconds.
    pub cpu_state_ms: Option<u64>,
    /// The kind of landing.
    pub landing: Landing,
    /// From the end of the stream until the guest ran at the destination, in milliseconds.
    /// For a destination that was not ready in time this is a lower bound.
    pub landing_ms: Option<u64>,
    /// The part of the landing that follows READY, in milliseconds.
    pub after_ready_ms: Option<u64>,
    /// From the decision to give up until the guest ran at the source, in milliseconds.
    pub resume_ms: Option<u64>,
    /// The pause expected when the guest was asked to stop, in milliseconds.
    pub expected_ms: Option<u64>,
    /// The upper bound of the pause at that moment, in milliseconds.
    pub predicted_ms: Option<u64>,
    /// The observed pause in milliseconds: an upper bound for a guest that moved. For a
    /// destination that was not ready in time, a lower bound of what the pause would have
    /// been.
    pub observed_ms: Option<u64>,
}

impl Entry {
    /// The age of the entry in seconds; zero for an entry from the future, which remains
    /// after a clock was set back.
    pub fn age(&self, now: u64) -> u64 {
        self.at.map_or(0, |at| now.saturating_sub(at))
    }

    /// Whether the entry still counts.
    pub fn counts(&self, now: u64) -> bool {
        let was_late = self.resumed && self.landing_ms.is_some();
        self.age(now) <= if was_late { LATE_LASTS } else { LASTS }
    }

    /// Whether the entry contains no figures.
    pub fn is_empty(&self) -> bool {
        [
            self.suspend_ms,
            self.suspend_pages,
            self.final_bitmap_ms,
            self.cpu_state_ms,
            self.landing_ms,
            self.after_ready_ms,
            self.resume_ms,
        ]
        .iter()
        .all(Option::is_none)
    }

    /// Whether the entry is from a probe guest. Its bitmap, CPU state and so on say nothing
    /// about a guest of another size, but are better than the general assumptions.
    pub fn is_rehearsal(&self) -> bool {
        self.guest.is_none()
    }

    /// Whether the entry belongs to `guest`.
    pub fn is_of(&self, guest: &str) -> bool {
        self.guest.as_deref() == Some(guest)
    }
}
