//! The protocol of a control socket: one JSON object per line, requests one way,
//! answers the other.
//!
//! ```text
//! {"schema":1,"command":"status"}
//! {"schema":1,"type":"status","domid":7,"phase":"copying",…}
//! {"schema":1,"command":"cancel"}
//! {"schema":1,"type":"done","said":"…"}
//! ```
//! Every request has one answer, except `watch`. Its answers are the current status,
//! and a new one whenever the status has changed, as fast as the client reads them,
//! until the process's part is over.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::events::{How, Progress, Round};

/// Version of these objects; raised when the meaning of a field changes.
pub const SCHEMA: u32 = 1;

/// The longest line of a request, in bytes.
pub const MAX_LINE_BYTES: usize = 1024;

/// One line on the socket: a message and the schema version it is written in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line<T> {
    /// Schema version of the line; see [`SCHEMA`].
    pub schema: u32,
    /// The message: a request or an answer.
    #[serde(flatten)]
    pub said: T,
}

/// A request from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Report the status once.
    Status,
    /// Report the status whenever it changes, until the migration is over.
    Watch,
    /// Cancel the migration safely.
    Cancel,
    /// Set new limits, with times in microseconds. An absent limit stays as it is.
    Set {
        /// The limit on the pause, in microseconds.
        #[serde(default)]
        max_suspend_us: Option<u64>,
        /// The limit on the time until the suspend, in microseconds.
        #[serde(default)]
        timeout_us: Option<u64>,
        /// The bandwidth cap until the suspend, in bytes a second; 0 removes it.
        #[serde(default)]
        bandwidth: Option<u64>,
    },
    /// Suspend without another round, if the pause fits.
    SwitchNow,
}

/// An answer from the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Answer {
    /// The status of the migration.
    Status(Box<Status>),
    /// The request was carried out, or will be.
    Done {
        /// What was done, as one sentence.
        said: String,
    },
    /// The request was refused; the migration goes on as before.
    Refused {
        /// Why the request was refused, as one sentence.
        why: String,
    },
}

/// The status of a migration. Times are in milliseconds from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The guest's domain id at the source.
    pub domid: u16,
    /// The guest's name, if the client has found it out.
    #[serde(default)]
    pub name: Option<String>,
    /// Process id of the process that answers: the helper, or `lull migrate`.
    pub helper_pid: u32,
    /// The current phase of the migration.
    pub phase: Phase,
    /// When this status was taken.
    pub at_ms: u64,
    /// The limit on the pause in milliseconds, if there is one.
    pub limit_ms: Option<u64>,
    /// The limit on the time until the suspend in milliseconds, if there is one.
    pub timeout_ms: Option<u64>,
    /// The bandwidth cap until the suspend in bytes a second, if there is one.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// Number of populated pages of the guest; 0 before they are counted.
    pub guest_pages: u64,
    /// How far the current round has come.
    pub progress: Option<Progress>,
    /// The rounds before it, at most the last [`ROUNDS`].
    pub rounds: VecDeque<Round>,
    /// How the migration ended, as far as the answering process can tell.
    pub ended: Option<End>,
}

/// The maximum number of rounds that a [`Status`] holds.
pub const ROUNDS: usize = 32;

/// The phase of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The stub is being built, and the guest's frames are being listed.
    Preparing,
    /// Pages are being copied while the guest runs.
    Copying,
    /// The guest was asked to suspend.
    Suspending,
    /// The guest has stopped, and its last pages are being sent.
    LastRound,
    /// All pages are sent, and the CPU state is being sent.
    Finishing,
    /// The stream is complete. The destination has the guest, and will report whether
    /// it can run there.
    Landing,
    /// The migration was given up; the guest runs at the source.
    Ended,
}

/// See [`Status::ended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How the helper's part ended.
    pub how: How,
    /// The reason as one sentence; empty when the stream is complete.
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
