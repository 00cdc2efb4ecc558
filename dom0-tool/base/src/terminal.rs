//! Prints lines on standard output and standard error.

use std::io::Write;

use crate::text::printable_lines;

/// Prints one or more lines on standard output. Control characters are removed; a closed
/// pipe is ignored.
pub fn to_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", printable_lines(text)).and_then(|()| out.flush());
}

/// Prints one or more lines on standard error, in the same way.
pub fn to_stderr(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(text));
}
