//! `lull keep-run`, the process that `runs::Recorder` starts for each attempt.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lull_store::metrics::Metrics;
use lull_store::runs::{FOLDER, MAX_FILE_BYTES, RETENTION, Run};
use lull_store::spool::{Folder, spooler};

/// The options of `lull keep-run`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Whose attempt it is
    guest: String,

    /// Where runs are kept
    #[arg(long, default_value = FOLDER)]
    folder: PathBuf,
}

/// Keeps one run and counts it in the metrics.
pub fn main(options: &Options) -> ExitCode {
    spooler::begin();
    let folder = Folder::at(&options.folder, RETENTION);
    let metrics = options.folder.parent().map(Metrics::of);
    let begun = metrics.as_ref().map(Metrics::begun);
    let running = begun.and_then(|begun| begun.map_err(|error| not_counted(&error)).ok());
    spooler::keep(
        "record",
        &folder,
        &options.guest,
        MAX_FILE_BYTES,
        |record| {
            let counted = Run::read(&options.guest, record)
                .and_then(|run| metrics.map_or(Ok(()), |metrics| metrics.over(running, &run)));
            if let Err(error) = counted {
                not_counted(&error);
            }
        },
    )
}

fn not_counted(error: &io::Error) {
    eprintln!(
        "lull: warning: this attempt is not in the metrics ({error}); the attempt is not affected"
    );
}
