//! What was told of each attempt, one file for each: the lines of `--json`
//! after one that says whose it is. For `lull report`, and counted in the
//! [`metrics`](crate::metrics).
//!
//! `lull migrate` keeps it, or the helper where xl or libvirt were called
//! without it: then how the guest arrived is not in it. It is written by a
//! process of its own ([`kept`](crate::kept)) when the attempt is over.

pub mod keeper;
pub mod recorder;
pub mod run;

pub use recorder::Recorder;
pub use run::Run;

use crate::kept::folder::Most;

/// Where they are kept.
pub const FOLDER: &str = "/var/lib/lull/runs";

/// And how many.
pub const MOST: Most = Most {
    files: 256,
    bytes: 64 << 20,
};

/// Bytes of one at most; what comes after is left out, but not the end.
pub const LARGEST: usize = 4 << 20;
