//! The loop of one migration.

use std::io;
use std::time::{Duration, Instant};

use lull_core::downtime::Downtime;
use lull_core::link::LogReader;
use lull_core::machine::{Action, Config, Event, State};
use lull_core::refusal::Refusal;
use lull_core::units::{ByteRate, Micros};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::explain::Verdict;
use super::log_dirty::{LogDirty, LogDirtyError};
use super::peer::{Lie, Peer, Said, Unheard};
use super::slots::Slots;
use super::windows::Windows;
use super::{Host, SuspendAnswer, frames, process};
use crate::events::{self, How, PauseParts};
use crate::stream::queue::Queue;
use crate::stream::records::{self, Record};
use crate::stream::sink::Sink;
use crate::stub::{Crash, Stub, StubError, StubLog};
use crate::xen::domain::Resumed;
use crate::xen::domctl::Clean;
use crate::xen::{DomId, Xen};

/// How often the dirty pages are counted, and the stub is looked after.
const TICK: Duration = Duration::from_millis(100);

/// How often it is looked whether the guest has stopped, once it was asked to.
const SUSPEND_POLL: Duration = Duration::from_millis(1);

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);

/// A stub that has something to do and says nothing for so long has hung. Far
/// beyond what a batch takes, so that a host under load is not mistaken.
const STUB_SILENCE: Duration = Duration::from_secs(15);

/// What is to be done.
pub struct Order {
    /// Which guest.
    pub guest: DomId,
    /// The limits and the costs assumed.
    pub config: Config,
    /// When the attempt started: the timeout counts from here.
    pub start: Instant,
}

/// Why an attempt ended without a decision of its own.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the stream cannot be written: {0}")]
    Stream(io::Error),
    #[error("the stub domain is not to be trusted: {0}")]
    Lie(#[from] Lie),
    #[error("the stub domain died: {0}")]
    StubDied(String),
    #[error("the stub domain has said nothing for {} s", STUB_SILENCE.as_secs())]
    StubSilent,
    #[error(transparent)]
    Stub(#[from] StubError),
    #[error(transparent)]
    LogDirty(#[from] LogDirtyError),
    #[error("{doing}: {error}")]
    Xen {
        doing: &'static str,
        error: io::Error,
    },
    /// Gate 3.
    #[error("the last pages and the CPU state were not sent in time")]
    Deadline,
    #[error("a mistake in lull: {0}")]
    Bug(String),
}

impl From<Unheard> for Failure {
    fn from(unheard: Unheard) -> Self {
        match unheard {
            Unheard::Lie(lie) => Self::Lie(lie),
            Unheard::Ours(error) => Self::Bug(error.to_string()),
        }
    }
}

/// Names what was being done when Xen said no.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Xen { doing, error })
    }
}

/// The guest's pause, as far as it has come. It counts from the request: the
/// guest's own way to its stop is part of what its users feel.
#[derive(Debug, Clone, Copy)]
struct Pause {
    requested: Instant,
    predicted: Option<Downtime>,
    stopped: Option<Instant>,
    bitmap: Option<Duration>,
    pages_sent: Option<Instant>,
    state_sent: Option<Instant>,
    /// libxl has answered.
    answered: bool,
}

/// How the loop ended.
enum End {
    Complete,
    Refused(Refusal),
}

/// One migration.
pub struct Attempt<'a> {
    xen: &'a Xen,
    order: Order,
    host: &'a mut dyn Host,
    sink: Sink,
    log: &'a StubLog,
}

impl<'a> Attempt<'a> {
    /// Nothing is done yet.
    pub fn new(
        xen: &'a Xen,
        order: Order,
        host: &'a mut dyn Host,
        sink: Sink,
        log: &'a StubLog,
    ) -> Self {
        Self {
            xen,
            order,
            host,
            sink,
            log,
        }
    }

