//! The relay loop. It carries both directions and carries out the gate's decisions.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lull_base::monotonic::{now_ns, span_ms};
use lull_base::ready;
use lull_wire::events::{self, Answered, GuestThen, HandedOver, HungUp, Ready, TargetReady};
use lull_wire::gate::ToEngine;
use rustix::event::{PollFd, PollFlags};

use super::backward::{FromDestination, Received};
use super::forward::{Progress, ToDestination};
use super::gate::{Decision, Event, Gate, Guest, Refused, Then};
use super::resume::Source;
use super::sockets::Sockets;

/// Time that a fast landing's engine has to resume the guest after a refusal is reported to
/// it. xl takes as long.
const RESUMING: Duration = Duration::from_secs(2);

/// Time that the destination has to report after GO. A link that is cut at that moment is
/// silent for a quarter of an hour, until TCP gives up; xl and its operator would wait as
/// long. A handshake that precedes the stop has as long from READY on.
const REPORTING: Duration = Duration::from_secs(60);

/// Time that xl has to give GO and to take a guest back.
const TAKING_BACK: Duration = Duration::from_secs(30);

/// Interval between two checks whether the engine has resumed the guest.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The four descriptors that the relay connects.
pub struct Ends {
    /// Carries the migration stream and xl's GO.
    pub from_xl: OwnedFd,
    /// Carries the handshake that xl reads.
    pub to_xl: OwnedFd,
    /// The input of the program that connects to the destination.
    pub to_peer: OwnedFd,
    /// The output of the program that connects to the destination.
    pub from_peer: OwnedFd,
}

/// How the relay ended, and what it leaves to clear up.
pub enum RelayOutcome {
    /// Both directions reached their end.
    Ended,
    /// The connection was refused. The destination may still be clearing up; its output is
    /// included unless it has ended.
    HungUp(Option<OwnedFd>),
    /// The connection was refused before the receiver's banner arrived.
    NothingBegun,
    /// GO was sent, and no report arrived.
    NoReport,
}

/// Relays between xl and the destination, and holds READY until the gate decides.
pub struct Relay<'a> {
    forward: ToDestination,
    backward: FromDestination,
    gate: Gate,
    sockets: Sockets,
    source: &'a mut dyn Source,
    ready_ns: Option<u64>,
    /// READY was passed on in the pause. xl may have sent GO at any moment since, so no
    /// further decision is made, even if a peer dies. Or the engine was permitted to have the
    /// copy started, and knows alone what becomes of it.
    passed: bool,
    /// When READY was passed on for a handshake that precedes the stop, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    handing_over_ns: Option<u64>,
    /// Time of the first bytes that xl sends after READY, which are GO, or of the permission
    /// to the engine; nanoseconds of `CLOCK_MONOTONIC`.
    go_ns: Option<u64>,
    answered: bool,
}

/// The descriptor that a poll entry stands for.
#[derive(Clone, Copy)]
enum Wake {
    Sockets,
    ToDestination,
    Read,
    Write,
}

impl<'a> Relay<'a> {
    /// Creates a relay that has carried nothing yet.
    ///
    /// # Errors
    /// When an end cannot be made not to block.
    pub fn new(
        ends: Ends,
        gate: Gate,
        sockets: Sockets,
        source: &'a mut dyn Source,
    ) -> rustix::io::Result<Self> {
        Ok(Self {
            forward: ToDestination::new(ends.from_xl, ends.to_peer)?,
            backward: FromDestination::new(ends.from_peer, ends.to_xl),
            gate,
            sockets,
            source,
            ready_ns: None,
            passed: false,
            handing_over_ns: None,
            go_ns: None,
            answered: false,
        })
    }

    /// Carries until there is nothing left to carry.
    ///
    /// # Errors
    /// When the kernel cannot be asked what is ready.
    pub fn run(mut self) -> rustix::io::Result<RelayOutcome> {
        loop {
            let mut until = None;
            if !self.passed {
                match self.gate.decide(now_ns()) {
                    Decision::Wait(deadline) => until = deadline,
                    Decision::HandOver => {
                        self.hand_over();
                        continue;
                    }
                    // This is the last check: GO cannot be called back.
                    Decision::Pass => match self.source.runs() {
                        Ok(true) => {
                            return Ok(self.refuse(Refused::RunsHere, Guest::LeaveAlone));
                        }
                        // Whoever may be able to resume it does: the engine or xl.
                        Err(_) => {
                            return Ok(self.refuse(Refused::StateUnread, Guest::LeaveAlone));
                        }
                        Ok(false) => self.pass(),
                    },
                    Decision::Refuse(why, guest) => return Ok(self.refuse(why, guest)),
                }
            }
            if self.passed {
                match self.gate.after_permission() {
                    Some(Then::Started) => self.started(),
                    Some(Then::NotStarted) => {
                        return Ok(self.refuse(Refused::GivenUp, Guest::LeaveAlone));
                    }
                    Some(Then::Unknown) => return Ok(self.close_without_report()),
                    None => {}
                }
            }
            if self.backward.is_over() && self.forward.is_over() {
                return Ok(RelayOutcome::Ended);
            }
            if let Some(deadline) = self.report_due() {
                if now_ns() >= deadline {
                    return Ok(self.close_without_report());
                }
                until = Some(deadline);
            }
            if let Some(deadline) = self.handshake_due() {
                if now_ns() >= deadline {
                    self.gate.note(Event::PeerGone);
                    continue;
                }
                until = Some(until.map_or(deadline, |until| until.min(deadline)));
            }
            self.wait(until)?;
        }
    }

