//! The trace of an attempt: every event that dom0's machine received and every decision it
//! took, one JSON object per line ([`trace`](lull_wire::trace)).
//!
//! The helper sends the lines ([`Recorder`]) to a process that keeps them until the helper
//! has exited ([`spool`](crate::spool)).
//!
//! `lull replay` reads the trace back.

use crate::spool::folder::Retention;

mod recorder;

pub use recorder::{Recorder, Unrecorded};

/// The hidden subcommand that makes this binary a spooler of one trace.
pub const SUBCOMMAND: &str = "keep-trace";

/// The folder in which traces are kept.
pub const FOLDER: &str = "/var/lib/lull/traces";

/// The most traces that the folder keeps.
pub const RETENTION: Retention = Retention {
    files: 64,
    bytes: 256 << 20,
};

/// The largest trace in bytes. Lines beyond that are left out, and the last line gives
/// their number. This is about a million batches: 4 TiB of guest memory.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// The longest line in bytes.
pub const MAX_LINE_BYTES: usize = 4 << 10;
