//! Stock `xl migrate`, started so that it uses lull as its save helper.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};

use lull_agents::helper::pass_stream::ENGINE_FD;
use lull_agents::transport::{self, gate_channel::GateChannel};
use lull_base::duration::Span;
use lull_base::spawn::ignoring_tty_signals;
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::Micros;
use lull_store::ledger::{Known, Machine, saturating_micros};
use lull_store::running::claim::{CLAIM_FD, Claim};
use lull_store::running::folder::Folder;
use lull_wire::events::{FRONT_END_FD, Landing};
use lull_wire::spec::{MigrationSpec, VARIABLE};
use lull_xen::host::Guest;
use rustix::io::{FdFlags, fcntl_setfd};

use crate::cli::Migrate;
use crate::landing::caller::Call;

use super::engine::Engine;
use super::transport::arguments;

/// Everything that is needed to start xl.
#[derive(Debug)]
pub struct Plan<'a> {
    pub xl: &'a Path,
    pub lull: &'a Path,
    /// The guest to move.
    pub guest: &'a Guest,
    /// The options, including the destination.
    pub options: &'a Migrate,
    /// What is known of earlier pauses to that destination.
    pub known: &'a Known,
    /// The folder of the control sockets.
    pub control: &'a Folder,
    /// The landing that the guest uses.
    pub landing: Landing,
    /// The claim that prevents another attempt on this guest.
    pub claim: Option<&'a Claim>,
    /// When the operator's command started, in nanoseconds of `CLOCK_MONOTONIC`. The timeout
    /// counts from here: the questions to the destination take a part of it.
    pub begun: u64,
}

/// A started xl, and the connections to its helper and transport.
#[derive(Debug)]
pub struct Started {
    pub process: Child,
    /// What xl prints, and nothing else.
    pub xl_output: PipeReader,
    /// What the destination and the program that connects to it print.
    pub destination_output: PipeReader,
    /// The connection from the helper.
    pub helper: UnixStream,
    /// The connection from the transport.
    pub transport: UnixStream,
    /// The connection to the transport.
    pub gate: GateChannel,
    /// The engine of a fast landing.
    pub engine: Option<Engine>,
}

