//! The protocol between tests and model: one JSON object a line, in both directions, over
//! TCP.

use serde::{Deserialize, Serialize};

/// The TCP port on which the model listens.
pub const PORT: u16 = 7000;

/// The load that the model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The number of pages written each second, in the steady pattern.
    pub pages_per_sec: u64,
    /// The number of different pages, which are written in a cycle.
    pub working_set_pages: u64,
    /// The distribution of the writes over time.
    #[serde(default)]
    pub pattern: Pattern,
}

impl Load {
    /// A load without writes.
    pub const QUIET: Self = Self {
        pages_per_sec: 0,
        working_set_pages: 1,
        pattern: Pattern::Steady,
    };

    /// Returns an even load.
    pub const fn steady(pages_per_sec: u64, working_set_pages: u64) -> Self {
        Self {
            pages_per_sec,
            working_set_pages,
            pattern: Pattern::Steady,
        }
    }
}

/// The distribution of writes over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Writes are even, at `pages_per_sec`.
    #[default]
    Steady,
    /// Writes are even at `pages_per_sec`, and in addition this many pages are written at
    /// once at the start of each period.
    Burst {
        /// The time in milliseconds from one burst to the next.
        period_ms: u64,
        /// The number of pages in one burst.
        pages: u64,
    },
}

/// A request from a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Request {
    /// Answers with a [`Status`] and changes nothing.
    Status,
    /// Changes the load, then answers with a [`Status`].
    SetLoad(Load),
    /// Checks every page of the reserve and every block of the disks once, then
    /// answers with a [`Status`].
    VerifyAll,
    /// Crashes the guest's kernel; there is no answer.
    Crash,
    /// Ends the guest; there is no answer.
    PowerOff,
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The request was understood; this is the status after it.
    Status(Box<Status>),
    /// The request was not understood, or cannot be met.
    Error(String),
}

/// What the model counted since the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The number of pages written.
    pub pages_written: u64,
    /// The number of pages checked.
    pub verified: u64,
    /// The number of pages whose content was not what was last written to them. A value
    /// other than zero means that memory was lost or mixed up.
    pub hash_errors: u64,
    /// The indexes of the first pages that failed, at most eight.
    pub bad_pages: [Option<u64>; 8],
    /// The uptime in milliseconds by the guest's own clock, which stands still while it is
    /// suspended.
    pub uptime_ms: u64,
    /// The guest's wall clock in milliseconds since 1970.
    pub wall_ms: u64,
    /// The number of pages reserved at the start, the upper bound of a working set.
    pub reserve_pages: u64,
    /// The present load.
    pub load: Load,
    /// The counters of all disks together, if the guest has one.
    pub disk: Option<DiskStatus>,
    /// The counters of the emulated machine, if the guest has one.
    pub machine: Option<MachineStatus>,
    /// The counters of the screen, if the guest uses one: how often it was read, and how
    /// often it did not show what was last written on it.
    pub screen: Option<MachineStatus>,
}

/// The counters of the emulated machine since the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The number of times that one of its registers was read.
    pub read: u64,
    /// The number of times that the register did not have its value.
    pub errors: u64,
}

/// The counters of all disks together since the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The number of blocks written.
    pub written: u64,
    /// The number of blocks read back.
    pub checked: u64,
    /// The number of blocks that could not be written or read, or whose content was not
    /// what was last written to them.
    pub errors: u64,
}
