//! One JSON object a line, in both directions, over TCP.

use serde::{Deserialize, Serialize};

/// Where the model listens.
pub const PORT: u16 = 7000;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Pages written each second, in the steady pattern.
    pub pages_per_sec: u64,
    /// How many different pages are written, round and round.
    pub working_set_pages: u64,
    /// How the writes spread over time.
    #[serde(default)]
    pub pattern: Pattern,
}

impl Load {
    /// Nothing is written.
    pub const QUIET: Self = Self {
        pages_per_sec: 0,
        working_set_pages: 1,
        pattern: Pattern::Steady,
    };

    /// An even load.
    pub const fn steady(pages_per_sec: u64, working_set_pages: u64) -> Self {
        Self {
            pages_per_sec,
            working_set_pages,
            pattern: Pattern::Steady,
        }
    }
}

/// How writes spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Evenly, at `pages_per_sec`.
    #[default]
    Steady,
    /// Evenly at `pages_per_sec`, and in addition this many pages at once at
    /// the start of each period.
    Burst {
        /// Milliseconds from one burst to the next.
        period_ms: u64,
        /// Pages in one burst.
        pages: u64,
    },
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Request {
    /// Answers with a [`Status`] and changes nothing.
    Status,
    /// Changes the load, then answers with a [`Status`].
    SetLoad(Load),
    /// Checks every page of the reserve and every block of the disk once, then
    /// answers with a [`Status`].
    VerifyAll,
    /// Crashes the guest's kernel; there is no answer.
    Crash,
    /// Ends the guest; there is no answer.
    PowerOff,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The request was understood; this holds after it.
    Status(Box<Status>),
    /// It was not understood, or cannot be met.
    Error(String),
}

/// What the model counted since the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Pages written.
    pub pages_written: u64,
    /// Pages checked.
    pub verified: u64,
    /// Pages that did not hold what was last written to them. Anything but
    /// zero means that memory was lost or mixed up.
    pub hash_errors: u64,
    /// The first pages that failed, by index, at most eight.
    pub bad_pages: [Option<u64>; 8],
    /// By the guest's own clock, which stands still while it is suspended.
    pub uptime_ms: u64,
    /// What its wall clock shows, since 1970.
    pub wall_ms: u64,
    /// Pages set aside at the start: the upper bound of a working set.
    pub reserve_pages: u64,
    /// The present load.
    pub load: Load,
    /// What was counted of its disk, if it was given one.
    pub disk: Option<DiskStatus>,
}

/// What the model counted of its disk since the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Blocks written.
    pub written: u64,
    /// Blocks read back.
    pub checked: u64,
    /// Blocks that could not be written or read, or did not hold what was last
    /// written to them.
    pub errors: u64,
}
