//! The machine of `lull_core`, and dom0's own deadlines, in a [`World`].
//!
//! This module does what dom0's engine and relay do (`dom0-tool/engine`,
//! `dom0-tool/src/migrate`): it reports events to the machine, performs the machine's
//! actions, and takes the guest back when a deadline passes.

use std::ops::ControlFlow;

use lull_core::downtime::Downtime;
use lull_core::machine::{Action, Event, Machine, State};
use lull_core::refusal::Refusal;
use lull_core::units::Micros;

use crate::link::Grain;
use crate::scenario::{Mishap, Scenario};
use crate::world::{Pieces, World};

/// The interval between two ticks, in µs.
const TICK: u64 = 100_000;
/// The time of a hypercall that counts dirty pages, in µs.
const COUNT: u64 = 200;
/// The size of CPU state and parameters, in pages.
const STATE_PAGES: u64 = 16;
/// The time after which libxl gives up on a guest that does not stop, in µs.
const NEVER_STOPPED: u64 = 60_000_000;

/// The result of an attempt, and its figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How the attempt ended.
    pub end: End,
    /// The guest's pause, if there was one.
    pub pause: Option<Pause>,
    /// The number of rounds, without the final one.
    pub rounds: u32,
    /// The number of pages sent.
    pub pages_sent: u64,
    /// The time from the attempt's start to its end.
    pub took: Micros,
    /// The longest of the pauses given up earlier, and their number.
    pub given_up: (Micros, u32),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "as the machine's own Action; one at a time"
)]
pub enum End {
    /// The guest runs at the destination.
    Moved,
    /// The machine refused. `pause` says whether the guest had been stopped.
    Refused(Refusal),
    /// dom0's deadline passed before the stream was complete.
    Deadline,
    /// The relay's deadline passed before the destination was ready.
    NotReady,
    /// The attempt took longer than [`MAX_DURATION`].
    Endless,
}

/// A pause that ended at the destination or back at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The upper bound predicted when the guest was asked to stop.
    pub predicted: Downtime,
    /// The pause expected at that moment.
    pub expected: Downtime,
    /// The time for the last pages; `None` if not all of them were sent.
    pub pages: Option<Micros>,
    /// The time from the request until the guest ran again.
    pub since_request: Micros,
    /// The time from the guest's stop until it ran again.
    pub since_stop: Micros,
}

/// The simulator ends an attempt without a timeout after this time: a hundred days.
pub const MAX_DURATION: Micros = Micros(100 * 24 * 3_600 * 1_000_000);

/// Runs one attempt.
///
/// # Panics
/// If the simulator breaks the machine's protocol, which would be a bug in it.
pub fn run(scenario: &Scenario) -> Outcome {
    run_watched(scenario, |_, _, _, _| {})
}

/// Runs one attempt and calls `watch` for every step of the machine with the time, the
/// event, the action, and the machine itself.
///
/// # Panics
/// As [`run`].
pub fn run_watched(
    scenario: &Scenario,
    watch: impl FnMut(Micros, Event, &Action, &Machine),
) -> Outcome {
    let mut driver = Driver {
        scenario,
        machine: Machine::new(scenario.config()),
        world: World::new(scenario),
        next_tick: 0,
        cancel: match scenario.mishap {
            Mishap::Cancelled(at) => Some(at),
            _ => None,
        },
        given_up: (Micros::ZERO, 0),
        left: 0,
        handed_over: None,
        watch,
    };
    driver.run()
}

/// The machine's predictions when it asked the guest to stop.
struct Foreseen {
    predicted: Downtime,
    expected: Downtime,
    requested: u64,
}

struct Driver<'s, W> {
    scenario: &'s Scenario,
    machine: Machine,
    world: World<'s>,
    next_tick: u64,
    /// The time at which the operator cancels, if still to come.
    cancel: Option<u64>,
    given_up: (Micros, u32),
    /// The pages left of a round that was to be the final one.
    left: u64,
    /// The time at which the handover that has begun is over.
    handed_over: Option<u64>,
    watch: W,
}

