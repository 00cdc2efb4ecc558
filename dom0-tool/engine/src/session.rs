//! The main loop: read the stub's messages, write the stream, watch the guest.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lull_base::ready;
use lull_core::link::LogReader;
use lull_core::machine::{Action, Event};
use lull_core::refusal::Refusal;
use lull_core::units::{Micros, PageRate};
use lull_wire::events::How;
use lull_wire::trace::Recorder;
use lull_xen::domctl::Clean;
use rustix::event::{PollFd, PollFlags};

use super::attempt::{AttemptStats, MigrationRequest, Verify};
use super::clock::{Owed, SUSPEND_POLL, SUSPEND_POLL_MAX, TICK};
use super::domains::Domains;
use super::explain::Verdict;
use super::failure::{Doing, Failure};
use super::guest::RunningOn;
use super::landing::{Landing, Means};
use super::log_dirty::Cleaned;
use super::pause::Pause;
use super::peer::{Peer, ProtocolViolation, StubMessage};
use super::prepare::{Listed, Prepared};
use super::saved::Saved;
use super::slots::Slots;
use super::standstill::Standstill;
use super::throttle::Throttle;
use super::{Host, News};
use crate::stream::queue::Queue;
use crate::stream::sink::Sink;
use crate::stub::{LogDecoder, StubLog};

/// The most signals without a message that a stub may send in a tick, 100 ms. A signal may
/// come late, for a message that was read already.
const IDLE_WAKES_MAX: u32 = 64;

/// How the loop ended, if it did not fail.
pub(super) enum End {
    Complete,
    Refused(Box<Refusal>),
}

/// A guest that was stopped and has been resumed on this host.
#[derive(Clone, Copy)]
pub(super) struct Resumed {
    /// Time from the request to suspend until the guest ran again.
    pub pause: Duration,
    /// Time from the decision to give up; `None` if the guest stopped only after it.
    pub took: Option<Duration>,
}

/// The state of the loop.
pub(super) struct Session<'s> {
    pub(super) domains: &'s dyn Domains,
    pub(super) listed: &'s Listed,
    pub(super) request: &'s MigrationRequest,
    pub(super) host: &'s mut dyn Host,
    pub(super) sink: Sink,
    pub(super) log: &'s StubLog,
    pub(super) stub_log: LogReader<'s>,
    pub(super) decoder: LogDecoder<'s>,
    pub(super) peer: Peer<'s>,
    pub(super) slots: Slots,
    pub(super) queue: Queue,
    pub(super) landing: Box<dyn Landing>,
    /// The bandwidth cap while the guest runs. It ends with the request to suspend, so that
    /// it lengthens no pause.
    pub(super) throttle: Option<Throttle>,
    /// Whether the throttle has held bytes back since the last batch.
    pub(super) held_back: bool,
    pub(super) standstill: Standstill,
    pub(super) pause: Option<Pause>,
    /// The messages of the other processes so far.
    pub(super) news: News,
    /// The machine has received the cancellation.
    pub(super) cancel_fed: bool,
    /// The machine knows that xl's handshake is over.
    pub(super) handover_fed: bool,
    pub(super) begun: bool,
    /// The machine waits for a count: see [`Self::count_if_due`].
    pub(super) count_due: bool,
    /// All pages are sent and the rest of the stream is in the queue.
    pub(super) finishing: bool,
    /// When the stub last spoke or last owed nothing.
    pub(super) last_message_at: Instant,
    pub(super) owed: Owed,
    /// Signals since the last tick that came without a message.
    pub(super) idle_wakes: u32,
    /// Whether the stub has signalled since its messages were last read.
    signalled: bool,
    pub(super) ticked: Instant,
    /// When the engine last checked whether the stub has been told to shut down.
    pub(super) asked_at: Instant,
    pub(super) progressed: Instant,
    /// Set when a stopped guest was resumed here because the attempt was refused.
    pub(super) resumed: Option<Resumed>,
    /// Whether the last try to resume the guest failed.
    pub(super) resume_failed: bool,
    /// Set while the pause is being given up and the attempt goes on.
    pub(super) running_on: Option<RunningOn>,
    /// The bandwidth cap that was in force until the guest was asked to stop.
    pub(super) cap: Option<PageRate>,
    /// The stopped guest's state, if it was read before it was needed.
    pub(super) saved: Option<Saved>,
}

