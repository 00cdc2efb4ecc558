//! A second process that clears the stage should the first die, by whatever
//! signal: it holds the other end of a pipe, and hears the silence.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::stage::Stage;
use crate::host::Host;

/// The hidden subcommand that makes this binary a guard.
pub const SUBCOMMAND: &str = "guard-rehearsal";

/// What is said when there is nothing left to clear.
const DONE: u8 = b'.';

/// xl and lull's helper may be at work on the guest yet, and it may come back:
/// so long nothing must have been seen of it.
const QUIET: Duration = Duration::from_secs(10);

/// And so long it is waited for at most.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The guard, as whoever is guarded sees it. Dropped, it begins its work.
pub struct Guard {
    child: Child,
    line: ChildStdin,
}

impl Guard {
    /// Starts it, deaf to the terminal.
    ///
    /// # Errors
    /// When no process can be started.
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

    /// Nothing is left to be cleared.
    pub fn dismiss(mut self) {
        // One that is gone needs no telling.
        let _ = self.line.write_all(&[DONE]);
        drop(self.line);
        let _ = self.child.wait();
    }
}

/// The guard's life.
pub fn main() -> ExitCode {
    let mut heard = Vec::new();
    let _ = io::stdin().lock().take(1).read_to_end(&mut heard);
    if heard == [DONE] {
        return ExitCode::SUCCESS;
    }
    match Host::default().check() {
        Ok(xl) => clear(&xl),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Until nothing is left, nor comes.
fn clear(xl: &Path) -> ExitCode {
    let until = Instant::now() + PATIENCE;
    let mut quiet_since = Instant::now();
    while Instant::now() < until {
        match Stage::clear_left(xl) {
            // Another rehearsal has taken the stage, and cleared it.
            Ok(None) => return ExitCode::SUCCESS,
            Ok(Some(0)) if quiet_since.elapsed() >= QUIET => {
                return match Stage::clear_left_there() {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(_) => ExitCode::FAILURE,
                };
            }
            Ok(Some(0)) => {}
            Ok(Some(_)) | Err(_) => quiet_since = Instant::now(),
        }
        thread::sleep(LOOK);
    }
    ExitCode::FAILURE
}
