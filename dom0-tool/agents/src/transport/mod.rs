//! `lull transport`: what carries xl's connection, and keeps gate 4.
//!
//! `lull migrate` names it as xl's transport. It starts the transport the operator meant
//! ([`process`]) and relays: guest data one way, untouched and unread ([`forward`]), xl's
//! few words of handshake the other way ([`backward`],
//! [`markers`](lull_wire::xl::markers)). The destination's READY it keeps until the
//! [`gate`] has decided; [`sockets`] receives the messages by which the gate decides, and
//! [`relay`] does what it decides. [`gate_channel`] is the front end's side.
//!
//! # What is undone, and when
//! READY passed on is the point of no return: xl answers with GO, and nothing
//! here can call it back. Before it, a refusal goes in this order: the guest is
//! resumed, the front end receives an event, and only then is the connection closed,
//! so that xl's own resume, up to two seconds later, finds a running guest and logs
//! "not suspended". The destination's input is closed then, but its output is read
//! until it ends: a stock receiver that cannot write its report exits without
//! destroying the copy it holds (`tools/xl/xl_migrate.c`, 4.17 to 4.22).
//!
//! After GO the destination has a minute to report. A link that is cut just then
//! is silent: without that limit xl would wait until TCP gives up. Nothing is
//! undone at its end: the connection is closed, and xl says that it does not know
//! where the guest is.
//!
//! # A handshake that precedes the stop
//! In a fast landing the engine asks for the handshake while the guest still runs. READY is
//! passed on, GO goes to the receiver at once, and the receiver's report is kept. Once the
//! guest has stopped and everything is in place, the engine asks whether the copy may be
//! started. That permission is the point of no return: the front end receives it before
//! the engine does. `lull land` starts the copy, the engine says so, and the kept report
//! goes to xl, which destroys the guest here.
//!
//! A refusal after READY is undone by xl itself: the engine resumes the guest, and then xl
//! is given the report of a destination that has given the guest back. xl renames the
//! guest back; its resume finds a running guest and only logs that
//! (`modify_returncode` in `tools/libs/guest/xg_resume.c`, 4.17 to 4.20). No process on
//! this host but the engine resumes it before, unless the engine is dead or hangs.
//!
//! # Who may resume
//! Two resumes at once would write a running guest's registers. The helper
//! resumes until it has reported that its stream is complete, xl after the
//! connection's end, the transport only in between: see
//! [`gate::Guest`]. A fast landing's engine is no process of xl's, so xl does not
//! wait for it: there the connection's end is kept from xl until the engine says
//! that it has given up.
//!
//! # When a part dies
//! - The front end: as if the operator had cancelled, as for the helper. With
//!   the stream known to be complete, or READY there, which proves it, the
//!   guest is resumed here; otherwise the connection is closed, and the guest is
//!   resumed by xl or by the helper, whose socket to the front end has ended too. The
//!   control socket that the front end may have left is removed here.
//! - A fast landing's engine: its socket to the transport ends, which means the same
//!   as a message that it gave up, unless it has reported before that all is in place.
//! - The transport, by SIGKILL: xl reads an end in place of READY and resumes the
//!   guest itself, within milliseconds, for it need not wait; a fast landing's
//!   engine learns of it only when xl has ended. After READY was passed on, xl does
//!   the same as after the death of ssh: it does not know where the guest is. A
//!   receiver on the same host, without ssh between, may leave its paused copy
//!   behind, because its report can no longer be written.
//! - xl: its pipes end; with the stream complete the guest is resumed here.
//! - The destination or ssh: likewise, and the end of the pipe then informs xl. A receiver
//!   that has reported to a handshake ahead of the stop ends as it should.
//!
//! Signals are left as they are found: `lull migrate` starts xl and all below
//! it with those of the terminal ignored, and a handler here would undo that for the
//! transport that is started.

mod backward;
mod forward;
mod gate;
pub mod gate_channel;
mod process;
mod relay;
mod resume;
mod sockets;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use lull_base::{confine, hygiene, inherited_fd};
use lull_store::running::claim::CLAIM_FD;
use lull_store::running::folder::Folder;
use lull_wire::events;
use lull_wire::spec::{BadSpec, MigrationSpec, VARIABLE};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

use crate::helper::pass_stream;
use gate::{Gate, Terms};
use process::Transport;
use relay::{Ends, Relay};
use resume::OnXen;
use sockets::Sockets;

