//! What is said over a control socket: one JSON object per line, a request
//! there, an answer back.
//!
//! ```text
//! {"schema":1,"command":"status"}
//! {"schema":1,"type":"status","domid":7,"phase":"copying",…}
//! {"schema":1,"command":"cancel"}
//! {"schema":1,"type":"done","said":"…"}
//! ```
//! Every request has one answer, save `watch`: its answers are the status now
//! and whenever it has changed, as fast as they are read, until that process's
//! part is over.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::events::{How, Progress, Round};

/// Version of these objects; raised when the meaning of a field changes.
pub const SCHEMA: u32 = 1;

/// Longest line of a request, in bytes.
pub const LONGEST: usize = 1024;

/// A line as it travels: what is said, and the version it is said in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line<T> {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// What is said.
    #[serde(flatten)]
    pub said: T,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How it stands, once.
    Status,
    /// How it stands, until it is over.
    Watch,
    /// Give up safely.
    Cancel,
    /// Other limits, times in microseconds; what is absent stays as it is.
    Set {
        /// The limit on the pause.
        #[serde(default)]
        max_suspend_us: Option<u64>,
        /// The limit on the time to the suspend.
        #[serde(default)]
        timeout_us: Option<u64>,
        /// What is sent at most until then, bytes a second; 0 lifts it.
        #[serde(default)]
        bandwidth: Option<u64>,
    },
    /// No other round, if the pause fits.
    SwitchNow,
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Answer {
    /// How it stands.
    Status(Box<Status>),
    /// It was done, or will be.
    Done {
        /// One sentence.
        said: String,
    },
    /// It was not; the migration goes on as before.
    Refused {
        /// One sentence.
        why: String,
    },
}

/// How a migration stands. Times are milliseconds from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The guest at the source.
    pub domid: u16,
    /// Its name, as far as whoever asks has found it out.
    #[serde(default)]
    pub name: Option<String>,
    /// Process id of whoever says so: the helper, or `lull migrate`.
    pub helper_pid: u32,
    /// What is being done.
    pub phase: Phase,
    /// Now.
    pub at_ms: u64,
    /// The limit on the pause.
    pub limit_ms: Option<u64>,
    /// The limit on the time to the suspend.
    pub timeout_ms: Option<u64>,
    /// What is sent at most until then, bytes a second.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// Populated pages of the guest; 0 before they are counted.
    pub guest_pages: u64,
    /// The round under way.
    pub progress: Option<Progress>,
    /// The rounds before it, the last [`ROUNDS`].
    pub rounds: VecDeque<Round>,
    /// How it ended, as far as that process can tell.
    pub ended: Option<End>,
}

/// Rounds that a [`Status`] holds.
pub const ROUNDS: usize = 32;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The stub is built, the frames are listed.
    Preparing,
    /// Pages are copied; the guest runs.
    Copying,
    /// The guest was asked to stop.
    Suspending,
    /// It has stopped; its last pages are sent.
    LastRound,
    /// All pages are sent; its CPU state follows.
    Finishing,
    /// The stream is complete: the destination has the guest, and says whether
    /// it can run there.
    Landing,
    /// It was given up; the guest runs at the source.
    Ended,
}

/// See [`Status::ended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub how: How,
    /// One sentence; empty when the stream is complete.
    pub reason: String,
    /// What to do next; may be empty.
    pub advice: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_base::fuzz::any_bytes;

    /// A client of the control socket may send anything.
    #[test]
    fn any_bytes_are_a_request_or_none() {
        let samples: [&[u8]; 2] = [
            br#"{"schema":1,"type":"cancel"}"#,
            br#"{"schema":1,"type":"set","max_suspend_us":300000,"timeout_us":null,"bandwidth":0}"#,
        ];
        any_bytes(&samples, |bytes| {
            drop(serde_json::from_slice::<Line<Request>>(bytes));
            drop(serde_json::from_slice::<Line<Answer>>(bytes));
        });
    }
}
