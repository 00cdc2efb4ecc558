//! Starts the engine of a fast landing. It is a process of `lull migrate`, because libxl's
//! helper has long ended when the guest stops. It is not a thread: if `lull migrate` is
//! killed or its terminal blocks, the engine still keeps the deadline.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lull_base::child;
use lull_store::running::claim::{CLAIM_FD, Claim};
use lull_wire::events::FRONT_END_FD;
use lull_wire::spec::VARIABLE;
use rustix::io::{FdFlags, fcntl_setfd};

use super::xl::Plan;
use crate::landing::caller::{Call, Parts};

/// Time that the engine, and the process that leads to `lull land`, may outlive the
/// attempt.
const LEAVING: Duration = Duration::from_secs(10);

/// A running engine, and the processes that lead to `lull land`.
#[derive(Debug)]
pub struct Engine {
    process: Child,
    land: Vec<Child>,
}

/// The sockets to the engine, for other processes to inherit.
#[derive(Debug)]
pub struct Inherited {
    /// The socket for libxl's helper.
    pub helper: UnixStream,
    /// The socket for the transport.
    pub transport: UnixStream,
}

impl Engine {
    /// Starts the engine, which reads `spec`. `front_end` is its connection to this process; errors go to
    /// `output`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        plan: &Plan<'_>,
        spec: &str,
        call: Call,
        front_end: UnixStream,
        output: PipeWriter,
    ) -> io::Result<(Self, Inherited)> {
        let (from_helper, helper) = UnixStream::pair()?;
        let (to_transport, transport) = UnixStream::pair()?;
        let version = call.edition().version().to_string();
        let Parts {
            to,
            from,
            child,
            further,
        } = call.into_parts();
        // Only the engine inherits these. A copy in another process would hide the end of
        // the process at the other side.
        for fd in [
            front_end.as_fd(),
            from_helper.as_fd(),
            to_transport.as_fd(),
            to.as_fd(),
            from.as_fd(),
        ]
        .into_iter()
        .chain(
            further
                .iter()
                .flat_map(|it| [it.to.as_fd(), it.from.as_fd()]),
        ) {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        let claim = plan.claim.map(Claim::for_child).transpose()?;
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
            .args(["--land", &version])
            .args(further.iter().map(|it| {
                format!(
                    "--further={}:{}:{}",
                    it.number,
                    number(&it.to),
                    number(&it.from)
                )
            }))
            .env(FRONT_END_FD, number(&front_end))
            .env(VARIABLE, spec)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            // Signals of the terminal go to `lull migrate` only.
            .process_group(0);
        if let Some(claim) = &claim {
            command.env(CLAIM_FD, number(claim));
        }
        let process = command.spawn()?;
        let further = further.into_iter().map(|it| it.child);
        let land = std::iter::once(child).chain(further).collect();
        Ok((Self { process, land }, Inherited { helper, transport }))
    }

    /// Waits for the engine to end after the attempt, and ends the connections to `lull
    /// land`.
    pub fn end(mut self) {
        let until = Instant::now() + LEAVING;
        child::wait_until(&mut self.process, until);
        for process in &mut self.land {
            child::wait_until(process, until);
            // The connection to `lull land` has nothing more to carry. The engine is not
            // killed, because it may still be undoing something slow.
            child::kill(process);
        }
    }
}
