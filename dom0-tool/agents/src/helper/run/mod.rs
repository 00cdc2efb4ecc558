//! One attempt, as the [save helper](save_helper) makes it or a fast landing's
//! [engine](engine_process). [`steering`] serves operators meanwhile, and [`for_xl`] explains a
//! failure to users of plain xl.

mod engine_process;
mod for_xl;
mod save_helper;
mod steering;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use lull_base::text::printable;
use lull_core::machine::Config;
use lull_engine::stream::sink::Sink;
use lull_engine::stub::{StubLog, orphans};
use lull_engine::{
    self as engine, Attempt, Channel, Connection, Host, MigrationRequest, News, NotBegun,
    OperatorRequest, Reply, SuspendAnswer, Verdict, Verify,
};
use lull_store::ledger::Subject;
use lull_store::limits::Effective;
use lull_store::running::claim::{Claim, LockResult};
use lull_store::running::folder::Folder;
use lull_store::runs;
use lull_store::trace::{Recorder, Unrecorded};
use lull_wire::channel::Edition;
use lull_wire::control::Answer;
use lull_wire::events::{Event, How, Landing, LeftToStock, Log};
use lull_wire::gate::FromEngine;
use lull_xen::device_model::{self, MakeRun, Model};
use lull_xen::guest_type::GuestType;
use lull_xen::host;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, DomainState, Xen, version};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::front_end::FrontEnd;
use super::guard::{Guard, Over};
use super::requested::Requested;
use super::saving::{Beginning, Saving};
use super::toolstack::Toolstack;
use super::transport::Transport;
use super::{requested, stock};
use crate::control::server::Server;
use crate::emulated::Emulated;
use crate::monitor::Monitor;

pub use engine_process::{EngineOptions, engine};
pub use save_helper::main;

/// Names this program: its release, and what it was built from.
pub type Version = fn() -> &'static str;

/// Reads the state of a domain, as [`lull_xen::state`] does.
type StateOf = fn(DomId) -> io::Result<Option<DomainState>>;

/// Exit status that libxl takes for a helper that broke down.
const BROKEN: u8 = 255;

/// Why lull cannot move such a guest, as a verb phrase; `None` if it can.
fn obstacle(kind: &GuestType, model: Model) -> Option<&'static str> {
    match kind {
        GuestType::Hvm => host::unusable(model),
        GuestType::Pv => Some("is a PV guest, and lull moves PVH and HVM guests only"),
        GuestType::Pvh | GuestType::Unknown(_) => None,
    }
}

fn guest_type(domain: DomId) -> io::Result<(GuestType, Model)> {
    let mut store = Xenstore::open()?;
    match GuestType::of(&mut store, domain)? {
        GuestType::Hvm => Ok((GuestType::Hvm, Model::of(&mut store, domain)?)),
        GuestType::Unknown(other) => Err(io::Error::other(format!(
            "libxl knows no type of it (`{other}`)"
        ))),
        known => Ok((known, Model::None)),
    }
}

/// The state of one attempt: the descriptors it was given, or what replaces them.
struct Helper<'t> {
    toolstack: &'t mut dyn Toolstack,
    front_end: Option<FrontEnd>,
    /// The transport. It gets the events that a landing depends on before other readers do.
    transport: Option<Transport>,
    version: Version,
    signalled: Arc<AtomicBool>,
    wake: UnixStream,
    guard: Option<Guard>,
    trace: Option<Recorder>,
    /// The record of the attempt, kept here if there is no front end to keep it.
    record: Option<runs::Recorder>,
    /// Limits taken from the file rather than from the command line; named in the messages
    /// to users of plain xl.
    limits_from: Effective,
    /// The guest is to be left paused, so no limit bounds its pause.
    left_paused: bool,
    domid: DomId,
    state_of: StateOf,
    emulated: Emulated,
    /// QEMU is stopped and saved by this process: in a fast landing.
    saving: Option<Saving>,
    /// The beginning of QEMU's state, until libxl has sent it.
    beginning: Option<Beginning>,
    /// The guest's name, for messages.
    name: String,
    control: Option<Server>,
    request: Option<OperatorRequest>,
    cancelled: bool,
    /// xl's monitor process, which the suspend would end.
    monitor: Option<Monitor>,
    /// The guest was asked to suspend.
    asked: bool,
    /// Something is left to undo, so no report to the guard says otherwise: the guest may still
    /// follow a request to suspend, or could not be resumed, or its emulated devices do not
    /// run, or log what they write.
    rest_left: bool,
}

