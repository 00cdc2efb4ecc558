//! The record of each attempt, one file per attempt: the lines of `--json`, after one that
//! names the guest. `lull report` reads the records, and the [`metrics`](crate::metrics)
//! count them.
//!
//! `lull migrate` keeps the record. If xl or libvirt were called without it, the helper
//! does, and the record then lacks how the guest arrived. A process of its own
//! ([`spool`](crate::spool)) writes it when the attempt is over.

use crate::spool::folder::Retention;

pub mod recorder;
pub mod run;

pub use recorder::Recorder;
pub use run::Run;

/// The hidden subcommand that makes this binary a spooler of one record.
pub const SUBCOMMAND: &str = "keep-run";

/// The folder in which runs are kept.
pub const FOLDER: &str = "/var/lib/lull/runs";

/// The most runs that the folder keeps.
pub const RETENTION: Retention = Retention {
    files: 256,
    bytes: 64 << 20,
};

/// The largest record in bytes. Lines beyond that are left out, but never the last ones.
pub const MAX_FILE_BYTES: usize = 4 << 20;
