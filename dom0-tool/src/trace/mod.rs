//! The trace of an attempt: everything dom0's machine was told and everything
//! it decided, one JSON object per line ([`trace`](lull_wire::trace)).
//!
//! The helper hands the lines ([`Recorder`]) to a process that keeps them until
//! it is gone ([`kept`](crate::kept)).
//!
//! `lull replay` reads it back.

pub mod keeper;
mod recorder;

use crate::kept::folder::Most;

pub use recorder::{Recorder, Unrecorded};

/// Where traces are kept.
pub const FOLDER: &str = "/var/lib/lull/traces";

/// And how many.
pub const MOST: Most = Most {
    files: 64,
    bytes: 256 << 20,
};

/// Bytes of a trace at most; what comes after is left out, and the last line
/// says how much that was. About a million batches: 4 TiB of guest memory.
pub const LARGEST: usize = 64 << 20;

/// Bytes of a line at most.
pub const LONGEST_LINE: usize = 4 << 10;