/// How an attempt ended.
enum Tried {
    /// It began, and ended with this verdict.
    Ended(Verdict),
    /// The attempt could not begin, for this reason; the stock helper may do it.
    LeftToStock(String),
}

/// What the attempt is to move, and over which descriptors.
struct Task {
    domid: DomId,
    verify: Verify,
    stream: OwnedFd,
    /// The descriptors to and from `lull land`, in this order, and what it knows; only in a
    /// fast landing.
    channel: Option<((OwnedFd, OwnedFd), Edition)>,
    /// The further connections to `lull land`.
    further: Vec<Connection>,
    landing: Landing,
}

impl<'t> Helper<'t> {
    fn new(
        toolstack: &'t mut dyn Toolstack,
        domid: DomId,
        front_end: Option<FrontEnd>,
        version: Version,
    ) -> io::Result<Self> {
        let signalled = Arc::new(AtomicBool::new(false));
        let (wake, waker) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&signalled))?;
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Self {
            toolstack,
            front_end,
            transport: None,
            version,
            signalled,
            wake,
            guard: None,
            trace: None,
            record: None,
            limits_from: Effective::default(),
            left_paused: false,
            domid,
            state_of: lull_xen::state,
            emulated: Emulated::NONE,
            saving: None,
            beginning: None,
            name: requested::name(domid).unwrap_or_else(|_| format!("domain {domid}")),
            control: None,
            request: None,
            cancelled: false,
            monitor: None,
            asked: false,
            rest_left: false,
        })
    }

    /// Starts a record of an attempt that no other process records. A failure does not end
    /// the attempt.
    fn record_of(&self, domid: DomId) -> io::Result<runs::Recorder> {
        let through = runs::recorder::Through::Libxl;
        // The spooler outlives this process, which libxl waits for.
        let (record, _) =
            runs::Recorder::start((self.version)(), &self.name, domid, None, through)?;
        Ok(record)
    }

    fn attempt(
        &mut self,
        task: Task,
        start: Instant,
        requested: anyhow::Result<Requested>,
    ) -> Tried {
        if self.front_end.is_none() {
            self.record = self.record_of(task.domid).ok();
        }
        // An error here would stop the stock helper too.
        let allowed = requested.and_then(|requested| Ok((requested, self.claim(task.domid)?)));
        let (requested, claim) = match allowed {
            Ok(allowed) => allowed,
            Err(error) => return Tried::Ended(self.broken(start, &error)),
        };
        let is_watched = self.front_end.is_some() || task.channel.is_some();
        let stock_may = stock_may(&requested, is_watched) && stock::find().is_ok();
        let tried = self.try_attempt(task, start, requested, claim);
        // A signal to this process is a request to stop the migration.
        let stock_may = stock_may && !self.signalled.load(Ordering::Relaxed);
        match tried {
            Ok(Ok(verdict)) => Tried::Ended(verdict),
            Ok(Err(NotBegun(verdict))) if stock_may && verdict.how == How::SourceFailed => {
                Tried::LeftToStock(verdict.in_a_line())
            }
            Ok(Err(NotBegun(verdict))) => {
                self.emit(engine::never_begun(start, &verdict));
                Tried::Ended(verdict)
            }
            Err(error) if stock_may => Tried::LeftToStock(format!("{error:#}")),
            Err(error) => Tried::Ended(self.broken(start, &error)),
        }
    }

    /// Reports an attempt that could not begin like any other end. Without that report a
    /// front end would judge by xl's output, which blames the destination in this case.
    fn broken(&mut self, start: Instant, error: &anyhow::Error) -> Verdict {
        let verdict = Verdict::plain(How::SourceFailed, format!("{error:#}"), "");
        self.emit(engine::never_begun(start, &verdict));
        verdict
    }

    /// Ends lull's part and leaves nothing behind. Returns the message to show.
    fn leave_to_stock(mut self, reason: String) -> String {
        let words = format!(
            "lull leaves {} to Xen's own save helper, since no limit is set for it: {reason}.",
            self.name
        );
        if let Some(guard) = self.guard.take() {
            guard.undone();
        }
        if let Some(trace) = self.trace.take() {
            trace.end(How::SourceFailed, &reason);
        }
        if let Some(record) = &mut self.record {
            record.add(&Event::LeftToStock(LeftToStock { reason }));
        }
        words
    }

    fn try_attempt(
        &mut self,
        task: Task,
        start: Instant,
        requested: Requested,
        claim: Option<Claim>,
    ) -> anyhow::Result<Result<Verdict, NotBegun>> {
        use anyhow::Context;

        let domid = task.domid;
        let Requested {
            limits,
            bandwidth,
            risk,
            left_paused,
            copy_paused,
            costs,
            from,
        } = requested;
        self.limits_from = from;
        self.left_paused = left_paused;
        let costs =
            costs.unwrap_or_else(|| requested::costs_wherever(Subject::of(&self.name, domid)));
        let (kind, model) = guest_type(domid).context("the guest's type cannot be read")?;
        if let Some(obstacle) = obstacle(&kind, model) {
            anyhow::bail!("{} {obstacle}", self.name);
        }
        let version = version::detect()?;
        let xen = Xen::open(version).context("the hypervisor cannot be reached")?;
        if Monitor::leaves_at_a_suspend(version) {
            self.monitor = Monitor::of(domid);
        }
        orphans(&xen, None).context("stub domains left behind cannot be removed")?;
        let info = xen.domain_info(domid)?.context("the guest has gone")?;
        if DomainState::from(info).is_suspended() {
            anyhow::bail!(
                "it is suspended: something else saves or moves it, or has given up on it (`lull resume` makes it run, once it is certain that it runs nowhere else)"
            );
        }
        let emulated = match task.channel {
            Some(_) => Emulated::to_be_saved(domid),
            None => Emulated::of(domid),
        };
        self.emulated = emulated.context("the guest's QEMU cannot be asked")?;
        let saves = task.channel.is_some() && self.emulated.is_some();
        if saves != copy_paused {
            anyhow::bail!(
                "xenstore does not say the same twice about whether the guest has a QEMU: try again"
            );
        }
        self.saving = saves.then(Saving::default);
        let log = StubLog::new().map_err(anyhow::Error::msg)?;
        let guard = Guard::start(domid, Over::Move, claim);
        let mut guard = guard.context("the guard cannot be started")?;
        if saves {
            guard.stops_devices_itself();
        }
        self.guard = Some(guard);
        match Server::open(&Folder::default(), domid, start) {
            Ok(server) => self.control = Some(server),
            Err(error) => self.warn(format!(
                "`lull status`, `lull set` and `lull cancel` cannot reach this attempt: {error}"
            )),
        }
        let sink = Sink::new(task.stream).context("the stream cannot be written to")?;
        let copy = (info.handle, self.name.as_str());
        let channel = task.channel.map(|((to, from), edition)| {
            let mut channel = Channel::new(to, from, copy, edition)?;
            for connection in task.further {
                channel.join(connection)?;
            }
            if saves {
                channel.expect_devices(copy_paused && !left_paused)?;
            }
            io::Result::Ok(channel)
        });
        let channel = channel.transpose();
        let channel = channel.context("the connection to `lull land` cannot be used")?;
        if task.verify == Verify::Yes && limits.max_suspend.is_some() {
            anyhow::bail!(
                "--debug pauses the guest for as long as it takes to send all of it again: not with a limit"
            );
        }
        let request = MigrationRequest {
            domid,
            verify: task.verify,
            has_devices: self.emulated.is_some(),
            bandwidth,
            config: Config {
                limits,
                costs: costs.at_most,
                expected_costs: costs.expected,
                suspend_pages: costs.suspend_pages,
                last_pages: costs.last_pages,
                risk: risk.0,
                guest_pages: info.tot_pages,
                hands_over: task.landing.is_handshake_first(),
            },
            start,
        };
        let mut trace = match Recorder::start((self.version)(), domid, request.config) {
            Ok(recorder) => Some(recorder),
            Err(error) => {
                self.warn(format!("there will be no trace of this attempt: {error}"));
                None
            }
        };
        let recorder: &mut dyn lull_wire::trace::Recorder = match &mut trace {
            Some(recorder) => recorder,
            None => &mut Unrecorded,
        };
        let ended = Attempt::new(&xen, request, self, sink, channel, &log, recorder).run();
        self.trace = trace;
        Ok(ended)
    }

    /// Claims the guest's dirty log; a process that only samples it gives it up. A failure
    /// to lock does not end the attempt.
    fn claim(&mut self, domid: DomId) -> anyhow::Result<Option<Claim>> {
        let folder = Folder::default();
        if let Some(claim) = Claim::inherited(&folder, domid) {
            return Ok(Some(claim));
        }
        match Claim::preempt(&folder, domid) {
            Ok(LockResult::Acquired(claim)) => Ok(Some(claim)),
            Ok(LockResult::Busy) => anyhow::bail!(
                "another lull has {}'s dirty log and does not give it up: look at `lull status`, and try again when it is done",
                self.name
            ),
            Err(error) => {
                self.warn(format!(
                    "the guest's dirty log cannot be claimed ({error}): do not run `lull predict` meanwhile"
                ));
                Ok(None)
            }
        }
    }

    fn send_to_transport(&self, message: FromEngine) {
        if let Some(transport) = &self.transport {
            transport.send(message);
        }
    }

    fn warn(&mut self, text: String) {
        self.emit(log("warn", text));
    }

    /// Continues xl's monitor: the guest runs. The guard would do so later, and may have been
    /// killed.
    fn let_monitor_go(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.let_go();
        }
    }

    /// Whether the guest is seen to be suspended. xl's monitor would take that for its end.
    fn is_suspended(&self) -> bool {
        let state = (self.state_of)(self.domid);
        matches!(state, Ok(Some(state)) if state.is_suspended())
    }

    /// Tells libxl how the attempt ended. Returns the guard if there is something to hand
    /// over to it.
    fn finish(mut self, verdict: &Verdict) -> (ExitCode, Option<Guard>) {
        if verdict.how != How::StreamComplete {
            let guard = self.guard.take();
            if !self.rest_left {
                if self.asked && !self.is_suspended() {
                    self.let_monitor_go();
                }
                if let Some(guard) = guard {
                    guard.undone();
                }
            }
            let words = match self.front_end {
                // The front end shows more than this, and it parses xl's output, which must
                // not contain other text.
                Some(_) => "the guest was not moved: `lull migrate` says why".to_owned(),
                None => printable(&self.message_for_xl(verdict)),
            };
            self.toolstack.report_failure(&words);
            if super::journal::is_our_stderr() {
                eprintln!("lull: {words}");
            }
        }
        let completed = self.toolstack.end(verdict.how);
        if let Some(front_end) = &mut self.front_end {
            // libxl goes on only after this process has ended, and after a complete stream
            // the guest waits for that.
            front_end.flush(match verdict.how {
                How::StreamComplete => Duration::from_millis(20),
                _ => Duration::from_secs(2),
            });
        }
        // The trace goes into a pipe, because libxl waits for this process, and
        // the guest for libxl.
        if let Some(trace) = self.trace.take() {
            trace.end(verdict.how, &verdict.reason);
        }
        match completed {
            Ok(()) => (ExitCode::SUCCESS, self.guard.take()),
            Err(_) => (BROKEN.into(), None),
        }
    }
}