    /// xl reads an end of file, and reports that it does not know where the guest is.
    fn close_without_report(mut self) -> RelayOutcome {
        self.forward.close();
        self.backward.close();
        RelayOutcome::NoReport
    }

    fn wait(&mut self, until: Option<u64>) -> rustix::io::Result<()> {
        let woken = self.poll(until)?;
        // Messages are read first, so that READY is judged with the latest state.
        for wake in woken {
            match wake {
                Wake::Sockets => {
                    let gate = &mut self.gate;
                    self.sockets.recv(|event| gate.note(event));
                }
                Wake::ToDestination => {
                    if self.passed {
                        self.go_ns.get_or_insert_with(now_ns);
                    }
                    match self.forward.go_on() {
                        Progress::Open => {}
                        Progress::Ended => self.gate.note(Event::XlGone),
                        // A receiver that has reported ends, and xl's end is still waited for.
                        Progress::Broken if self.gate.has_reported() => {}
                        // If the destination is gone, its output closes too, and that is
                        // handled there. xl must not wait for room meanwhile.
                        Progress::Broken => self.forward.close(),
                    }
                }
                Wake::Read => match self.backward.read() {
                    Received::Nothing => {}
                    Received::Banner => self.gate.note(Event::Banner),
                    Received::Ready => self.ready_came(),
                    Received::BannerAndReady => {
                        self.gate.note(Event::Banner);
                        self.ready_came();
                    }
                    Received::Answer => self.answered(),
                    Received::Report { taken } => self.reported(taken),
                    Received::End => self.gate.note(Event::PeerGone),
                },
                Wake::Write => self.backward.write(),
            }
        }
        Ok(())
    }

    /// READY has arrived, and is held.
    fn ready_came(&mut self) {
        let came_monotonic_ns = now_ns();
        self.ready_ns = Some(came_monotonic_ns);
        self.gate.note(Event::Ready);
        if self.gate.landing().is_fast() {
            let ready = TargetReady { came_monotonic_ns };
            self.sockets.send_to_engine(ToEngine::TargetReady);
            self.sockets.emit(events::Event::TargetReady(ready));
        }
        // An order may have arrived at the same moment.
        let gate = &mut self.gate;
        self.sockets.recv(|event| gate.note(event));
    }

    fn poll(&self, until: Option<u64>) -> rustix::io::Result<Vec<Wake>> {
        let [front_end, engine] = self.sockets.wake_on();
        let (names, mut fds): (Vec<Wake>, Vec<PollFd<'_>>) = [
            (Wake::Sockets, front_end),
            (Wake::Sockets, engine),
            (Wake::ToDestination, self.forward.wake_on()),
            (Wake::Read, self.backward.readable()),
            (Wake::Write, self.backward.writable()),
        ]
        .into_iter()
        .filter_map(|(name, wake)| {
            let (fd, flags) = wake?;
            Some((name, PollFd::from_borrowed_fd(fd, flags)))
        })
        .unzip();
        let left = until.map(|until| Duration::from_nanos(until.saturating_sub(now_ns())));
        ready::wait(&mut fds, left)?;
        let is_ready = |fd: &PollFd<'_>| fd.revents() != PollFlags::empty();
        let woken = names.iter().zip(&fds).filter(|(_, fd)| is_ready(fd));
        Ok(woken.map(|(name, _)| *name).collect())
    }

    /// Begins the handshake while the guest runs.
    fn hand_over(&mut self) {
        self.handing_over_ns = Some(now_ns());
        self.gate.note(Event::HandingOver);
        if let Received::Report { taken } = self.backward.open_and_keep() {
            self.reported(taken);
        }
    }

    /// The receiver has answered that handshake; xl reads it later.
    fn reported(&mut self, taken: bool) {
        self.gate.note(Event::Reported { taken });
        if !taken {
            return;
        }
        self.sockets.send_to_engine(ToEngine::HandedOver);
        self.sockets.emit(events::Event::HandedOver(HandedOver {
            begun_monotonic_ns: self.handing_over_ns.unwrap_or(0),
            over_monotonic_ns: now_ns(),
        }));
    }

