//! The save helper itself: what libxl starts it for, and whether lull or Xen's own helper does
//! it.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::time::Instant;

use lull_base::fmt::{Limit, or_dash};
use lull_base::hygiene;
use lull_base::inherited_fd;
use lull_engine::{Host, Verdict, never_begun};
use lull_store::running::claim::CLAIM_FD;
use lull_wire::events::{FRONT_END_FD, How, Landing};
use lull_wire::spec::{BadSpec, MigrationSpec};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{BROKEN, Helper, Task, Tried, Version, guest_type, obstacle};
use crate::emulated;
use crate::helper::args::{LiveSave, PausedSave, Save};
use crate::helper::front_end::FrontEnd;
use crate::helper::libxl::Libxl;
use crate::helper::requested::Requested;
use crate::helper::transport::Transport;
use crate::helper::{guard, journal, pass_stream, requested, stock};
use crate::transport::GATE_FD;

/// Runs as libxl's save helper. `version` names this program in what is kept of the attempt.
pub fn main(args: impl IntoIterator<Item = OsString>, version: Version) -> ExitCode {
    let spec = requested::spec();
    let start = requested::start(&spec);
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some((over, domid, helper)) = guard::parse_args(&args) {
        return guard::main(over, domid, helper);
    }
    if let Some((domid, state)) = emulated::parse_args(&args) {
        return emulated::main(domid, state);
    }
    let save = match Save::parse(&args) {
        Some(Save::Live(save)) => save,
        Some(Save::Paused(save)) => {
            return refuse_paused(&save, start, spec, version).unwrap_or_else(|| exec_stock(&args));
        }
        None => return exec_stock(&args),
    };
    // Among the others are those of the transport: a copy held here would hide the
    // transport's end from the processes at their other ends.
    let named = [FRONT_END_FD, pass_stream::ENGINE_FD, GATE_FD, CLAIM_FD].map(inherited_fd::number);
    let given = [Some(save.io_fd), Some(save.recv_fd)];
    let kept: Vec<RawFd> = named.into_iter().chain(given).flatten().collect();
    drop(inherited_fd::foreign(&kept));
    let requested = requested::limits(save.domain, spec);
    // Without limits, a guest that lull cannot move goes to the stock helper. With limits
    // it is refused, because the stock helper does not know them.
    if requested
        .as_ref()
        .is_ok_and(|requested| !requested.is_limited())
        && guest_type(save.domain).is_ok_and(|(kind, model)| obstacle(&kind, model).is_some())
    {
        return exec_stock(&args);
    }
    let ended = match pass_stream::engine() {
        Some(engine) => {
            // The claim is the engine's, so it is closed here.
            drop(inherited_fd::named(CLAIM_FD));
            pass_stream::pass_stream(&save, engine)
        }
        None => move_guest(&args, &save, start, requested, version),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("lull: the save helper cannot start: {error}");
        BROKEN.into()
    })
}

/// Refuses a save that is not live and goes to another host if the guest has a downtime
/// limit: the guest would be paused for the whole copy. A save into a file is no migration,
/// and its pause is not limited.
fn refuse_paused(
    save: &PausedSave,
    start: Instant,
    spec: Result<Option<MigrationSpec>, BadSpec>,
    version: Version,
) -> Option<ExitCode> {
    let leaves = inherited_fd::is_socket_or_pipe(save.io_fd);
    let requested = leaves.then(|| requested::limits(save.domain, spec))?;
    let limit = match &requested {
        Ok(requested) => Some(requested.limits.max_suspend?),
        // A limit that cannot be read may be any limit.
        Err(_) => None,
    };
    let mut libxl = Libxl::new(save.domain);
    let mut helper = Helper::new(&mut libxl, save.domain, FrontEnd::connect(), version).ok()?;
    helper.record = helper.record_of(save.domain).ok();
    let verdict = match (requested, limit) {
        (Err(error), _) => Verdict::plain(How::SourceFailed, format!("{error:#}"), ""),
        (Ok(requested), limit) => {
            helper.limits_from = requested.from;
            let limit = or_dash(limit.map(|limit| Limit(limit.micros().0)));
            Verdict::plain(
                How::RefusedDowntime,
                format!(
                    "a migration that is not live pauses the guest for all of the copy, and its \
                     limit is {limit}"
                ),
                "Migrate it live: `virsh migrate --live`.",
            )
        }
    };
    helper.emit(never_begun(start, &verdict));
    Some(helper.finish(&verdict).0)
}

/// Moves the guest as libxl asks. An attempt that cannot begin and has no limit is left to
/// the stock helper; at that point no byte of the stream is written, and nothing is under
/// way with libxl.
fn move_guest(
    args: &[OsString],
    save: &LiveSave,
    start: Instant,
    requested: anyhow::Result<Requested>,
    version: Version,
) -> io::Result<ExitCode> {
    // The second descriptor is not to be read here. Both stay open for the stock helper.
    let stream = inherited_fd::adopt(save.io_fd)?;
    let unread = inherited_fd::adopt(save.recv_fd).ok();
    let task = Task {
        domid: save.domain,
        verify: save.verify,
        stream: stream.try_clone()?,
        channel: None,
        further: Vec::new(),
        landing: Landing::Classic,
    };
    hygiene::settle();
    let mut libxl = Libxl::new(task.domid);
    let mut helper = Helper::new(&mut libxl, task.domid, FrontEnd::connect(), version)?;
    helper.transport = Transport::connect();
    let verdict = match helper.attempt(task, start, requested) {
        Tried::Ended(verdict) => verdict,
        Tried::LeftToStock(reason) => {
            let words = helper.leave_to_stock(reason);
            let _ = libxl.warn(&words);
            if journal::is_our_stderr() {
                eprintln!("lull: {words}");
            }
            for fd in [Some(&stream), unread.as_ref()].into_iter().flatten() {
                fcntl_setfd(fd, FdFlags::empty())?;
            }
            return Ok(exec_stock(args));
        }
    };
    let (code, guard) = helper.finish(&verdict);
    if let Some(guard) = guard {
        guard.handed_over();
    }
    Ok(code)
}

fn exec_stock(args: &[OsString]) -> ExitCode {
    let error = stock::become_it(args);
    eprintln!("lull: Xen's own save helper cannot be started: {error}");
    BROKEN.into()
}
