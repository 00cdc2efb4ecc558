//! A terminal without a viewer, for commands that draw on one.

use std::fs::File;
use std::io::{Write, copy, stdout};
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const SIZE: Winsize = Winsize {
    ws_row: 30,
    ws_col: 100,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// Runs a shell command on a terminal. All that it draws goes to standard output, and its
/// exit code becomes that of the agent.
pub fn run(command: &str) -> Result<()> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).context("no terminal")?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, SIZE)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let mut child = Command::new("setsid")
        .args(["-c", "-w", "sh", "-c", command])
        .env("TERM", "xterm")
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()
        .context("setsid")?;
    show(ours);
    let status = child.wait()?;
    std::process::exit(status.code().unwrap_or(1))
}

/// Copies the output until no process has the terminal open, which shows as a read error.
fn show(terminal: OwnedFd) {
    let mut out = stdout();
    let _ = copy(&mut File::from(terminal), &mut out);
    let _ = out.flush();
}
