//! What really connects to the destination: ssh, or what the operator named.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use lull_wire::events;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::read;

use super::INHERITED;
use super::relay::Parting;
use crate::helper::handed::ENGINE_FD;

/// How long a destination that was refused may take to clear up. It is read
/// from all the while: one that cannot write leaves its copy behind. A hung
/// one may wake up.
const CLEARING_UP: Duration = Duration::from_secs(300);

/// How long the transport may outlive its connection.
const LEAVING: Duration = Duration::from_secs(10);

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// The running transport.
pub struct Transport {
    child: Child,
}

impl Transport {
    /// Starts it: the words as they are, or the one command through a shell,
    /// as xl would. What it prints goes to `words`, if there is such a place.
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
        for variable in INHERITED {
            command.env_remove(variable);
        }
        let child = command
            .env_remove(events::FRONT_END_FD)
            .env_remove(ENGINE_FD)
            .stderr(words.map_or_else(Stdio::inherit, Stdio::from))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{name}` cannot be started"))?;
        Ok(Self { child })
    }

    /// The end that goes to the destination.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn input(&mut self) -> anyhow::Result<OwnedFd> {
        Ok(self.child.stdin.take().context("taken")?.into())
    }

    /// The end that comes from it.
    ///
    /// # Errors
    /// When it was taken before.
    pub fn output(&mut self) -> anyhow::Result<OwnedFd> {
        Ok(self.child.stdout.take().context("taken")?.into())
    }

    /// Waits for its end as the parting asks; its exit code is ours.
    pub fn end(mut self, parting: Parting) -> ExitCode {
        match parting {
            Parting::Ended => {}
            Parting::HungUp(None) => self.leave_or_kill(Instant::now() + LEAVING),
            Parting::HungUp(Some(rest)) => {
                let until = Instant::now() + CLEARING_UP;
                read_out(&rest, until);
                // Its output has ended, or its time: it has nothing to say.
                self.leave_or_kill(Instant::now() + LEAVING.min(until - Instant::now()));
            }
            Parting::NothingBegun | Parting::NoReport => self.kill(),
        }
        match self.child.wait() {
            Ok(status) => code(status),
            Err(_) => ExitCode::FAILURE,
        }
    }

    fn leave_or_kill(&mut self, until: Instant) {
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return,
                _ if Instant::now() >= until => return self.kill(),
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    fn kill(&mut self) {
        // Gone already: as good.
        let _ = self.child.kill();
    }
}

fn read_out(from: &OwnedFd, until: Instant) {
    let mut nowhere = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
            Ok(_) => match read(from, &mut nowhere) {
                Ok(1..) | Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => return,
            },
        }
    }
}

/// As a shell has it.
fn code(status: ExitStatus) -> ExitCode {
    let number = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    u8::try_from(number).map_or(ExitCode::FAILURE, ExitCode::from)
}