    /// Moves the guest, or leaves it running where it is. Everything is undone
    /// but the log-dirty mode and the stub of a move that is complete: the
    /// guest waits, and whoever started this takes them away.
    pub fn run(self) -> Verdict {
        let Self {
            xen,
            order,
            host,
            sink,
            log,
        } = self;
        let mut told = Told::default();
        let verdict = match prepare(xen, &order) {
            Ok(prepared) => {
                host.tell(prepared.in_words());
                let mut session = Session::new(xen, &order, host, sink, log, &prepared);
                let (verdict, so_far) = session.run_and_undo();
                told = so_far;
                drop(session);
                if verdict.how == How::StreamComplete {
                    // Every moment here is part of the pause.
                    std::mem::forget(prepared);
                }
                verdict
            }
            Err(failure) => verdict_on(&failure),
        };
        host.tell(told.ended(&order, &verdict));
        verdict
    }
}

/// What an attempt stands on, in the order in which it is taken down.
struct Prepared<'x> {
    stub: Stub<'x>,
    _log_dirty: LogDirty<'x>,
    guest_pfns: u64,
    /// Pages of round 0.
    pages: u64,
    /// When the stub was built, the log switched on, the frames listed.
    done_at: [Duration; 3],
}

impl Prepared<'_> {
    fn in_words(&self) -> events::Event {
        let [stub, log_dirty, frames] = self.done_at.map(millis);
        events::Event::Log(events::Log {
            level: "debug".into(),
            from: "helper".into(),
            text: format!(
                "stub built after {stub} ms, dirty log on after {log_dirty} ms, {} of {} frames \
                 found populated after {frames} ms",
                self.pages, self.guest_pfns
            ),
        })
    }
}

fn prepare<'x>(xen: &'x Xen, order: &Order) -> Result<Prepared<'x>, Failure> {
    let guest = order.guest;
    let highest = xen
        .maximum_gpfn(guest)
        .doing("the guest's size cannot be read")?;
    let guest_pfns = highest + 1;
    let mut stub = Stub::build(xen, guest, guest_pfns, order.config)?;
    let built = order.start.elapsed();
    let log_dirty = LogDirty::enable(xen, guest)?;
    let logging = order.start.elapsed();
    let (bitmap, pages) =
        frames::populated(xen, guest, guest_pfns).doing("the guest's frames cannot be listed")?;
    stub.write_bitmap(&bitmap);
    Ok(Prepared {
        stub,
        _log_dirty: log_dirty,
        guest_pfns,
        pages,
        done_at: [built, logging, order.start.elapsed()],
    })
}

fn verdict_on(failure: &Failure) -> Verdict {
    let (how, advice) = match failure {
        Failure::Stream(_) => (
            How::TargetFailed,
            "Look at the link and at the destination.",
        ),
        Failure::Deadline => (
            How::RefusedDowntime,
            "The link slowed down while the guest was stopped: try again, or with a higher limit.",
        ),
        Failure::StubDied(_) | Failure::StubSilent | Failure::Lie(_) => (
            How::SourceFailed,
            "Try again; if it happens again, report it with this line.",
        ),
        _ => (How::SourceFailed, ""),
    };
    Verdict::plain(how, failure.to_string(), advice)
}

/// What is left to tell when all is over.
#[derive(Default)]
struct Told {
    observed: PauseParts,
    refused_pause: Option<Duration>,
    pages_sent: u64,
    bytes_sent: u64,
    stub_cpu_ms: Option<u64>,
}

impl Told {
    fn ended(self, order: &Order, verdict: &Verdict) -> events::Event {
        events::Event::Ended(events::Ended {
            at_ms: order.start.elapsed().as_millis() as u64,
            how: verdict.how,
            reason: verdict.reason.clone(),
            advice: verdict.advice.clone(),
            smallest_limit_ms: verdict.smallest_limit_ms,
            needed_rate: verdict.needed_rate,
            refused_pause_ms: self.refused_pause.map(millis),
            observed: self.observed,
            pages_sent: self.pages_sent,
            bytes_sent: self.bytes_sent,
            monotonic_ns: monotonic_ns(),
            helper_cpu_ms: process::cpu_ms(),
            helper_peak_bytes: process::peak_bytes(),
            stub_cpu_ms: self.stub_cpu_ms,
        })
    }
}