impl<'s> Session<'s> {
    pub fn new<D: Domains>(
        request: &'s MigrationRequest,
        host: &'s mut dyn Host,
        sink: Sink,
        landing: Box<dyn Landing>,
        log: &'s StubLog,
        prepared: &'s Prepared<D>,
        recorder: &'s mut dyn Recorder,
    ) -> Self {
        let now = Instant::now();
        let Prepared {
            domains, listed, ..
        } = prepared;
        let link = domains.link();
        Self {
            domains,
            listed,
            request,
            host,
            sink,
            landing,
            log,
            stub_log: LogReader::new(&link.log),
            decoder: log.decoder(),
            peer: Peer::new(link, request.config, recorder),
            slots: Slots::new(listed.guest_pfns),
            queue: Queue::default(),
            throttle: None,
            held_back: false,
            standstill: Standstill::new(now),
            pause: None,
            news: News::default(),
            cancel_fed: false,
            handover_fed: false,
            begun: false,
            count_due: false,
            finishing: false,
            last_message_at: now,
            owed: Owed::default(),
            idle_wakes: 0,
            signalled: false,
            ticked: now,
            asked_at: now,
            progressed: now,
            resumed: None,
            resume_failed: false,
            running_on: None,
            cap: None,
            saved: None,
        }
    }

    /// Runs the loop. Whatever its outcome, the guest is left stopped only if the stream is
    /// complete.
    pub fn run_and_undo(&mut self) -> (Verdict, AttemptStats) {
        let end = self.run();
        let verdict = match &end {
            Ok(End::Complete) => {
                // If lull starts the copy itself, the guard has the report already.
                if !self.landing.name().is_handshake_first() {
                    self.host.commit();
                }
                Verdict::plain(How::StreamComplete, "", "")
            }
            Ok(End::Refused(refusal)) => Verdict::from(&**refusal),
            Err(failure) => Verdict::from(failure),
        };
        let verdict = match verdict.how {
            How::StreamComplete => verdict,
            _ => {
                let mut verdict = self.ensure_running(verdict);
                if self.resume_failed {
                    self.host.leave_guest();
                }
                self.explain_standstill(&mut verdict);
                verdict
            }
        };
        // Once a guest waits to land, nothing that the stub may still say is read.
        if verdict.how != How::StreamComplete {
            self.drain_log();
        }
        let stub_cpu = self.domains.stub().ok().flatten();
        let last_pages_per_mille = self.last_pages_per_mille();
        let stats = AttemptStats {
            observed: self.observed(),
            round_trip: last_pages_per_mille.map_or(Micros::ZERO, |_| self.round_trip()),
            last_pages_per_mille,
            refused_pause: self.resumed.map(|resumed| resumed.pause),
            resume: self.resumed.and_then(|resumed| resumed.took),
            complete_at: self.pause.and_then(|pause| pause.state_sent),
            pages_sent: self.peer.machine().pages_sent(),
            bytes_sent: self.queue.written() + self.landing.written_elsewhere(),
            stub_cpu_ms: stub_cpu.map(|state| state.cpu_time_ns / 1_000_000),
            land_lost: matches!(end, Err(Failure::LandLost(_))),
        };
        (verdict, stats)
    }

    fn run(&mut self) -> Result<End, Failure> {
        let headers = self.domains.headers();
        self.queue
            .push(headers.doing("the guest's CPU policy cannot be read")?);
        self.emit_started();
        loop {
            let turn = Instant::now();
            if let Some(end) = self.recv()? {
                return Ok(end);
            }
            self.write()?;
            self.save_ahead()?;
            self.recv_news()?;
            self.advance_landing()?;
            self.poll_guest()?;
            self.apply_requests()?;
            self.check_timers()?;
            if self.is_complete() {
                if !self.is_suspended()? {
                    return Err(Failure::ResumedByAnother);
                }
                return match self.landing.name().is_handshake_first() {
                    true => self.start_copy(),
                    false => Ok(End::Complete),
                };
            }
            let longest = match self.pause {
                // The guest's suspend runs through dom0's xenstored, which may have to
                // share this processor.
                Some(Pause { stopped: None, .. }) => {
                    (4 * turn.elapsed()).clamp(SUSPEND_POLL, SUSPEND_POLL_MAX)
                }
                _ => TICK.saturating_sub(self.ticked.elapsed()),
            };
            let longest = longest.min(self.until_deadline().unwrap_or(longest));
            self.wait(longest).doing("waiting failed")?;
        }
    }

    /// Whether the stream is written to its last byte. libxl accepts no other message
    /// before it has answered the request to suspend. That answer may come later than the
    /// moment when the engine saw the guest stop.
    fn is_complete(&mut self) -> bool {
        let Some(pause) = self.pause.as_mut().filter(|_| self.finishing) else {
            return false;
        };
        if !self.queue.is_empty() || !self.landing.is_complete() {
            return false;
        }
        pause.state_sent.get_or_insert_with(Instant::now);
        pause.answered
    }

    /// The landing, and what it works with.
    pub(super) fn landing(&mut self) -> (&mut dyn Landing, Means<'_>) {
        let means = Means {
            domains: self.domains,
            guest_pfns: self.listed.guest_pfns,
            populated: &self.listed.populated,
            queue: &mut self.queue,
            sink: &mut self.sink,
            host: self.host,
            news: self.news,
        };
        (&mut *self.landing, means)
    }

