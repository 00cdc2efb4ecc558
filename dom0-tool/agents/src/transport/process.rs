//! The program that connects to the destination: ssh, or the one the operator named.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use lull_base::child::{kill, wait_or_kill};
use lull_base::ready;
use lull_wire::spec;
use rustix::event::{PollFd, PollFlags};
use rustix::io::read;

use super::relay::RelayOutcome;
use super::{INHERITED, OTHERS};

/// Time that a refused destination has to clear up. Its output is read all the while,
/// because a receiver that cannot write leaves its copy behind. A receiver that hangs may
/// recover.
const CLEARING_UP: Duration = Duration::from_secs(300);

/// Time that the program may outlive its connection.
const LEAVING: Duration = Duration::from_secs(10);

/// The running program that connects to the destination.
pub struct Transport {
    child: Child,
}

impl Transport {
    /// Starts the program. The arguments are used as they are, or, with `shell`, as one
    /// command line for a shell, as xl does it. Its standard error goes to `words` if that
    /// is given.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        shell: bool,
        command: &[OsString],
        words: Option<OwnedFd>,
    ) -> anyhow::Result<Self> {
        let mut command = match (shell, command) {
            (true, [line]) => {
                let mut command = Command::new("sh");
                command.arg("-c").arg(line);
                command
            }
            (false, [program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            _ => anyhow::bail!("one command for the shell, or a program and its arguments"),
        };
        let name = command.get_program().to_string_lossy().into_owned();
        for variable in INHERITED.into_iter().chain(OTHERS) {
            command.env_remove(variable);
        }
        let child = command
            .env_remove(spec::VARIABLE)
            .stderr(words.map_or_else(Stdio::inherit, Stdio::from))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{name}` cannot be started"))?;
        Ok(Self { child })
    }

    /// Takes the pipe that leads to the destination.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn input(&mut self) -> anyhow::Result<OwnedFd> {
        Ok(self.child.stdin.take().context("taken")?.into())
    }

    /// Takes the pipe that comes from the destination.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn output(&mut self) -> anyhow::Result<OwnedFd> {
        Ok(self.child.stdout.take().context("taken")?.into())
    }

    /// Waits for the program to end, as `outcome` requires. Returns its exit code.
    pub fn end(mut self, outcome: RelayOutcome) -> ExitCode {
        match outcome {
            RelayOutcome::Ended => {}
            RelayOutcome::HungUp(None) => {
                wait_or_kill(&mut self.child, Instant::now() + LEAVING);
            }
            RelayOutcome::HungUp(Some(rest)) => {
                let until = Instant::now() + CLEARING_UP;
                read_out(&rest, until);
                // Its output has ended, or its time is over: nothing more is read from it.
                let left = until.saturating_duration_since(Instant::now());
                wait_or_kill(&mut self.child, Instant::now() + LEAVING.min(left));
            }
            RelayOutcome::NothingBegun | RelayOutcome::NoReport => kill(&mut self.child),
        }
        match self.child.wait() {
            Ok(status) => code(status),
            Err(_) => ExitCode::FAILURE,
        }
    }
}

/// Reads from `from` and drops what comes, to its end or until then.
pub fn read_out(from: &OwnedFd, until: Instant) {
    let mut nowhere = [0; 4096];
    loop {
        let mut fds = [PollFd::new(from, PollFlags::IN)];
        if !ready::wait_until(&mut fds, until).unwrap_or(false) {
            return;
        }
        match read(from, &mut nowhere) {
            Ok(1..) | Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Converts an exit status to an exit code as a shell does.
fn code(status: ExitStatus) -> ExitCode {
    let number = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    u8::try_from(number).map_or(ExitCode::FAILURE, ExitCode::from)
}
