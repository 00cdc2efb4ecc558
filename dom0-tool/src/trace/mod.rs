//! The trace of an attempt: everything dom0's machine was told and everything
//! it decided, one JSON object per line ([`lines`]).
//!
//! The helper must not wait for a disk: until it exits, libxl does not go on,
//! and the guest is paused. So it hands the lines ([`Recorder`]) through a pipe
//! to a second process ([`keeper`]), which holds them in memory until the
//! helper is gone, whatever it died of, and only then writes them to the
//! [`folder`]. A trace may be lost; an attempt is never lost to it.
//!
//! `lull replay` reads it back.

pub mod folder;
pub mod keeper;
pub mod lines;
mod recorder;

pub use recorder::{Recorder, Unrecorded};

/// Bytes of a trace at most; what comes after is left out, and the last line
/// says how much that was. About a million batches: 4 TiB of guest memory.
pub const LARGEST: usize = 64 << 20;

/// Bytes of a line at most.
pub const LONGEST_LINE: usize = 4 << 10;