    /// Whether the engine itself has the guest's QEMU stopped and its state saved. Otherwise
    /// libxl does so, or the guest has none.
    pub(super) fn saves_devices(&self) -> bool {
        self.request.has_devices && self.landing.asks_itself()
    }

    pub(super) fn now(&self) -> Micros {
        Micros(self.request.start.elapsed().as_micros() as u64)
    }

    /// Sleeps until an event occurs, for at most `longest`.
    pub(super) fn wait(&mut self, longest: Duration) -> io::Result<()> {
        // After too many signals without a message, the stub is ignored until the next
        // tick. It could otherwise burn one of dom0's processors.
        let signals = match self.idle_wakes < IDLE_WAKES_MAX {
            true => PollFlags::IN,
            false => PollFlags::empty(),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.domains.signal(), signals)];
        let mut longest = longest;
        let further = self.landing.write_on();
        if !(self.queue.is_empty() && further.is_empty()) {
            let now = Instant::now();
            let held = self.throttle.as_mut().and_then(|throttle| {
                let none = throttle.allowed(now) == 0;
                none.then(|| throttle.wait(now))
            });
            match held {
                Some(held) => longest = longest.min(held),
                None => {
                    let first = (!self.queue.is_empty()).then(|| self.sink.as_fd());
                    let sinks = first.into_iter().chain(further);
                    fds.extend(sinks.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
                }
            }
        }
        let mut wake = self.host.wake_on();
        wake.extend(self.landing.wake_on());
        fds.extend(
            wake.iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        ready::wait(&mut fds, Some(longest))?;
        self.signalled = fds[0].revents().contains(PollFlags::IN);
        match signals.is_empty() {
            true => Ok(()),
            false => self.domains.take_signal(),
        }
    }

    /// Handles all messages of the stub that have arrived.
    fn recv(&mut self) -> Result<Option<End>, Failure> {
        let mut received = false;
        loop {
            // The deadline is checked before each message: the guest runs again in time,
            // however much the stub has to say. The check precedes the message, so that a
            // refusal which the stub reaches now still gives the reason.
            self.keep_deadline()?;
            let Some(said) = self.peer.recv()? else {
                break;
            };
            received = true;
            match said {
                StubMessage::Hello if self.begun => return Err(ProtocolViolation::Turn.into()),
                StubMessage::Hello => {
                    self.begun = true;
                    self.begin()?;
                    if self.request.bandwidth.0.is_some() {
                        self.hold_to(self.request.bandwidth)?;
                    }
                }
                StubMessage::Map { slot, count } => self.map(slot, count)?,
                StubMessage::Filled { slot } => self.filled(slot)?,
                StubMessage::Scanned => self.slots.scanned()?,
                StubMessage::Did(action) => {
                    if let Some(end) = self.act(*action)? {
                        return Ok(Some(end));
                    }
                }
            }
        }
        if std::mem::take(&mut self.signalled) && !received {
            self.idle_wakes = self.idle_wakes.saturating_add(1);
        }
        if received {
            self.last_message_at = Instant::now();
            self.notify()?;
        }
        Ok(None)
    }

    /// Begins round 0, once the stub runs and the landing takes pages. Where the destination
    /// had to be ready first, the guest has run since its frames were listed: a CLEAN leaves
    /// the first count only what is written from now on.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        if !self.begun || self.landing.is_resting() {
            return Ok(());
        }
        let (mut pages, mut took) = (self.listed.pages, self.listed.took_bitmap);
        if self.landing.has_first_pass() {
            let cleaned = self.take_bitmap(Clean::Live)?;
            pages = cleaned.dirty + self.domains.add_to_bitmap(&self.listed.populated);
            took = took.max(cleaned.took);
        }
        let took_bitmap = Micros(took.as_micros() as u64);
        let begin = Event::Begin { pages, took_bitmap };
        Ok(self.peer.feed(self.now(), begin)?)
    }

    /// Reads the messages of the attempt's other processes. READY must come in its turn: a
    /// destination that does not have the first pass yet cannot be ready.
    pub(super) fn recv_news(&mut self) -> Result<(), Failure> {
        self.news = self.host.poll().doing("the attempt cannot go on")?;
        if let Some(why) = self.news.hung_up {
            return Err(Failure::HungUp(why));
        }
        let has_first_pass = self.landing.has_first_pass();
        match self.news.target_ready && !has_first_pass {
            true => Err(Failure::EarlyReady),
            false => Ok(()),
        }
    }

    pub(super) fn notify(&self) -> Result<(), Failure> {
        self.domains.notify().doing("the stub cannot be signalled")
    }

    /// Carries out the machine's decision.
    fn act(&mut self, action: Action) -> Result<Option<End>, Failure> {
        match action {
            Action::None => {}
            Action::Copy { pages, .. } | Action::CopyFinal { pages } => {
                self.slots.start_round(pages);
                self.landing.begin_round();
            }
            Action::Count => {
                let (landing, mut means) = self.landing();
                // If it waits, the count is answered once the destination is ready.
                if !landing.end_round(&mut means)? {
                    self.count_due = true;
                    self.count_if_due()?;
                }
            }
            Action::TakeBitmap => {
                self.emit_round("another-round");
                self.take_live_bitmap()?;
            }
            Action::HandOver => {
                self.emit_round("hand-over");
                // xl would rename a guest that another program has stopped.
                if self.guest_state()?.is_suspended() {
                    return Err(Failure::SuspendedByAnother);
                }
                self.host
                    .hand_over()
                    .doing("the guest cannot be handed over")?;
                self.take_live_bitmap()?;
            }
            Action::Suspend => {
                self.cap = self.throttle.take().map(|throttle| throttle.cap());
                // "suspend" says that the guest is asked to: `lull migrate` resumes a guest
                // that it finds suspended only then.
                let asked = self.may_ask_to_suspend();
                self.emit_round(if asked.is_ok() { "suspend" } else { "refuse" });
                asked?;
                self.pause = Some(Pause::begin(self.peer.machine()));
                self.host
                    .ask_to_suspend()
                    .doing("the guest cannot be asked to suspend")?;
            }
            Action::Finish => {
                if self.request.verify == Verify::Yes {
                    self.verify_all_pages()?;
                }
                // The time of the comparison counts as the pages' time.
                if let Some(pause) = &mut self.pause {
                    pause.pages_sent = Some(Instant::now());
                }
                self.emit_final_round();
                self.send_all_depopulated()?;
                self.check_deadline()?;
                if self.saves_devices() {
                    let devices = self.host.saved_devices();
                    let devices = devices.doing("the state of its QEMU cannot be read")?;
                    self.landing.send_devices(&mut self.queue, &devices);
                }
                let ahead = self.saved.take();
                let state = ahead.map_or_else(|| self.save(), Ok)?;
                self.landing.send_final_state(&mut self.queue, &state)?;
                self.finishing = true;
            }
            Action::Refuse(refusal) => {
                self.emit_round("refuse");
                return Ok(Some(End::Refused(Box::new(refusal))));
            }
            Action::Resume(refusal) => {
                self.resume();
                return Ok(Some(End::Refused(Box::new(refusal))));
            }
            Action::RunOn(refusal) => self.give_up_pause(refusal)?,
        }
        Ok(None)
    }

    /// Whether the guest may be asked to suspend now.
    fn may_ask_to_suspend(&mut self) -> Result<(), Failure> {
        self.clear_windows()?;
        // The stub may have reported this decision late.
        if self.is_out_of_time() {
            return Err(Failure::OutOfTime);
        }
        if self.limit_in_force().is_some() && self.is_ballooning()? {
            return Err(Failure::Ballooning);
        }
        // Otherwise this attempt would resume, or move, a guest that another program has
        // stopped.
        if self.guest_state()?.is_suspended() {
            return Err(Failure::SuspendedByAnother);
        }
        // libxl could not stop such a QEMU, and the guest waits for its disks.
        let emulated = self.host.emulated();
        match emulated.make_run().complaint(emulated.words()) {
            Some(complaint) => Err(Failure::Devices(complaint)),
            None => Ok(()),
        }
    }

    /// Reads the stopped guest's state while the destination puts the last pages into place.
    fn save_ahead(&mut self) -> Result<(), Failure> {
        let is_stopped = self.pause.is_some_and(|pause| pause.bitmap.is_some());
        let all_written = self.queue.is_empty() && !self.slots.stub_is_busy();
        // Saving would delay the answer that ends the round trip.
        let is_measuring = self.landing.awaits_round_trip();
        let is_idle = all_written && !self.landing.is_answered() && !is_measuring;
        if is_stopped && is_idle && !self.finishing && self.saved.is_none() {
            self.saved = Some(self.save()?);
        }
        Ok(())
    }

    fn save(&self) -> Result<Saved, Failure> {
        let state = self.domains.saved();
        state.doing("the guest's state cannot be read")
    }

    /// Takes the bitmap of the next round.
    fn take_live_bitmap(&mut self) -> Result<(), Failure> {
        self.clear_windows()?;
        let Cleaned { dirty, took } = self.take_bitmap(Clean::Live)?;
        let took = Micros(took.as_micros() as u64);
        Ok(self.peer.feed(self.now(), Event::Bitmap { dirty, took })?)
    }
}