/// Environment variable with the number of an inherited socket. The transport reads
/// [`lull_wire::gate::GateCommand`] lines from it and writes [`lull_wire::events::Event`]
/// lines to it.
pub const FRONT_END_FD: &str = "LULL_TRANSPORT_FD";

/// Environment variable with the number of an inherited socket. The transport reads
/// [`lull_wire::gate::FromEngine`] lines from it, and writes [`lull_wire::gate::ToEngine`]
/// lines to it.
pub const ENGINE_FD: &str = "LULL_TRANSPORT_ENGINE_FD";

/// Environment variable with the number of the other end of that socket, for libxl's save
/// helper in a classic landing.
pub const GATE_FD: &str = "LULL_GATE_FD";

/// Environment variable with the number of an inherited pipe. It carries what the
/// destination and the program that connects to it print. xl's own messages, which show how
/// far xl has come, use another pipe.
pub const WORDS_FD: &str = "LULL_WORDS_FD";

/// The variables of the transport's own descriptors.
const INHERITED: [&str; 3] = [FRONT_END_FD, ENGINE_FD, WORDS_FD];

/// The variables of descriptors that xl's other children are to inherit.
const OTHERS: [&str; 4] = [
    CLAIM_FD,
    events::FRONT_END_FD,
    pass_stream::ENGINE_FD,
    GATE_FD,
];

/// The options of `lull transport`. They come from `lull migrate`, which says the rest in a
/// [`MigrationSpec`].
#[derive(Debug, Args)]
pub struct Options {
    /// The words are one command for a shell
    #[arg(long)]
    pub shell: bool,

    /// What connects to the destination, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<OsString>,
}

/// What the gate goes by.
fn terms(spec: &MigrationSpec) -> Terms {
    let limit = spec.limits.max_suspend;
    let resume = spec.costs.at_most.resume;
    // The landing includes both.
    let after_ready = spec.after_ready.min(spec.costs.at_most.landing);
    Terms {
        limit_ns: limit.map(|limit| nanos(limit.micros().0)),
        after_ready_ns: nanos(after_ready.0),
        resume_ns: nanos(resume.0),
        landing: spec.landing,
    }
}

/// Converts microseconds to nanoseconds, saturating.
const fn nanos(micros: u64) -> u64 {
    micros.saturating_mul(1_000)
}

/// Runs as xl's transport.
pub fn main(options: &Options) -> ExitCode {
    hygiene::leave_no_dump();
    match carry(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lull transport: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry(options: &Options) -> anyhow::Result<ExitCode> {
    let spec = std::env::var_os(VARIABLE).ok_or(BadSpec::Missing)?;
    let spec = MigrationSpec::decode(spec.as_bytes())?;
    // The program that connects to the destination may need what the operator's shell has
    // open, such as a password for sshpass.
    let kept = INHERITED.into_iter().chain(OTHERS);
    let kept: Vec<RawFd> = kept.filter_map(inherited_fd::number).collect();
    let foreign = inherited_fd::foreign(&kept);
    let sockets = Sockets::connect(spec.landing);
    let (from_xl, to_xl) = take_over_stdio().context("its own input and output")?;
    let words = inherited_fd::named(WORDS_FD);
    // The program that connects to the destination may outlive the attempt. It does not
    // inherit the claim. A copy of the other ends would hide the end of their processes.
    for variable in OTHERS {
        drop(inherited_fd::named(variable));
    }
    let mut transport = Transport::start(options.shell, &options.command, words)?;
    drop(foreign);
    let ends = Ends {
        from_xl,
        to_xl,
        to_peer: transport.input()?,
        from_peer: transport.output()?,
    };
    let mut guest = OnXen::new(spec.domain);
    // The program that connects to the destination is running; nothing else is started.
    confine::to_no_program();
    let gate = Gate::new(terms(&spec));
    let outcome = Relay::new(ends, gate, sockets, &mut guest)?.run()?;
    let code = transport.end(outcome);
    // A front end that was killed leaves its socket behind. If the socket cannot be removed
    // here, the next migration removes it.
    let _ = Folder::default().clear_away();
    Ok(code)
}

/// Duplicates xl's pipes and puts `/dev/null` in their place, so each pipe can be closed.
fn take_over_stdio() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let from_xl = fcntl_dupfd_cloexec(stdin(), 3)?;
    let to_xl = fcntl_dupfd_cloexec(stdout(), 3)?;
    let nothing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    Ok((from_xl, to_xl))
}