/// Whether the stock helper may do what this one cannot begin. It does not know limits, and
/// it reports nothing.
fn stock_may(requested: &Requested, is_watched: bool) -> bool {
    !requested.is_limited() && !is_watched
}

fn log(level: &str, text: String) -> Event {
    Event::Log(Log {
        level: level.into(),
        from: "helper".into(),
        text,
    })
}

impl Host for Helper<'_> {
    fn ask_to_suspend(&mut self) -> io::Result<()> {
        self.asked = true;
        if self.emulated.is_some() {
            // One of an earlier pause may be there.
            let _ = fs::remove_file(device_model::saved_state(self.domid));
        }
        if let Some(guard) = &mut self.guard {
            guard.asked()?;
        }
        // The guard lets the monitor go on if this process dies.
        if let Some(monitor) = &self.monitor {
            monitor.hold();
        }
        self.toolstack.ask_to_suspend()
    }

    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>> {
        let mut answer = self.toolstack.suspend_answer()?;
        if let Some(saving) = &mut self.saving {
            // The guard gets the report first: QEMU may stop after this process has died.
            if let (Some(SuspendAnswer::Stopped), Some(guard)) = (answer, &mut self.guard) {
                guard.stops_devices();
            }
            answer = saving.after(answer, &mut self.emulated);
        }
        if let (Some(_), Some(guard)) = (answer, &mut self.guard) {
            guard.answered();
        }
        Ok(answer)
    }

    fn cancel_suspend_request(&mut self) -> io::Result<bool> {
        self.toolstack.cancel_suspend_request()
    }

    fn poll(&mut self) -> io::Result<News> {
        self.toolstack.look()?;
        self.serve_control();
        let asked = self.cancelled || self.signalled.load(Ordering::Relaxed);
        let given_up = self.front_end.as_mut().is_some_and(FrontEnd::poll);
        let news = self.transport.as_mut().map(Transport::poll).transpose()?;
        if news.is_some_and(|news| news.target_ready) {
            self.beginning = None;
        }
        Ok(News {
            cancelled: asked || given_up,
            ..news.unwrap_or_default()
        })
    }

    fn request(&mut self) -> Option<OperatorRequest> {
        self.request.take()
    }

    fn reply(&mut self, reply: Reply) {
        if let Some(control) = &mut self.control {
            control.answer(match reply {
                Ok(said) => Answer::Done { said },
                Err(why) => Answer::Refused { why },
            });
        }
    }

    fn wake_on(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds: Vec<_> = self.toolstack.wake_on().into_iter().collect();
        if !self.signalled.load(Ordering::Relaxed) {
            fds.push(self.wake.as_fd());
        }
        fds.extend(self.front_end.as_ref().and_then(FrontEnd::wake_on));
        fds.extend(self.transport.as_ref().and_then(Transport::wake_on));
        fds.extend(self.control.iter().flat_map(Server::wake_on));
        fds
    }

    fn emit(&mut self, event: Event) {
        if let Event::RanOn(_) = &event {
            self.let_monitor_go();
            if let Some(guard) = &mut self.guard {
                guard.ran_on();
            }
        }
        if let Some(transport) = &self.transport {
            transport.emit(&event);
        }
        if let Some(record) = &mut self.record {
            record.add(&event);
        }
        if let Some(control) = &mut self.control {
            control.note(&event);
        }
        if let Some(front_end) = &mut self.front_end {
            front_end.emit(event);
        }
    }

    fn first_pass_done(&mut self) -> io::Result<()> {
        if self.saving.is_some() {
            let path = device_model::saved_state(self.domid);
            self.beginning = Some(Beginning::at(path)?);
        }
        self.toolstack.first_pass_done()
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if let Some(guard) = &mut self.guard {
            guard.handing_over()?;
        }
        self.send_to_transport(FromEngine::HandOver);
        Ok(())
    }

    fn ask_to_start(&mut self) {
        self.send_to_transport(FromEngine::Committed);
    }

    fn report_started(&mut self, started: bool) {
        self.send_to_transport(match started {
            true => FromEngine::Started,
            false => FromEngine::Unanswered,
        });
    }

    fn leave_guest(&mut self) {
        self.rest_left = true;
    }

    fn log_devices(&mut self, on: bool) -> io::Result<()> {
        if let Some(guard) = self.guard.as_mut().filter(|_| on) {
            guard.devices_log();
        }
        let done = match self.saving {
            Some(_) => self.emulated.log(on),
            None => self.toolstack.log_devices(on),
        };
        match (&done, &mut self.guard) {
            (Ok(()), Some(guard)) if !on => guard.devices_do_not_log(),
            (Ok(()), _) => {}
            (Err(_), _) => self.rest_left = true,
        }
        done
    }

    fn saved_devices(&mut self) -> io::Result<Vec<u8>> {
        self.emulated.saved_state()
    }

    fn emulated(&mut self) -> &mut dyn MakeRun {
        &mut self.emulated
    }

    fn leave_devices(&mut self) {
        self.rest_left = true;
        self.let_monitor_go();
        // The guest runs. Otherwise the guard would wait minutes for it to stop, before it
        // sees to QEMU.
        if let Some(guard) = &mut self.guard {
            guard.ran_on();
        }
    }

    fn commit(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.commit();
        }
    }
}