impl Plan<'_> {
    /// Starts xl. If a `lull land` waits, the engine is started first, and its events are
    /// read in place of the helper's.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start(&self, call: Option<Call>) -> io::Result<Started> {
        let (xl_output, write_end) = io::pipe()?;
        let (destination_output, write_end_there) = io::pipe()?;
        let (helper, for_helper) = UnixStream::pair()?;
        let (transport, for_transport) = UnixStream::pair()?;
        // The descriptors that helper and transport inherit through sh, xl and libxl.
        let mut inherited_fds: Vec<(&str, OwnedFd)> =
            vec![(transport::FRONT_END_FD, for_transport.into())];
        let spec = self.spec().encode();
        let engine = match call {
            None => {
                let (to_transport, for_transport) = UnixStream::pair()?;
                inherited_fds.push((FRONT_END_FD, for_helper.into()));
                inherited_fds.push((transport::GATE_FD, to_transport.into()));
                inherited_fds.push((transport::ENGINE_FD, for_transport.into()));
                None
            }
            Some(call) => {
                let output = write_end_there.try_clone()?;
                let (engine, inherited) = Engine::start(self, &spec, call, for_helper, output)?;
                inherited_fds.push((ENGINE_FD, inherited.helper.into()));
                inherited_fds.push((transport::ENGINE_FD, inherited.transport.into()));
                Some(engine)
            }
        };
        inherited_fds.push((transport::WORDS_FD, write_end_there.into()));
        if let Some(claim) = self.claim {
            inherited_fds.push((CLAIM_FD, claim.for_child()?));
        }

        let mut command = ignoring_tty_signals(self.xl);
        command.args(self.arguments());
        command.env("LIBXL_SAVE_HELPER", self.lull);
        for (variable, socket) in &inherited_fds {
            fcntl_setfd(socket, FdFlags::empty())?;
            command.env(variable, socket.as_raw_fd().to_string());
        }
        command.env(VARIABLE, spec);
        // ssh reads passwords from the terminal, not from standard input.
        command.stdin(Stdio::null());
        command.stdout(write_end.try_clone()?);
        command.stderr(write_end);
        let process = command.spawn()?;
        Ok(Started {
            process,
            xl_output,
            destination_output,
            helper,
            gate: GateChannel::new(transport.try_clone()?)?,
            transport,
            engine,
        })
    }

    /// What the helper, the engine and the transport are to do.
    fn spec(&self) -> MigrationSpec {
        let options = self.options;
        let micros = |limit: Span| Micros(limit.as_micros());
        MigrationSpec {
            domain: self.guest.domid,
            started_monotonic_ns: self.begun,
            landing: self.landing,
            left_paused: options.leave_paused,
            copy_paused: self.leaves_copy_paused(),
            limits: Limits {
                max_suspend: options
                    .pause_limit()
                    .map(micros)
                    .and_then(DowntimeLimit::new),
                timeout: options.time_limit().map(micros).and_then(Timeout::new),
            },
            bandwidth: options.bandwidth.unwrap_or_default(),
            risk: options.risk.unwrap_or_default(),
            costs: self.known.into(),
            after_ready: saturating_micros(self.known.after_ready),
        }
    }

    /// Whether the receiver is told to leave the copy paused, and `lull land` to undo that. The
    /// engine reads it from the specification, so that both agree.
    fn leaves_copy_paused(&self) -> bool {
        self.landing.is_fast() && self.known.machine == Machine::Emulated
    }

    fn arguments(&self) -> Vec<OsString> {
        let options = self.options;
        let leaves_paused = self.leaves_copy_paused();
        let program = arguments(self.lull, options, leaves_paused);
        let mut list = vec![OsString::from("migrate")];
        let mut push = |argument: &OsStr| list.push(argument.to_owned());
        push("-s".as_ref());
        push(&program.ssh);
        if let Some(config) = &options.config {
            push("-C".as_ref());
            push(config.as_ref());
        }
        if options.no_monitor {
            push("-e".as_ref());
        }
        if options.foreground {
            push("-F".as_ref());
        }
        if options.keep_number {
            push("-D".as_ref());
        }
        if options.leave_paused || leaves_paused {
            push("-p".as_ref());
        }
        if options.debug {
            push("--debug".as_ref());
        }
        // The domid names the guest that was checked, even if a guest is renamed.
        push(self.guest.domid.to_string().as_ref());
        push(&program.host);
        list
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lull_store::ledger::{Ledger, Subject};

    use super::*;
    use crate::cli::{Cli, Command};

    /// If the two disagreed, the copy would run before Start, or never.
    #[test]
    fn the_receiver_and_the_engine_are_told_the_same_of_the_copys_pause() {
        let guest = Guest {
            domid: 7,
            name: "web1".into(),
        };
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(folder.path().join("ledger.json"));
        for (words, machine, landing, option, copy_paused) in [
            ("web1 host2", Machine::Emulated, Landing::Fast, true, true),
            (
                "-p web1 host2",
                Machine::Emulated,
                Landing::Fast,
                true,
                true,
            ),
            ("web1 host2", Machine::Plain, Landing::Fast, false, false),
            (
                "web1 host2",
                Machine::Emulated,
                Landing::Classic,
                false,
                false,
            ),
            ("-p web1 host2", Machine::Plain, Landing::Fast, true, false),
        ] {
            let line = format!("lull migrate {words}");
            let Command::Migrate(options) = Cli::parse_from(line.split(' ')).command else {
                panic!("{line}");
            };
            let subject = Subject {
                name: &guest.name,
                machine,
            };
            let known = ledger.known("host2", subject, landing, |line| panic!("{line}"));
            let plan = Plan {
                xl: Path::new("/nonexistent/xl"),
                lull: Path::new("/nonexistent/lull"),
                guest: &guest,
                options: &options,
                known: &known,
                control: &Folder::at(folder.path().join("control")),
                landing,
                claim: None,
                begun: 0,
            };
            let passes_p = plan.arguments().contains(&"-p".into());
            assert_eq!(passes_p, option, "{line} {machine:?} {landing:?}");
            let spec = plan.spec();
            assert_eq!(
                spec.copy_paused, copy_paused,
                "{line} {machine:?} {landing:?}"
            );
            assert!(!copy_paused || passes_p, "{line}");
        }
    }
}