impl<W: FnMut(Micros, Event, &Action, &Machine)> Driver<'_, W> {
    fn run(&mut self) -> Outcome {
        let pages = self.scenario.guest.pages;
        let mut action = self.feed(Event::Begin {
            pages,
            took_bitmap: Micros(self.scenario.actual.bitmap),
        });
        loop {
            if self.world.now() > MAX_DURATION.0 {
                return self.outcome(End::Endless, None);
            }
            action = match action {
                Action::Copy { pages, .. } => match self.copy(pages) {
                    Some(action) => action,
                    None => return self.outcome(End::Endless, None),
                },
                Action::Count => {
                    self.world.pass(COUNT);
                    let dirty = self.world.dirty_at(self.world.now());
                    self.feed(Event::Counted { dirty })
                }
                Action::TakeBitmap | Action::HandOver => {
                    if action == Action::HandOver {
                        let takes = self.scenario.actual.handover.unwrap_or(0);
                        self.handed_over = Some(self.world.now() + takes);
                    }
                    let dirty = self.world.take_bitmap();
                    let took = Micros(self.scenario.actual.bitmap);
                    self.feed(Event::Bitmap { dirty, took })
                }
                Action::Suspend => match self.pause() {
                    ControlFlow::Break(outcome) => return outcome,
                    ControlFlow::Continue(action) => action,
                },
                Action::Refuse(refusal) => return self.outcome(End::Refused(refusal), None),
                Action::None if self.machine.state() == State::HandingOver => {
                    self.wait_for_handover()
                }
                // Send the rest of a round that was to be the final one.
                Action::None => match self.copy(self.left) {
                    Some(action) => action,
                    None => return self.outcome(End::Endless, None),
                },
                Action::CopyFinal { .. }
                | Action::Finish
                | Action::Resume(_)
                | Action::RunOn(_) => {
                    unreachable!("{action:?} of a guest that runs")
                }
            };
        }
    }

    /// Reports an event at the current time, after everything else that has happened
    /// before.
    fn feed(&mut self, event: Event) -> Action {
        let now = self.world.now();
        if let Some(at) = self.cancel.filter(|at| *at <= now) {
            self.cancel = None;
            // A blocked write was not interrupted, so the machine's clock may be later than
            // the request.
            let at = at.max(self.last_reported());
            let action = self.step(at, Event::Cancel);
            if action != Action::None {
                return action;
            }
        }
        let waits = self.machine.state() == State::HandingOver;
        if self.handed_over.is_some_and(|at| at <= now && !waits) {
            self.handed_over = None;
            let action = self.step(now, Event::HandedOver);
            if action != Action::None {
                return action;
            }
        }
        self.step(now, event)
    }

    /// Lets time pass until the handover is over, or the attempt is.
    fn wait_for_handover(&mut self) -> Action {
        let until = self.handed_over.take().expect("a handover that has begun");
        if let Some(action) = self.tick_until(until) {
            return action;
        }
        self.world.pass_until(until);
        self.feed(Event::HandedOver)
    }

    /// The time up to which ticks may already have been reported.
    const fn last_reported(&self) -> u64 {
        self.next_tick.saturating_sub(TICK)
    }

    fn step(&mut self, at: u64, event: Event) -> Action {
        let at = Micros(at);
        let action = self.machine.step(at, event);
        let action = action.expect("the simulator keeps to the protocol");
        (self.watch)(at, event, &action, &self.machine);
        action
    }

    /// Reports the ticks before `until` and returns the machine's action, if there is one.
    /// The guest still runs.
    fn tick_until(&mut self, until: u64) -> Option<Action> {
        self.next_tick = self.next_tick.max(self.world.now());
        while self.next_tick < until && self.next_tick <= MAX_DURATION.0 {
            let at = self.next_tick;
            self.world.pass_until(at);
            self.next_tick += TICK;
            let dirty = Some(self.world.dirty_at(at));
            let action = self.feed(Event::Tick { dirty });
            if action != Action::None {
                return Some(action);
            }
        }
        None
    }

    /// Copies a live round; `None` if it never ends.
    fn copy(&mut self, pages: u64) -> Option<Action> {
        if let Some(answered) = self.world.round_trip() {
            if let Some(action) = self.tick_until(answered) {
                return Some(action);
            }
            self.world.pass_until(answered);
            let action = self.feed(Event::RoundTrip);
            if action != Action::None {
                return Some(action);
            }
        }
        for (pages, grain) in Pieces::of_round(pages, self.scenario.link.rate) {
            let written = self.world.write(pages, grain);
            if grain == Grain::Coarse {
                // One tick, at the end of the write.
                self.next_tick = self.next_tick.max(written.saturating_sub(1));
            }
            if let Some(action) = self.tick_until(written) {
                return Some(action);
            }
            if written > MAX_DURATION.0 {
                return None;
            }
            self.world.pass_until(written);
            let pages = u32::try_from(pages).expect("pieces are small");
            let action = self.feed(Event::Sent {
                requested: pages,
                pages,
                zeros: 0,
            });
            if action != Action::None {
                return Some(action);
            }
        }
        unreachable!("the machine counts the pages of a round")
    }

    /// Runs the pause from the request on. Returns the machine's action if the pause is
    /// given up but the attempt continues.
    fn pause(&mut self) -> ControlFlow<Outcome, Action> {
        let actual = &self.scenario.actual;
        let requested = self.world.now();
        self.world.request();
        let foreseen = Foreseen {
            predicted: self.machine.prediction().unwrap_or_default(),
            expected: self.machine.expected().unwrap_or_default(),
            requested,
        };
        if let Mishap::CancelledAfterRequest(after) = self.scenario.mishap {
            self.cancel = Some(requested + after);
        }
        if self.scenario.mishap == Mishap::NeverStops {
            self.world.pass(NEVER_STOPPED);
            return match self.feed(Event::SuspendFailed) {
                Action::Refuse(refusal) => {
                    ControlFlow::Break(self.outcome(End::Refused(refusal), None))
                }
                action => unreachable!("{action:?} of a guest that did not stop"),
            };
        }
        self.world.pass(actual.suspend);
        self.world.stop();
        let stopped = self.world.now();
        let dirty = self.world.take_bitmap();
        let taken = self.world.now();
        let (end, sent) = self.send_final(dirty, requested);
        let Some(end) = end else {
            self.world.pass(actual.resume);
            let took = Micros(self.world.now() - requested);
            self.given_up = (self.given_up.0.max(took), self.given_up.1 + 1);
            self.world.run_on();
            return ControlFlow::Continue(self.feed(Event::RunsOn));
        };
        let pages = sent.map(|at| Micros(at - taken));
        let (end, until) = match end {
            End::Moved => match self.land(requested) {
                Ok(at) => (End::Moved, at),
                Err(at) => (End::NotReady, at + actual.resume),
            },
            end => (end, self.world.now() + actual.resume),
        };
        ControlFlow::Break(self.paused(end, foreseen, pages, stopped, until))
    }

    /// Sends the final round and the CPU state. Returns [`End::Moved`] if the stream is
    /// complete, `None` if the pause is given up but the attempt continues, and the time at
    /// which the last page was sent.
    fn send_final(&mut self, dirty: u64, requested: u64) -> (Option<End>, Option<u64>) {
        let last = requested.saturating_add(self.scenario.deadline());
        let deadline = requested.saturating_add(self.scenario.pages_deadline());
        let took_bitmap = Micros(self.scenario.actual.bitmap);
        let mut action = self.feed(Event::Suspended { dirty, took_bitmap });
        let mut sent = 0;
        let pieces = match action {
            Action::CopyFinal { pages } => Pieces::of_final_round(pages),
            _ => Pieces::of_final_round(0),
        };
        if let (Action::CopyFinal { .. }, Some(answered)) = (action, self.world.round_trip()) {
            let answered = answered.min(deadline);
            action = self.final_ticks_until(answered).unwrap_or(action);
            self.world.pass_until(answered);
            if let Action::CopyFinal { .. } | Action::None = action {
                let answered = self.feed(Event::RoundTrip);
                if answered != Action::None {
                    action = answered;
                }
            }
        }
        for (pages, _) in pieces {
            self.left = dirty - sent;
            let hangs = matches!(self.scenario.mishap, Mishap::StubHangs(after) if sent >= after);
            let written = if hangs {
                u64::MAX
            } else {
                self.world.write(pages, Grain::Fine)
            };
            if !hangs {
                action = self
                    .final_ticks_until(written.min(deadline))
                    .unwrap_or(action);
            }
            if let Action::CopyFinal { .. } | Action::None = action
                && written > deadline
            {
                self.world.pass_until(deadline);
                // A stub that hangs takes no part in a decision.
                match hangs {
                    true => return (Some(End::Deadline), None),
                    false => action = self.feed(Event::OutOfTime),
                }
            }
            if let Action::Resume(_) | Action::RunOn(_) = action {
                // The batch under way is written to its end.
                break;
            }
            self.world.pass_until(written);
            sent += pages;
            let pages = u32::try_from(pages).expect("pieces are small");
            action = self.feed(Event::Sent {
                requested: pages,
                pages,
                zeros: 0,
            });
            self.left = dirty - sent;
            if let Action::Resume(_) | Action::RunOn(_) = action {
                break;
            }
        }
        match action {
            Action::Resume(refusal) => return (Some(End::Refused(refusal)), None),
            Action::RunOn(_) => return (None, None),
            Action::Finish => {}
            action => unreachable!("{action:?} after the final round"),
        }
        let sent = Some(self.world.now());
        if self.world.now() > deadline {
            return (Some(End::Deadline), sent);
        }
        self.world.pass(self.scenario.actual.cpu_state);
        let written = self.world.write(STATE_PAGES, Grain::Fine);
        if written > last {
            self.world.pass_until(last);
            return (Some(End::Deadline), sent);
        }
        self.world.pass_until(written);
        (Some(End::Moved), sent)
    }

    fn final_ticks_until(&mut self, until: u64) -> Option<Action> {
        self.next_tick = self.next_tick.max(self.world.now());
        while self.next_tick < until {
            self.world.pass_until(self.next_tick);
            self.next_tick += TICK;
            let action = self.feed(Event::Tick { dirty: None });
            if action != Action::None {
                return Some(action);
            }
        }
        None
    }

    /// Runs the landing from the end of the stream: `Ok` is the time at which the guest
    /// runs at the destination, `Err` the time at which the relay takes it back.
    fn land(&mut self, requested: u64) -> Result<u64, u64> {
        let actual = &self.scenario.actual;
        let ready = self.world.flush().saturating_add(actual.until_ready);
        let latest = requested.saturating_add(self.scenario.ready_by());
        if ready > latest {
            return Err(latest.max(self.world.now()));
        }
        Ok(ready + actual.after_ready)
    }

    fn paused(
        &self,
        end: End,
        foreseen: Foreseen,
        pages: Option<Micros>,
        stopped: u64,
        until: u64,
    ) -> Outcome {
        let pause = Pause {
            predicted: foreseen.predicted,
            expected: foreseen.expected,
            pages,
            since_request: Micros(until - foreseen.requested),
            since_stop: Micros(until - stopped),
        };
        Outcome {
            took: Micros(until),
            ..self.outcome(end, Some(pause))
        }
    }

    fn outcome(&self, end: End, pause: Option<Pause>) -> Outcome {
        Outcome {
            end,
            pause,
            given_up: self.given_up,
            rounds: self
                .machine
                .history()
                .last()
                .map_or(0, |last| last.round + 1),
            pages_sent: self.machine.pages_sent(),
            took: Micros(self.world.now()),
        }
    }
}
