//! A second process that removes the probe guest if the first one dies, by whatever signal.
//! It holds the other end of a pipe and sees it close.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lull_xen::host::Host;

use super::workdir::Workdir;

/// The hidden subcommand that makes this binary a guard.
pub const SUBCOMMAND: &str = "guard-rehearsal";

/// The byte that says that there is nothing left to remove.
const DONE: u8 = b'.';

/// How long the guest must not have been seen. xl and lull's helper may still be working on
/// it, so it may reappear.
const QUIET: Duration = Duration::from_secs(10);

/// The longest time for which the guard waits for that.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The interval between two checks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The guard, as its parent sees it. Dropping it makes the guard start its work.
pub struct Guard {
    child: Child,
    line: ChildStdin,
}

impl Guard {
    /// Starts the guard, which ignores signals from the terminal.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn start(lull: &Path) -> io::Result<Self> {
        let mut child = Command::new(lull)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let line = child.stdin.take();
        let line = line.ok_or_else(|| io::Error::other("a pipe is missing"))?;
        Ok(Self { child, line })
    }

    /// Ends the guard, because nothing is left to remove.
    pub fn dismiss(mut self) {
        // A guard that has exited needs no message.
        let _ = self.line.write_all(&[DONE]);
        drop(self.line);
        let _ = self.child.wait();
    }
}

pub fn main() -> ExitCode {
    let mut received = Vec::new();
    let _ = io::stdin().lock().take(1).read_to_end(&mut received);
    if received == [DONE] {
        return ExitCode::SUCCESS;
    }
    match Host::default().check() {
        Ok(xl) => clear(&xl),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Removes the guest until nothing is left and nothing reappears.
fn clear(xl: &Path) -> ExitCode {
    let until = Instant::now() + TIMEOUT;
    let mut quiet_since = Instant::now();
    while Instant::now() < until {
        match Workdir::clear_left(xl) {
            // Another rehearsal holds the folder and has cleared it.
            Ok(None) => return ExitCode::SUCCESS,
            Ok(Some(0)) if quiet_since.elapsed() >= QUIET => {
                return match Workdir::clear_left_there() {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(_) => ExitCode::FAILURE,
                };
            }
            Ok(Some(0)) => {}
            Ok(Some(_)) | Err(_) => quiet_since = Instant::now(),
        }
        thread::sleep(POLL_INTERVAL);
    }
    ExitCode::FAILURE
}