/// Milliseconds, rounded up: a report never shows less than was used.
fn millis(time: Duration) -> u64 {
    time.as_micros().div_ceil(1_000) as u64
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The loop's state.
struct Session<'s> {
    xen: &'s Xen,
    order: &'s Order,
    host: &'s mut dyn Host,
    sink: Sink,
    log: &'s StubLog,
    stub: &'s Stub<'s>,
    guest_pfns: u64,
    pages: u64,
    stub_log: LogReader<'s>,
    decoder: Box<dyn defmt_decoder::StreamDecoder + 's>,
    peer: Peer<'s>,
    slots: Slots,
    windows: Option<Windows>,
    queue: Queue,
    pause: Option<Pause>,
    cancel_told: bool,
    begun: bool,
    /// All pages are sent and the rest of the stream is in the queue.
    finishing: bool,
    /// The stub spoke last.
    heard: Instant,
    ticked: Instant,
    progressed: Instant,
    /// The attempt was refused while the guest was stopped: it was resumed.
    resumed_after: Option<Duration>,
}

impl<'s> Session<'s> {
    fn new(
        xen: &'s Xen,
        order: &'s Order,
        host: &'s mut dyn Host,
        sink: Sink,
        log: &'s StubLog,
        prepared: &'s Prepared<'_>,
    ) -> Self {
        let now = Instant::now();
        let stub = &prepared.stub;
        Self {
            xen,
            order,
            host,
            sink,
            log,
            stub,
            guest_pfns: prepared.guest_pfns,
            pages: prepared.pages,
            stub_log: LogReader::new(&stub.link().log),
            decoder: log.decoder(),
            peer: Peer::new(stub.link(), order.config),
            slots: Slots::new(prepared.guest_pfns),
            windows: None,
            queue: Queue::default(),
            pause: None,
            cancel_told: false,
            begun: false,
            finishing: false,
            heard: now,
            ticked: now,
            progressed: now,
            resumed_after: None,
        }
    }

    /// Runs the loop; whatever comes of it, the guest is not left stopped
    /// unless the stream is complete.
    fn run_and_undo(&mut self) -> (Verdict, Told) {
        let end = self.run();
        self.drain_log();
        let verdict = match &end {
            Ok(End::Complete) => {
                self.host.commit();
                Verdict::plain(How::StreamComplete, "", "")
            }
            Ok(End::Refused(refusal)) => Verdict::from(refusal),
            Err(failure) => verdict_on(failure),
        };
        let verdict = match verdict.how {
            How::StreamComplete => verdict,
            _ => self.make_sure_it_runs(verdict),
        };
        let stub_cpu = self.xen.domain_state(self.stub.domid()).ok().flatten();
        let told = Told {
            observed: self.observed(),
            refused_pause: self.resumed_after,
            pages_sent: self.peer.machine().pages_sent(),
            bytes_sent: self.queue.written(),
            stub_cpu_ms: stub_cpu.map(|state| state.cpu_time_ns / 1_000_000),
        };
        (verdict, told)
    }

    /// Resumes the guest if it is stopped, now or after an answer to the
    /// suspend request that is still to come.
    fn make_sure_it_runs(&mut self, verdict: Verdict) -> Verdict {
        self.resume();
        let Some(pause) = self.pause.filter(|pause| !pause.answered) else {
            return verdict;
        };
        // libxl waits up to 60 s for the guest's acknowledgement and as long
        // for its stop; a guest that stops after all must not stay so.
        let deadline = pause.requested + Duration::from_secs(150);
        while Instant::now() < deadline {
            self.resume();
            match self.host.suspend_answer() {
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => break,
            }
            let _ = self.wait(Duration::from_millis(5));
        }
        self.resume();
        verdict
    }

