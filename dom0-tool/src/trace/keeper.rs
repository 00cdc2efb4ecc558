//! The process that holds a trace until the attempt is over, and then writes
//! it.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::LARGEST;
use super::folder::{self, Folder};
use crate::xen::DomId;

/// The hidden subcommand that makes this binary a keeper.
pub const SUBCOMMAND: &str = "keep-trace";

/// The options of `lull keep-trace`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Whose trace it is
    domain: DomId,

    /// Where traces are kept
    #[arg(long, default_value = folder::PATH)]
    folder: PathBuf,
}

/// A disk that takes longer is not waited for: whoever reads what this process
/// says waits for its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keeper's life: standard input until its end, then the file.
pub fn main(options: &Options) -> ExitCode {
    let mut trace = Vec::new();
    let most = LARGEST as u64 + 1;
    if let Err(error) = io::stdin().lock().take(most).read_to_end(&mut trace) {
        return lost(options, &error);
    }
    if trace.is_empty() {
        return ExitCode::SUCCESS;
    }
    let late = options.clone();
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        lost(&late, &io::Error::other("the disk does not answer"));
        std::process::exit(1);
    });
    match Folder::at(&options.folder).keep(options.domain, &trace) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => lost(options, &error),
    }
}

fn lost(options: &Options, error: &io::Error) -> ExitCode {
    eprintln!(
        "lull: warning: the trace of this attempt is lost ({}: {error}); the attempt is not affected",
        options.folder.display()
    );
    ExitCode::FAILURE
}