    /// The time at which a handshake ahead of the stop is overdue.
    fn handshake_due(&self) -> Option<u64> {
        let begun = self.handing_over_ns.filter(|_| !self.gate.has_reported())?;
        Some(begun + REPORTING.as_nanos() as u64)
    }

    /// `lull land` has started the copy: xl may destroy the guest here.
    fn started(&mut self) {
        self.answered();
        self.backward.release();
    }

    /// Gives the permission that cannot be called back. The front end receives it before the
    /// engine does: it must never be unaware of a permission that was used.
    fn pass(&mut self) {
        self.passed = true;
        self.emit_passed();
        if self.gate.is_handshake_first() {
            self.go_ns = Some(now_ns());
            self.sockets.send_to_engine(ToEngine::Start);
        } else {
            self.backward.open();
        }
    }

    fn emit_passed(&mut self) {
        let Some(came_ns) = self.ready_ns else {
            return;
        };
        self.sockets.emit(events::Event::Ready(Ready {
            came_monotonic_ns: came_ns,
            passed_monotonic_ns: now_ns(),
        }));
    }

    /// The time at which the destination's report is overdue, in nanoseconds of
    /// `CLOCK_MONOTONIC`; `None` while no report is awaited.
    fn report_due(&self) -> Option<u64> {
        let waits = !self.answered && !self.backward.is_over();
        let go_ns = self.go_ns.filter(|_| waits)?;
        Some(go_ns + REPORTING.as_nanos() as u64)
    }

    /// Reports the answer to GO, once. This happens before xl reads the answer, and the
    /// front end learns of it from xl.
    fn answered(&mut self) {
        let now = now_ns();
        let Some(go_ns) = self.go_ns.filter(|_| !self.answered) else {
            return;
        };
        self.answered = true;
        self.sockets.emit(events::Event::Answered(Answered {
            go_monotonic_ns: go_ns,
            answer_monotonic_ns: now,
        }));
    }

    /// Handles a refusal: the guest is resumed first, then the refusal is reported to the
    /// engine and the front end, and the connection is closed last.
    fn refuse(mut self, why: Refused, guest: Guest) -> RelayOutcome {
        let decided_ns = now_ns();
        let (guest, error) = match guest {
            Guest::LeaveAlone => (GuestThen::LeftAlone, String::new()),
            Guest::Resume => match self.source.resume() {
                Ok(then) => (then, self.source.complaint().unwrap_or_default().to_owned()),
                Err(error) => (GuestThen::CouldNotBeResumed, error.to_string()),
            },
        };
        let done_ns = now_ns();
        if self.gate.landing().is_fast() {
            self.sockets.send_to_engine(ToEngine::HungUp { why });
        }
        let since = self.gate.paused_since();
        let pause = since.filter(|_| guest == GuestThen::Resumed);
        self.sockets.emit(events::Event::HungUp(HungUp {
            why,
            ready_monotonic_ns: self.ready_ns,
            decided_monotonic_ns: decided_ns,
            guest,
            error,
            refused_pause_ms: pause.map(|since| span_ms(since, done_ns)),
            resume_ms: pause.map(|_| span_ms(decided_ns, done_ns)),
        }));
        if self.gate.is_the_engines() {
            self.leave_to_the_engine();
        }
        if self.gate.is_handed_over() {
            // xl awaits a report, and would not know without one.
            self.backward.give_back();
            self.forward.drop_the_rest(Instant::now() + TAKING_BACK);
        }
        self.forward.close();
        self.backward.close();
        // ssh would try for minutes to reach a host that does not answer.
        let unwanted = matches!(why, Refused::Cancelled | Refused::FrontEndGone);
        if unwanted && !self.gate.has_banner() {
            return RelayOutcome::NothingBegun;
        }
        RelayOutcome::HungUp(self.backward.into_rest())
    }

    /// Waits for a fast landing's engine, or for its guard if the engine is dead, to resume
    /// the guest. xl does not resume the guest while its end of the pipe is open. An engine
    /// that hangs, or that has reported at this very moment that everything is in place,
    /// does not resume it; the guest is then resumed here.
    fn leave_to_the_engine(&mut self) {
        let until = Instant::now() + RESUMING;
        while Instant::now() < until && self.gate.is_the_engines() {
            let gate = &mut self.gate;
            self.sockets.recv(|event| gate.note(event));
            if gate.has_given_up() && matches!(self.source.is_suspended(), Ok(false)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        // If this resume fails, xl still tries.
        let _ = self.source.resume();
    }
}
