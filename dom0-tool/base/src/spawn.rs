//! Programs that ^C and ^Z must not reach.

use std::ffi::OsStr;
use std::process::Command;

/// xl, ssh and the helper share the terminal, and with it ^C and ^Z. Only lull may act on
/// these: a half-dead xl cannot undo anything, and a stopped one would keep the guest
/// paused. What a shell ignores stays ignored in what it executes.
const IGNORE: &str = r#"trap "" INT HUP TERM QUIT TSTP; exec "$@""#;

/// Starts `program` with the terminal's signals ignored.
pub fn ignoring_tty_signals(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", IGNORE, "sh"]).arg(program);
    command
}

/// The same for a command line of a shell.
pub fn shell_ignoring_tty_signals(line: &str) -> Command {
    let mut command = ignoring_tty_signals("/bin/sh");
    command.args(["-c", line]);
    command
}
