//! `lull keep-run`, which whoever records an attempt starts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{FOLDER, LARGEST, MOST};
use crate::kept::{Folder, keeper};

/// The hidden subcommand that makes this binary a keeper.
pub const SUBCOMMAND: &str = "keep-run";

/// The options of `lull keep-run`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Whose attempt it is
    guest: String,

    /// Where runs are kept
    #[arg(long, default_value = FOLDER)]
    folder: PathBuf,
}

/// Keeps one run.
pub fn main(options: &Options) -> ExitCode {
    let folder = Folder::at(&options.folder, MOST);
    keeper::keep("record", &folder, &options.guest, LARGEST, |_| {})
}
