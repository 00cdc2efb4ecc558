//! Starts programs that must not receive ^C and ^Z.

use std::ffi::OsStr;
use std::process::Command;

/// xl, ssh and the helper share the terminal and would receive its ^C and ^Z. Only lull
/// may act on these: an xl that is half dead cannot undo anything, and a stopped one
/// would keep the guest paused. A signal that a shell ignores stays ignored in the
/// program it executes.
const IGNORE: &str = r#"trap "" INT HUP TERM QUIT TSTP; exec "$@""#;

/// Starts `program` with the terminal's signals ignored.
pub fn ignoring_tty_signals(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", IGNORE, "sh"]).arg(program);
    command
}

/// Runs a shell command line with the terminal's signals ignored.
pub fn shell_ignoring_tty_signals(line: &str) -> Command {
    let mut command = ignoring_tty_signals("/bin/sh");
    command.args(["-c", line]);
    command
}
