//! The engine of a fast landing: a process of `lull migrate`'s own, since libxl's
//! helper has long ended when the guest stops. Not a thread: a `lull migrate`
//! that is killed, or whose terminal is stuck, leaves somebody who keeps the
//! deadline.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lull_wire::events::FRONT_END_FD;
use rustix::io::{FdFlags, fcntl_setfd};

use super::xl::Plan;
use crate::control::claim::{CLAIM_FD, Claim};
use crate::land::caller::Call;

/// How long it, and what leads to `lull land`, may outlive the attempt.
const LEAVING: Duration = Duration::from_secs(10);

/// Between two looks whether they have ended.
const LOOK: Duration = Duration::from_millis(5);

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    process: Child,
    land: Child,
}

/// What leads to the engine, for others to inherit.
#[derive(Debug)]
pub struct Inherited {
    /// For libxl's helper.
    pub helper: UnixStream,
    /// For the transport.
    pub transport: UnixStream,
}

impl Engine {
    /// Starts it; `front_end` is its line to us, `words` where it may complain.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        plan: &Plan<'_>,
        call: Call,
        front_end: UnixStream,
        words: PipeWriter,
    ) -> io::Result<(Self, Inherited)> {
        let (from_helper, helper) = UnixStream::pair()?;
        let (to_transport, transport) = UnixStream::pair()?;
        let (to, from, land) = call.into_parts();
        // It alone inherits these: were they open elsewhere, nobody would see
        // another's end.
        for fd in [
            front_end.as_fd(),
            from_helper.as_fd(),
            to_transport.as_fd(),
            to.as_fd(),
            from.as_fd(),
        ] {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        let claim = plan.claim.map(Claim::hand_down).transpose()?;
        if let Some(claim) = &claim {
            fcntl_setfd(claim, FdFlags::empty())?;
        }
        let number = |fd: &dyn AsRawFd| fd.as_raw_fd().to_string();
        let mut command = Command::new(plan.lull);
        command
            .arg("engine")
            .args(["--helper", &number(&from_helper)])
            .args(["--transport", &number(&to_transport)])
            .args(["--to-land", &number(&to)])
            .args(["--from-land", &number(&from)])
            .env(FRONT_END_FD, number(&front_end))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            // The terminal's signals are lull migrate's to hear.
            .process_group(0);
        if let Some(claim) = &claim {
            command.env(CLAIM_FD, number(claim));
        }
        plan.instruct(&mut command);
        let process = command.spawn()?;
        Ok((Self { process, land }, Inherited { helper, transport }))
    }

    /// The attempt is over.
    pub fn end(mut self) {
        let until = Instant::now() + LEAVING;
        for child in [&mut self.process, &mut self.land] {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        }
        // What leads to `lull land` has nothing more to carry. The engine may be
        // undoing something that takes its time.
        let _ = self.land.kill();
        let _ = self.land.wait();
    }
}
