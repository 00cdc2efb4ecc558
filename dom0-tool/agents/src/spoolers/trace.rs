//! `lull keep-trace`, the process that the helper starts for each trace.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lull_store::spool::{Folder, spooler};
use lull_store::trace::{FOLDER, MAX_FILE_BYTES, RETENTION};
use lull_xen::DomId;

/// The options of `lull keep-trace`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Whose trace it is
    domain: DomId,

    /// Where traces are kept
    #[arg(long, default_value = FOLDER)]
    folder: PathBuf,
}

/// Runs `lull keep-trace`: holds one trace until its attempt is over, and writes it.
pub fn main(options: &Options) -> ExitCode {
    spooler::begin();
    let folder = Folder::at(&options.folder, RETENTION);
    let name = options.domain.to_string();
    spooler::keep("trace", &folder, &name, MAX_FILE_BYTES, |_| {})
}
