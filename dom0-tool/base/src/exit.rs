//! How several commands end: what they print last, and their exit code.

use std::fmt::Display;
use std::process::ExitCode;

use crate::terminal::{to_stderr, to_stdout};

/// The command did nothing: the usage was wrong, the host is not ready, or there
/// is nothing to show.
pub const NOT_BEGUN: u8 = 2;

/// Prints why nothing was done, and returns [`NOT_BEGUN`].
pub fn not_begun(why: &dyn Display) -> ExitCode {
    to_stderr(&format!("lull: {why:#}"));
    NOT_BEGUN.into()
}

/// Prints what was done and returns success, or why nothing was and [`NOT_BEGUN`].
pub fn done_or_not<E: Display>(done: Result<String, E>) -> ExitCode {
    match done {
        Ok(words) => {
            to_stdout(&words);
            ExitCode::SUCCESS
        }
        Err(why) => not_begun(&why),
    }
}