    fn resume(&mut self) {
        match self.xen.resume_suspended(self.order.guest) {
            Ok(Resumed::Yes { at }) => {
                let pause = self.pause.map(|pause| at.duration_since(pause.requested));
                self.resumed_after = pause;
            }
            Ok(Resumed::WasNotSuspended) => {}
            Err(error) => self.say("error", format!("the guest could not be resumed: {error}")),
        }
    }

    fn run(&mut self) -> Result<End, Failure> {
        self.windows = Some(Windows::new().doing("no memory for hypercalls")?);
        let headers = self
            .headers()
            .doing("the guest's CPU policy cannot be read")?;
        self.queue.push(headers);
        self.tell_started();
        loop {
            if let Some(end) = self.hear()? {
                return Ok(end);
            }
            self.write()?;
            self.look_after_the_guest()?;
            if let Some(end) = self.look_at_the_clock()? {
                return Ok(end);
            }
            if self.finishing && self.queue.is_empty() {
                if let Some(pause) = &mut self.pause {
                    pause.state_sent = Some(Instant::now());
                }
                return Ok(End::Complete);
            }
            let longest = match self.pause {
                Some(Pause { stopped: None, .. }) => SUSPEND_POLL,
                _ => TICK.saturating_sub(self.ticked.elapsed()),
            };
            let longest = longest.min(self.until_deadline().unwrap_or(longest));
            self.wait(longest).doing("waiting failed")?;
        }
    }

    fn now(&self) -> Micros {
        Micros(self.order.start.elapsed().as_micros() as u64)
    }