#[cfg(test)]
mod tests {
    use lull_base::bandwidth::Bandwidth;
    use lull_core::limits::{DowntimeLimit, Limits, Timeout};
    use lull_core::units::Micros;
    use lull_wire::events::RanOn;

    use super::*;

    /// A libxl that agrees to everything.
    struct Agreeing;

    impl Toolstack for Agreeing {
        fn ask_to_suspend(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>> {
            Ok(Some(SuspendAnswer::Stopped))
        }

        fn cancel_suspend_request(&mut self) -> io::Result<bool> {
            Ok(true)
        }

        fn look(&self) -> io::Result<()> {
            Ok(())
        }

        fn log_devices(&mut self, _: bool) -> io::Result<()> {
            Ok(())
        }

        fn first_pass_done(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn report_failure(&mut self, _: &str) {}

        fn end(&mut self, _: How) -> io::Result<()> {
            Ok(())
        }

        fn wake_on(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    /// The guest's next reboot would not be carried out.
    #[test]
    fn xls_monitor_goes_on_with_the_guest_if_no_guard_is_left() {
        let mut process = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let monitor = || Monitor::open(process.id()).unwrap();
        let stops = |helper: &mut Helper<'_>| {
            helper.ask_to_suspend().unwrap();
            while !monitor().is_held() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let mut libxl = Agreeing;
        let mut helper = Helper::new(&mut libxl, 7, None, || "lull").unwrap();
        helper.monitor = Some(monitor());
        stops(&mut helper);
        helper.emit(Event::RanOn(RanOn {
            at_ms: 2,
            pause_ms: 1,
            reason: String::new(),
        }));
        assert!(!monitor().is_held());
        stops(&mut helper);
        let (_, guard) = helper.finish(&Verdict::plain(How::SourceFailed, "", ""));
        assert!(guard.is_none() && !monitor().is_held());
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Nor is a monitor continued that was not stopped here.
    #[test]
    fn xls_monitor_stays_stopped_while_the_guest_is_suspended() {
        let idle: StateOf = |_| Ok(Some(DomainState::IDLE));
        let suspended: StateOf = |_| {
            Ok(Some(DomainState {
                shutdown: Some(2),
                ..DomainState::IDLE
            }))
        };
        for (asked, state_of, is_held) in [
            (true, suspended, true),
            (true, idle, false),
            (false, idle, true),
        ] {
            let mut process = std::process::Command::new("sleep")
                .arg("600")
                .spawn()
                .unwrap();
            let monitor = || Monitor::open(process.id()).unwrap();
            assert!(monitor().hold());
            while !monitor().is_held() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut libxl = Agreeing;
            let mut helper = Helper::new(&mut libxl, 7, None, || "lull").unwrap();
            helper.monitor = Some(monitor());
            (helper.asked, helper.state_of) = (asked, state_of);
            helper.finish(&Verdict::plain(How::SourceFailed, "", ""));
            assert_eq!(monitor().is_held(), is_held);
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    #[test]
    fn no_guest_under_a_limit_is_left_to_the_stock_helper() {
        let timeout = Timeout::new(Micros(1_000_000));
        let max_suspend = DowntimeLimit::new(Micros(300_000));
        let limits = |max_suspend, timeout| Limits {
            max_suspend,
            timeout,
        };
        let none = Requested::default();
        assert!(stock_may(&none, false));
        assert!(!stock_may(&none, true), "`lull migrate` waits for a word");
        for limits in [limits(max_suspend, None), limits(None, timeout)] {
            let requested = Requested {
                limits,
                ..Requested::default()
            };
            assert!(!stock_may(&requested, false));
        }
        let capped = Requested {
            bandwidth: Bandwidth::from_bytes(1 << 20),
            ..Requested::default()
        };
        assert!(!stock_may(&capped, false));
    }

    /// Under xl and virsh no other check comes before this one.
    #[test]
    fn what_lull_cannot_move_is_known_before_anything_is_begun() {
        for (kind, model, words) in [
            (GuestType::Hvm, Model::Traditional, "qemu-xen-traditional"),
            (GuestType::Hvm, Model::StubDomain, "in a domain of its own"),
            (GuestType::Pv, Model::None, "is a PV guest"),
        ] {
            let why = obstacle(&kind, model).unwrap();
            assert!(why.contains(words), "{why}");
        }
        assert_eq!(obstacle(&GuestType::Hvm, Model::Qemu), None);
        assert_eq!(obstacle(&GuestType::Pvh, Model::None), None);
    }
}
