//! Stock `xl migrate`, started so that it uses lull as its save helper.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, PipeReader};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::Migrate;
use crate::events::FRONT_END_FD;
use crate::host::Guest;
use crate::ledger::Costs;

/// xl, ssh and the helper share the terminal, and with it ^C and ^Z. Only lull
/// may act on these: a half-dead xl cannot undo anything, and a stopped one
/// would keep the guest paused. What is ignored stays ignored across exec.
const DEAF: &str = r#"trap "" INT HUP TERM QUIT TSTP; exec "$@""#;

/// What is needed to start it.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Where xl is.
    pub xl: &'a Path,
    /// Where lull is.
    pub lull: &'a Path,
    /// Whom to move.
    pub guest: &'a Guest,
    /// Where to, how.
    pub options: &'a Migrate,
    /// Bounds for the helper.
    pub costs: Costs,
}

/// A started xl.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub process: Child,
    /// What it and the destination print.
    pub words: PipeReader,
    /// The helper's line to us.
    pub helper: UnixStream,
}

impl Plan<'_> {
    /// Starts xl.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(&self) -> io::Result<Started> {
        let (words, write_end) = io::pipe()?;
        let (ours, theirs) = UnixStream::pair()?;
        // The one descriptor that is to reach the helper, through sh, xl and
        // libxl.
        fcntl_setfd(&theirs, FdFlags::empty())?;

        let mut command = Command::new("/bin/sh");
        command.args(["-c", DEAF, "sh"]).arg(self.xl);
        command.args(self.arguments());
        command.env("LIBXL_SAVE_HELPER", self.lull);
        command.env(FRONT_END_FD, theirs.as_raw_fd().to_string());
        for (variable, value) in self.variables() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        // ssh asks for passwords on the terminal, not here.
        command.stdin(Stdio::null());
        command.stdout(write_end.try_clone()?);
        command.stderr(write_end);
        let process = command.spawn()?;
        Ok(Started {
            process,
            words,
            helper: ours,
        })
    }

    fn arguments(&self) -> Vec<OsString> {
        let options = self.options;
        let mut arguments = vec![OsString::from("migrate")];
        let mut push = |argument: &OsStr| arguments.push(argument.to_owned());
        if let Some(ssh) = &options.ssh {
            push("-s".as_ref());
            push(ssh.as_ref());
        }
        if let Some(config) = &options.config {
            push("-C".as_ref());
            push(config.as_ref());
        }
        if options.no_monitor {
            push("-e".as_ref());
        }
        if options.leave_paused {
            push("-p".as_ref());
        }
        if options.debug {
            push("--debug".as_ref());
        }
        // By number: it is this guest that was checked, whatever is renamed.
        push(self.guest.domid.to_string().as_ref());
        push(options.host.as_ref());
        arguments
    }

    /// What the helper is told. Absent limits are removed: one left over in
    /// the operator's environment was not asked for here.
    fn variables(&self) -> [(&'static str, Option<String>); 5] {
        let options = self.options;
        let micros = |span: Option<crate::duration::Span>| span.map(|s| s.as_micros().to_string());
        [
            ("LULL_MAX_SUSPEND_TIME_US", micros(options.max_suspend_time)),
            ("LULL_TIMEOUT_US", micros(options.timeout)),
            ("LULL_DESTINATION", Some(options.host.clone())),
            (
                "LULL_VERBOSE",
                (options.verbose > 0).then(|| options.verbose.to_string()),
            ),
            (Costs::VARIABLE, Some(self.costs.to_variable())),
        ]
    }
}

/// What [`end_transport`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Ended: xl will notice and give up by itself.
    Ended,
    /// The helper is at work, so that ending the transport is its business; or
    /// there is none yet.
    LeftAlone,
}

/// Ends the process that connects xl to the destination, when xl still waits
/// for the connection: an unreachable host keeps ssh trying for minutes. xl
/// then fails in its own, orderly way.
pub fn end_transport(xl: u32, lull: &Path) -> Transport {
    let children = children(xl);
    let is_helper = |pid: &Pid| {
        let path = format!("/proc/{}/exe", pid.as_raw_nonzero());
        fs::read_link(path).is_ok_and(|exe| exe == lull)
    };
    if children.is_empty() || children.iter().any(is_helper) {
        return Transport::LeftAlone;
    }
    for child in children {
        // It ignores gentler signals, as everything below xl does. Gone
        // already: as good.
        let _ = kill_process(child, Signal::KILL);
    }
    Transport::Ended
}

fn children(parent: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    list.unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw))
        .collect()
}