    /// Sleeps until something happens, at most `longest`.
    fn wait(&mut self, longest: Duration) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.stub.channel, PollFlags::IN)];
        if !self.queue.is_empty() {
            fds.push(PollFd::new(&self.sink, PollFlags::OUT));
        }
        let wake = self.host.wake_on();
        fds.extend(
            wake.iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        let timeout = Timespec {
            tv_sec: longest.as_secs() as i64,
            tv_nsec: i64::from(longest.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.stub.channel.take(),
            Err(error) => Err(error.into()),
        }
    }

    /// Handles everything the stub has said.
    fn hear(&mut self) -> Result<Option<End>, Failure> {
        let mut heard = false;
        while let Some(said) = self.peer.hear()? {
            heard = true;
            match said {
                Said::Hello if self.begun => return Err(Lie::Turn.into()),
                Said::Hello => {
                    self.begun = true;
                    let pages = self.pages;
                    self.peer.tell(self.now(), Event::Begin { pages })?;
                }
                Said::Map { slot, count } => self.map(slot, count)?,
                Said::Filled { slot } => self.filled(slot)?,
                Said::Scanned => self.slots.scanned()?,
                Said::Did(action) => {
                    if let Some(end) = self.act(action)? {
                        return Ok(Some(end));
                    }
                }
            }
        }
        if heard {
            self.heard = Instant::now();
            self.notify()?;
        }
        Ok(None)
    }

    fn notify(&self) -> Result<(), Failure> {
        self.stub
            .channel
            .notify()
            .doing("the stub cannot be signalled")
    }

    fn map(&mut self, slot: u8, count: u32) -> Result<(), Failure> {
        let list = &self.stub.link().wanted[usize::from(slot)];
        let mut pfns = self.slots.want(slot, count, list)?;
        if let Some(windows) = &mut self.windows {
            windows
                .map(
                    self.xen,
                    self.stub,
                    self.order.guest,
                    usize::from(slot),
                    &mut pfns,
                )
                .doing("the guest's frames cannot be mapped")?;
        }
        let pages = pfns.len() as u32;
        self.slots.mapped(slot, count, pfns);
        Ok(self.peer.mapped(slot, pages)?)
    }

    fn filled(&mut self, slot: u8) -> Result<(), Failure> {
        let pfns = self.slots.filled(slot)?;
        if pfns.is_empty() {
            return self.sent(usize::from(slot));
        }
        self.queue.push(records::page_data_header(&pfns));
        self.queue.push_payload(usize::from(slot), pfns.len());
        Ok(())
    }

    fn sent(&mut self, slot: usize) -> Result<(), Failure> {
        let (requested, pages) = self.slots.written(slot);
        Ok(self.peer.sent(self.now(), slot, requested, pages)?)
    }

    fn write(&mut self) -> Result<(), Failure> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let stub = self.stub;
        let written = self
            .queue
            .write(&mut self.sink, |slot, pages| stub.payload(slot, pages));
        let slots = written.map_err(Failure::Stream)?.slots;
        if slots.is_empty() {
            return Ok(());
        }
        for slot in slots {
            self.sent(slot)?;
        }
        self.notify()
    }

    /// Does what the machine decided.
    fn act(&mut self, action: Action) -> Result<Option<End>, Failure> {
        let guest = self.order.guest;
        match action {
            Action::None => {}
            Action::Copy { pages, .. } | Action::CopyFinal { pages } => {
                self.slots.start_round(pages)
            }
            Action::Count => {
                let dirty = self.count()?;
                self.peer.tell(self.now(), Event::Counted { dirty })?;
                self.tell_progress();
            }
            Action::TakeBitmap => {
                self.tell_round("another-round");
                let (dirty, took) = self.take_bitmap(Clean::Live)?;
                let took = Micros(took.as_micros() as u64);
                self.peer.tell(self.now(), Event::Bitmap { dirty, took })?;
            }
            Action::Suspend => {
                self.tell_round("suspend");
                self.pause = Some(Pause {
                    requested: Instant::now(),
                    predicted: self.peer.machine().prediction(),
                    stopped: None,
                    bitmap: None,
                    pages_sent: None,
                    state_sent: None,
                    answered: false,
                });
                self.host
                    .ask_to_suspend()
                    .doing("the guest cannot be asked to suspend")?;
            }
            Action::Finish => {
                if let Some(pause) = &mut self.pause {
                    pause.pages_sent = Some(Instant::now());
                }
                self.tell_final_round();
                let rest = cpu_state(self.xen, guest).doing("the guest's state cannot be read")?;
                self.queue.push(rest);
                self.finishing = true;
            }
            Action::Refuse(refusal) => {
                self.tell_round("refuse");
                return Ok(Some(End::Refused(refusal)));
            }
            Action::Resume(refusal) => {
                self.resume();
                return Ok(Some(End::Refused(refusal)));
            }
        }
        Ok(None)
    }

    fn count(&self) -> Result<u64, Failure> {
        let counted = self.xen.dirty_count(self.order.guest);
        counted.doing("the dirty pages cannot be counted")
    }

    fn take_bitmap(&self, clean: Clean) -> Result<(u64, Duration), Failure> {
        let start = Instant::now();
        let (guest, bitmap) = (self.order.guest, self.stub.bitmap_address());
        // SAFETY: the stub has a bitmap of that many bits there, and reads it
        // only after the event that follows.
        let dirty = unsafe {
            self.xen
                .clean_dirty_log(guest, bitmap, self.guest_pfns, clean)
        };
        Ok((
            dirty.doing("the dirty bitmap cannot be read")?,
            start.elapsed(),
        ))
    }

    /// Whether the guest has stopped, or is to be left alone.
    fn look_after_the_guest(&mut self) -> Result<(), Failure> {
        let cancelled = self.host.is_cancelled().doing("libxl has gone")?;
        if cancelled && !self.cancel_told && self.begun {
            self.cancel_told = true;
            self.peer.tell(self.now(), Event::Cancel)?;
            self.notify()?;
        }
        let Some(mut pause) = self.pause else {
            return Ok(());
        };
        if !pause.answered
            && let Some(answer) = self.host.suspend_answer().doing("libxl has gone")?
        {
            pause.answered = true;
            self.pause = Some(pause);
            if answer == SuspendAnswer::Failed && pause.stopped.is_none() {
                // Somebody else's wait ended; the guest may have stopped since.
                self.resume();
                self.peer.tell(self.now(), Event::SuspendFailed)?;
                return self.notify();
            }
        }
        if pause.stopped.is_none() && self.is_suspended()? {
            self.stopped(pause)?;
        }
        Ok(())
    }

    fn is_suspended(&self) -> Result<bool, Failure> {
        let state = self.xen.domain_state(self.order.guest);
        let state = state.doing("the guest's state cannot be read")?;
        let Some(state) = state.filter(|state| !state.dying) else {
            let error = io::Error::other("the guest has gone");
            return Err(error).doing("while it was to be suspended");
        };
        match state.shutdown {
            Some(_) if state.is_suspended() => Ok(true),
            Some(reason) => {
                let error = io::Error::other(format!("it shut down (reason {reason})"));
                Err(error).doing("the guest did not suspend itself")
            }
            None => Ok(false),
        }
    }

    /// The guest has stopped: the final bitmap, and gate 2.
    fn stopped(&mut self, mut pause: Pause) -> Result<(), Failure> {
        let stopped = Instant::now();
        pause.stopped = Some(stopped);
        let highest = self
            .xen
            .maximum_gpfn(self.order.guest)
            .doing("the guest's size cannot be read")?;
        if highest >= self.guest_pfns {
            let error = io::Error::other("it has grown since the attempt began; try again");
            return Err(error).doing("the guest's size");
        }
        let (dirty, took) = self.take_bitmap(Clean::Final)?;
        pause.bitmap = Some(took);
        self.pause = Some(pause);
        let took_bitmap = Micros(took.as_micros() as u64);
        self.peer
            .tell(self.now(), Event::Suspended { dirty, took_bitmap })?;
        self.notify()?;
        let requested = pause.requested.duration_since(self.order.start);
        let since_request = pause.requested.elapsed().as_nanos() as u64;
        self.host.tell(events::Event::Suspended(events::Suspended {
            requested_at_ms: requested.as_millis() as u64,
            stopped_at_ms: stopped.duration_since(self.order.start).as_millis() as u64,
            dirty_pages: dirty,
            requested_monotonic_ns: monotonic_ns().saturating_sub(since_request),
            predicted: pause.predicted.map(parts).unwrap_or_default(),
            predicted_downtime_ms: pause.predicted.map(|p| p.total().as_millis_ceil()),
        }));
        Ok(())
    }

    /// Deadlines, and what is done every so often.
    fn look_at_the_clock(&mut self) -> Result<Option<End>, Failure> {
        self.check_deadline()?;
        if self.ticked.elapsed() < TICK {
            return Ok(None);
        }
        self.ticked = Instant::now();
        self.drain_log();
        self.look_after_the_stub()?;
        let state = self.peer.machine().state();
        let copying = state == State::Copying;
        if self.begun && (copying || state == State::CopyingFinal) {
            let dirty = if copying { Some(self.count()?) } else { None };
            self.peer.tick(self.now(), dirty)?;
            self.notify()?;
            if self.progressed.elapsed() >= PROGRESS {
                self.tell_progress();
            }
        }
        Ok(None)
    }

    /// Gate 3, by our own clock: whatever the stub says or does not say, the
    /// guest runs again before the limit is over.
    fn check_deadline(&self) -> Result<(), Failure> {
        match self.until_deadline() {
            Some(Duration::ZERO) => Err(Failure::Deadline),
            _ => Ok(()),
        }
    }

    /// Time left to end the stream once the guest has stopped: after it comes
    /// the landing, or, if the attempt is given up, the resume.
    fn until_deadline(&self) -> Option<Duration> {
        let config = &self.order.config;
        let limit = config.limits.max_suspend?.micros();
        let pause = self.pause.filter(|pause| pause.stopped.is_some())?;
        let after = config.costs.landing.max(config.costs.resume);
        let deadline = Duration::from_micros(limit.since(after).0);
        Some(deadline.saturating_sub(pause.requested.elapsed()))
    }

    fn look_after_the_stub(&mut self) -> Result<(), Failure> {
        let state = self.xen.domain_state(self.stub.domid());
        let alive = state
            .doing("the stub's state cannot be read")?
            .is_some_and(|state| state.shutdown.is_none() && !state.dying);
        if !alive {
            let crash = Crash::read(&self.stub.link().crash);
            let text = crash.map_or_else(|| "it left no record".into(), |crash| crash.to_string());
            return Err(Failure::StubDied(text));
        }
        let owes = !self.begun || self.peer.is_awaited() || self.slots.stub_is_busy();
        if !owes {
            self.heard = Instant::now();
        } else if self.heard.elapsed() > STUB_SILENCE {
            return Err(Failure::StubSilent);
        }
        Ok(())
    }

    fn drain_log(&mut self) {
        let mut lines = Vec::new();
        self.log
            .drain(&mut self.stub_log, &mut *self.decoder, |line| {
                lines.push(line)
            });
        for line in lines {
            self.host.tell(events::Event::Log(events::Log {
                level: line.level.into(),
                from: "stub".into(),
                text: line.text,
            }));
        }
    }

    fn say(&mut self, level: &str, text: String) {
        self.host.tell(events::Event::Log(events::Log {
            level: level.into(),
            from: "helper".into(),
            text,
        }));
    }

    /// Headers and the records that do not change.
    fn headers(&self) -> io::Result<Vec<u8>> {
        let mut bytes = records::headers(self.xen.version);
        let (leaves, msrs) = self.xen.cpu_policy(self.order.guest)?;
        for (kind, body) in [(Record::CpuidPolicy, leaves), (Record::MsrPolicy, msrs)] {
            if !body.is_empty() {
                bytes.extend(records::record(kind, &body));
            }
        }
        bytes.extend(records::record(Record::StaticDataEnd, &[]));
        Ok(bytes)
    }

    fn tell_started(&mut self) {
        let config = &self.order.config;
        let limits = config.limits;
        self.host.tell(events::Event::Started(events::Started {
            domid: self.order.guest,
            helper_pid: std::process::id(),
            guest_pages: self.pages,
            limit_ms: limits
                .max_suspend
                .map(|limit| limit.micros().as_millis_ceil()),
            timeout_ms: limits
                .timeout
                .map(|timeout| timeout.micros().as_millis_ceil()),
            stub_domid: self.stub.domid(),
            stub_memory_bytes: self.stub.memory_bytes(),
            stub_boot_ms: self.order.start.elapsed().as_millis() as u64,
            fixed_costs: PauseParts {
                pages_ms: None,
                ..parts(config.costs.downtime())
            },
        }));
    }

    fn tell_progress(&mut self) {
        self.progressed = Instant::now();
        let machine = self.peer.machine();
        let progress = events::Progress {
            at_ms: self.order.start.elapsed().as_millis() as u64,
            round: machine.round(),
            round_sent: machine.round_sent(),
            round_pages: machine.round_pages(),
            pages_sent: machine.pages_sent(),
            dirty_pages: machine.dirty_count(),
            transfer_rate: known(machine.transfer_rate().lower.bytes()),
            dirty_rate: Some(machine.dirty_rate().upper.0).filter(|rate| *rate > 0),
            predicted_downtime_ms: self.prediction(),
        };
        self.host.tell(events::Event::Progress(progress));
    }

    /// The pause predicted last; not before the link's rate is known.
    fn prediction(&self) -> Option<u64> {
        let machine = self.peer.machine();
        known(machine.transfer_rate().lower.bytes())?;
        Some(machine.prediction()?.total().as_millis_ceil())
    }

    /// Tells of the round that ended last, and of what follows.
    fn tell_round(&mut self, decision: &str) {
        let machine = self.peer.machine();
        let Some(record) = machine.history().last() else {
            return;
        };
        let round = events::Round {
            at_ms: self.order.start.elapsed().as_millis() as u64,
            round: record.round,
            pages_sent: record.pages_sent,
            pages_dirtied: record.dirtied,
            duration_ms: record.duration.as_millis_ceil(),
            transfer_rate: record.transfer_rate.and_then(|rate| known(rate.bytes())),
            dirty_rate: Some(machine.dirty_rate().upper.0).filter(|rate| *rate > 0),
            predicted_downtime_ms: Some(record.predicted_downtime.as_millis_ceil()),
            decision: decision.into(),
        };
        self.host.tell(events::Event::Round(round));
    }

    /// Tells of the final round, which the history does not hold.
    fn tell_final_round(&mut self) {
        let machine = self.peer.machine();
        let round = events::Round {
            at_ms: self.order.start.elapsed().as_millis() as u64,
            round: machine.round() + 1,
            pages_sent: machine.round_sent(),
            pages_dirtied: 0,
            duration_ms: self.observed().pages_ms.unwrap_or(0),
            transfer_rate: None,
            dirty_rate: None,
            predicted_downtime_ms: machine.prediction().map(|p| p.total().as_millis_ceil()),
            decision: "finish".into(),
        };
        self.host.tell(events::Event::Round(round));
    }

    fn observed(&self) -> PauseParts {
        let Some(pause) = self.pause else {
            return PauseParts::default();
        };
        let between =
            |from: Option<Instant>, to: Option<Instant>| Some(millis(to?.duration_since(from?)));
        let bitmap_done = pause.stopped.zip(pause.bitmap).map(|(at, took)| at + took);
        PauseParts {
            suspend_ms: between(Some(pause.requested), pause.stopped),
            final_bitmap_ms: pause.bitmap.map(millis),
            pages_ms: between(bitmap_done, pause.pages_sent),
            cpu_state_ms: between(pause.pages_sent, pause.state_sent),
            landing_ms: None,
        }
    }
}

fn known(rate: ByteRate) -> Option<u64> {
    Some(rate.0).filter(|rate| *rate > 0)
}

fn parts(downtime: Downtime) -> PauseParts {
    let ms = |part: Micros| Some(part.as_millis_ceil());
    PauseParts {
        suspend_ms: ms(downtime.suspend),
        final_bitmap_ms: ms(downtime.final_bitmap),
        pages_ms: ms(downtime.pages),
        cpu_state_ms: ms(downtime.cpu_state),
        landing_ms: ms(downtime.landing),
    }
}

/// Everything after the last page: clock, CPUs, parameters, end.
fn cpu_state(xen: &Xen, guest: DomId) -> io::Result<Vec<u8>> {
    let tsc = xen.tsc_info(guest)?;
    let context = xen.hvm_context(guest)?;
    let mut params = Vec::with_capacity(records::HVM_PARAMS.len());
    for index in records::HVM_PARAMS {
        params.push((index, xen.hvm_param(guest, index)?));
    }
    let mut bytes = records::record(Record::TscInfo, &records::tsc_info_body(&tsc));
    bytes.extend(records::record(Record::HvmContext, &context));
    if let Some(body) = records::hvm_params_body(&params) {
        bytes.extend(records::record(Record::HvmParams, &body));
    }
    bytes.extend(records::record(Record::End, &[]));
    Ok(bytes)
}
