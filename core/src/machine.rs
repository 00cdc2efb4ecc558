//! One migration: events in, actions out.
//!
//! ```text
//!          Begin           Sent…            Counted: another round
//! Waiting ───────▶ Copying ──────▶ Counting ─────────────────────▶ TakingBitmap
//!                     ▲                │                                │
//!                     └────────────────┼─────────── Bitmap ─────────────┘
//!                                      │ Counted: stop
//!                                      ▼
//!                Resumed ◀──────── Suspending ──▶ CopyingFinal ──▶ Finished
//! ```
//! Refused is reached from every state in which the guest runs, Resumed from
//! every one in which it may have stopped. A pause that is given up while there is time
//! leads from there back to Copying, by way of RunningOn.
//!
//! Where the destination is handed the guest before it stops, the first decision to stop
//! begins that handover and another round beside it. A later one waits in HandingOver until
//! the handover is over; what the guest wrote meanwhile is one more round.
//!
//! The machine never waits, never looks at a clock and keeps no more than a few
//! kilobytes; a step costs the same few hundred instructions however large the
//! guest is.

use crate::{
    dirty::DirtyCurve,
    downtime::{Downtime, DowntimeModel, Fit, FixedCosts, Forecast, LastPages, SuspendPages},
    history::{History, RoundRecord},
    holds::{Handover, Holds},
    limits::{DowntimeLimit, Limits, Risk},
    policy::{PolicyKind, RoundView, StopPolicy, Verdict, WithinLimit, XenDefault},
    refusal::{Figures, NotConverging, Reason, Refusal},
    service::{ServiceCurve, Stretch},
    units::{Bounds, Micros, PageRate},
};

/// The configuration of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Config {
    /// What the operator allows: pause and timeout.
    pub limits: Limits,
    /// Upper bounds of the parts of a pause that do not depend on the pages left to send.
    pub costs: FixedCosts,
    /// The usual length of the same parts.
    pub expected_costs: FixedCosts,
    /// The pages that the guest's kernel dirties in order to stop.
    pub suspend_pages: SuspendPages,
    /// How long the last pages of earlier pauses took, beside what the path's curve said.
    pub last_pages: LastPages,
    /// The share of pauses that may exceed their predicted upper bound and may therefore be
    /// given up.
    pub risk: Risk,
    /// The most pages that the guest can have.
    pub guest_pages: u64,
    /// Whether the guest may be asked to stop only after a handover to the destination
    /// ([`Action::HandOver`]).
    pub hands_over: bool,
}

impl Config {
    /// The rule that decides; it follows from the limits alone.
    pub const fn policy(&self) -> PolicyKind {
        match self.limits.max_suspend {
            Some(_) => PolicyKind::WithinLimit,
            None => PolicyKind::XenDefault,
        }
    }
}

/// An event that dom0 reports to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event {
    /// Log-dirty mode is on, and the bitmap of round 0, which marks every populated page,
    /// is in place.
    Begin {
        /// The number of bits set in the bitmap.
        pages: u64,
        /// How long a trial read of the bitmap took.
        took_bitmap: Micros,
    },
    /// One batch went to the stream.
    Sent {
        /// The number of frames taken from the bitmap; never zero.
        requested: u32,
        /// The number of those frames whose contents were written.
        pages: u32,
        /// The number of those frames that are all zero: of them only the numbers were
        /// written.
        zeros: u32,
    },
    /// Reports the time, about every 100 ms while copying.
    Tick {
        /// Pages dirty since the last bitmap was taken, if the hypervisor was asked.
        dirty: Option<u64>,
    },
    /// Answers [`Action::Count`].
    Counted {
        /// Pages dirty since the last bitmap was taken.
        dirty: u64,
    },
    /// Answers [`Action::TakeBitmap`]: the bitmap is in place and the
    /// hypervisor counts from zero again.
    Bitmap {
        /// The number of bits set in the bitmap.
        dirty: u64,
        /// How long it took to take the bitmap.
        took: Micros,
    },
    /// Answers [`Action::Suspend`]: the guest has stopped and the final bitmap
    /// is in place.
    Suspended {
        /// The number of bits set in the final bitmap.
        dirty: u64,
        /// How long it took to take the bitmap.
        took_bitmap: Micros,
    },
    /// Answers [`Action::Suspend`]: the guest never stopped.
    SuspendFailed,
    /// The driver's own deadline has passed: the pause is over, whatever is left to send.
    OutOfTime,
    /// Answers [`Action::RunOn`]: the guest runs on at the source.
    RunsOn,
    /// The operator cancels the attempt. May come at any time.
    Cancel,
    /// The operator changes the limits. May come at any time, but has no effect once the
    /// guest was asked to stop, because its deadlines are already running.
    Limits(Limits),
    /// The operator sets a bandwidth cap; `None` removes it. May come at any time, but has
    /// no effect once the guest was asked to stop. From the request to suspend on, sending
    /// is not held back.
    Bandwidth(Option<PageRate>),
    /// The cap has held sending back since the previous batch.
    HeldBack,
    /// Pages, the last ones included, use another path from now on. May come between two
    /// rounds.
    PathChanged,
    /// The guest's memory has grown or shrunk since the last bitmap was taken. The guest
    /// must not be stopped before another round. May come between two rounds.
    Unsettled,
    /// What [`Action::HandOver`] began is over: the guest may be asked to stop. May come at
    /// any time after it.
    HandedOver,
    /// The operator prefers stopping the guest to another round, if the pause fits. May
    /// come at any time, but has no effect once the guest was asked to stop. Applies to the
    /// next decision only.
    SwitchNow,
}

/// The action to perform. Any action but [`None`](Self::None) must be performed before the
/// next event, except that ticks and the operator's requests may come in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Action {
    /// Continue with what is under way.
    None,
    /// Scan the current bitmap and send the pages it marks.
    Copy {
        /// The round's number; 0 is the full pass.
        round: u32,
        /// The number of bits set in the bitmap.
        pages: u64,
    },
    /// Ask the hypervisor how many pages are dirty.
    Count,
    /// Take the dirty bitmap and clear it in the hypervisor.
    TakeBitmap,
    /// Begin the handover to the destination, and answer with [`Event::HandedOver`] once it
    /// is over. Another round goes on beside it: take the bitmap too, as for
    /// [`TakeBitmap`](Self::TakeBitmap).
    HandOver,
    /// Ask the guest to stop, then take the final bitmap.
    Suspend,
    /// Scan the final bitmap and send the pages it marks.
    CopyFinal {
        /// The number of bits set in the bitmap.
        pages: u64,
    },
    /// All pages are sent: send the CPU state, end the stream.
    Finish,
    /// Give up. The guest never stopped and must not be resumed.
    Refuse(Refusal),
    /// Give up. The guest has stopped: resume it at once.
    Resume(Refusal),
    /// Give up this pause, but not the attempt. The guest has stopped: resume it at once
    /// and answer with [`Event::RunsOn`]. The pages marked in the final bitmap are then
    /// copied like those of any other round.
    RunOn(Refusal),
}

/// The state of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// The machine waits for [`Event::Begin`].
    Waiting,
    /// A round is being sent.
    Copying,
    /// A round has been sent, and the machine waits for its count.
    Counting,
    /// The machine waits for the next round's bitmap.
    TakingBitmap,
    /// The guest is to be stopped, and the handover is not over yet.
    HandingOver,
    /// The guest has been asked to stop.
    Suspending,
    /// The guest has stopped, and its last pages are being sent.
    CopyingFinal,
    /// The pause was given up, and the guest is being resumed for another try.
    RunningOn,
    /// All pages have been sent.
    Finished,
    /// The attempt was given up, and the guest never stopped.
    Refused,
    /// The attempt was given up after the guest had stopped. The guest must be resumed.
    Resumed,
    /// The driver broke the protocol. Only the driver knows whether the guest has stopped.
    Failed,
}

/// The driver broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProtocolError {
    /// The event cannot happen in this state.
    Unexpected(State),
    /// The event is older than the previous one.
    TimeWentBack,
    /// The batch has no frames.
    EmptyBatch,
    /// More frames were taken than the bitmap has bits left, or more pages were written
    /// than frames taken.
    TooManyPages,
}

impl core::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unexpected(state) => write!(f, "unexpected event while {state:?}"),
            Self::TimeWentBack => f.write_str("an event lies before the one before"),
            Self::EmptyBatch => f.write_str("a batch of no frames"),
            Self::TooManyPages => f.write_str("more pages sent than the bitmap names"),
        }
    }
}

impl core::error::Error for ProtocolError {}

/// The operator's request while the guest was stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CancelIntent {
    Move,
    Stay,
}

/// [`State`] with the data that belongs to each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Copying {
        left: u64,
    },
    Counting,
    TakingBitmap,
    HandingOver,
    Suspending {
        since: Micros,
        intent: CancelIntent,
    },
    CopyingFinal {
        since: Micros,
        left: u64,
    },
    RunningOn {
        left: u64,
        scanned: bool,
        intent: CancelIntent,
    },
    Finished,
    Refused,
    Resumed,
    Failed,
}

/// See [`DowntimeModel`].
#[derive(Debug, Clone, Copy)]
struct Seen {
    costs: FixedCosts,
    expected_rate: PageRate,
    dirtied_at_most: u64,
}

/// One migration; see the module documentation.
#[derive(Debug, Clone)]
pub struct Machine {
    config: Config,
    phase: Phase,
    now: Micros,
    service: ServiceCurve,
    dirty: DirtyCurve,
    history: History,
    round: u32,
    /// The current round: when its bitmap was in place, the number of bits set in it, and
    /// the pages sent so far.
    round_start: Micros,
    round_pages: u64,
    round_sent: u64,
    /// The pages of the current round that are all zero, and were not carried.
    round_zeros: u64,
    /// The time at which the current round had sent its last page.
    round_sent_at: Micros,
    /// Pages sent over all rounds.
    pages_sent: u64,
    /// The pause expected at the end of the last round, and the pause expected after the
    /// next.
    promise: Option<(Micros, Micros)>,
    disappointments: u32,
    /// The number of pauses given up so far.
    given_up: u32,
    /// The bandwidth cap that applied until the guest was asked to stop.
    cap: Option<PageRate>,
    /// What keeps the guest from being stopped.
    holds: Holds,
    /// Whether the operator prefers to switch now.
    switch_now: bool,
    dirty_count: Option<u64>,
    prediction: Option<Downtime>,
    expected: Option<Downtime>,
    last_pages_by_curve: Option<Micros>,
    /// The smallest limit that the prediction at the end of any round needed.
    least_needed: Option<Micros>,
    /// The longest time that taking a bitmap took. It is the one fixed cost that can be
    /// measured while the guest runs.
    longest_bitmap: Micros,
}

/// The result of a step.
type Step = Result<Action, ProtocolError>;

impl Machine {
    /// The number of pauses that may be given up before the attempt is given up.
    pub const MAX_GIVEN_UP: u32 = 2;

    /// A machine in its initial state, waiting for [`Event::Begin`].
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            phase: Phase::Waiting,
            now: Micros::ZERO,
            service: ServiceCurve::new(),
            dirty: DirtyCurve::new(),
            history: History::new(),
            round: 0,
            round_start: Micros::ZERO,
            round_pages: 0,
            round_sent: 0,
            round_zeros: 0,
            round_sent_at: Micros::ZERO,
            pages_sent: 0,
            promise: None,
            disappointments: 0,
            given_up: 0,
            cap: None,
            holds: Holds::new(config.hands_over),
            switch_now: false,
            dirty_count: None,
            prediction: None,
            expected: None,
            last_pages_by_curve: None,
            least_needed: None,
            longest_bitmap: Micros::ZERO,
        }
    }

    /// Processes an event that happened at `at` and returns the action to perform.
    ///
    /// `at` is zero at the start of the attempt, from which the timeout counts, and never
    /// decreases.
    ///
    /// Once the attempt is over, late ticks and operator requests are ignored.
    ///
    /// # Errors
    /// If the driver broke the protocol. The machine then stays [`State::Failed`], unless
    /// the attempt was already over.
    pub fn step(&mut self, at: Micros, event: Event) -> Step {
        if let Phase::Finished | Phase::Refused | Phase::Resumed = self.phase {
            return match event {
                Event::Tick { .. }
                | Event::Cancel
                | Event::Limits(_)
                | Event::Bandwidth(_)
                | Event::HeldBack
                | Event::PathChanged
                | Event::Unsettled
                | Event::HandedOver
                | Event::OutOfTime
                | Event::SwitchNow => Ok(Action::None),
                _ => Err(ProtocolError::Unexpected(self.state())),
            };
        }
        let step = self.advance(at).and_then(|()| self.react(event));
        if step.is_err() {
            self.phase = Phase::Failed;
        }
        step
    }

    fn advance(&mut self, at: Micros) -> Result<(), ProtocolError> {
        if at < self.now {
            return Err(ProtocolError::TimeWentBack);
        }
        self.now = at;
        self.service.advance(at);
        Ok(())
    }

    fn react(&mut self, event: Event) -> Step {
        let action = match (self.phase, event) {
            (Phase::Waiting, Event::Begin { pages, took_bitmap }) => self.begin(pages, took_bitmap),
            (
                Phase::Copying { left },
                Event::Sent {
                    requested,
                    pages,
                    zeros,
                },
            ) => {
                let left = self.sent(left, requested, pages, zeros)?;
                self.copy_on(left)
            }
            (
                Phase::Copying { .. } | Phase::Counting | Phase::HandingOver,
                Event::Tick { dirty: Some(dirty) },
            ) => {
                self.count(dirty);
                Action::None
            }
            (Phase::Counting, Event::Counted { dirty }) => self.round_ended(dirty),
            (Phase::TakingBitmap, Event::Bitmap { dirty, took }) => self.bitmap(dirty, took),
            (Phase::Suspending { since, intent }, Event::Suspended { dirty, took_bitmap }) => {
                self.suspended(since, intent, dirty, took_bitmap)
            }
            (Phase::Suspending { intent, .. }, Event::SuspendFailed) => self.refuse(match intent {
                CancelIntent::Stay => Reason::Cancelled,
                CancelIntent::Move if self.is_out_of_time() => Reason::Timeout,
                CancelIntent::Move => Reason::SuspendFailed,
            }),
            (
                Phase::CopyingFinal { since, left },
                Event::Sent {
                    requested,
                    pages,
                    zeros,
                },
            ) => {
                let left = self.sent(left, requested, pages, zeros)?;
                self.copy_final_on(since, left)
            }
            (Phase::CopyingFinal { since, left }, Event::Tick { .. }) => {
                self.copy_final_on(since, left)
            }
            (Phase::CopyingFinal { since, left }, Event::OutOfTime) => {
                self.behind_schedule(&self.sending(since), left)
            }
            (
                Phase::RunningOn {
                    left,
                    scanned,
                    intent,
                },
                Event::Sent {
                    requested,
                    pages,
                    zeros,
                },
            ) => {
                let left = self.sent(left, requested, pages, zeros)?;
                self.phase = Phase::RunningOn {
                    left,
                    scanned,
                    intent,
                };
                Action::None
            }
            (
                Phase::RunningOn {
                    left,
                    scanned,
                    intent,
                },
                Event::RunsOn,
            ) => self.run_on(left, scanned, intent),
            (Phase::RunningOn { left, scanned, .. }, Event::Cancel) => {
                self.phase = Phase::RunningOn {
                    left,
                    scanned,
                    intent: CancelIntent::Stay,
                };
                Action::None
            }
            // Too late: the attempt is over, or all pages have been sent.
            (_, Event::OutOfTime) => Action::None,
            (Phase::Suspending { since, .. }, Event::Cancel) => {
                // The suspend request can no longer be withdrawn: wait for its result.
                self.phase = Phase::Suspending {
                    since,
                    intent: CancelIntent::Stay,
                };
                Action::None
            }
            (Phase::CopyingFinal { .. }, Event::Cancel) => self.resume(Reason::Cancelled),
            (Phase::Failed, _) => return Err(ProtocolError::Unexpected(State::Failed)),
            (_, Event::Cancel) => self.refuse(Reason::Cancelled),
            (_, Event::Limits(limits)) if self.accepts_changes() => self.limit(limits),
            (_, Event::SwitchNow) if self.accepts_changes() => {
                self.switch_now = true;
                Action::None
            }
            (_, Event::Bandwidth(cap)) if self.accepts_changes() => {
                self.service.cap_at(cap);
                Action::None
            }
            (_, Event::HeldBack) if self.accepts_changes() => {
                self.service.held_back();
                Action::None
            }
            (_, Event::PathChanged) if self.accepts_changes() => {
                self.service.path_changed();
                self.holds.path_changed();
                Action::None
            }
            (_, Event::Unsettled) if self.accepts_changes() => {
                self.holds.unsettled();
                Action::None
            }
            (_, Event::HandedOver) => self.handed_over()?,
            (
                _,
                Event::Limits(_)
                | Event::Bandwidth(_)
                | Event::SwitchNow
                | Event::HeldBack
                | Event::PathChanged
                | Event::Unsettled,
            ) => Action::None,
            (_, Event::Tick { .. }) => Action::None,
            _ => return Err(ProtocolError::Unexpected(self.state())),
        };
        if self.accepts_changes() && self.time_left() == Some(Micros::ZERO) {
            return Ok(self.refuse(Reason::Timeout));
        }
        Ok(action)
    }

    /// Checks gate 0: whether the fixed costs alone exceed the limit.
    fn begin(&mut self, pages: u64, took_bitmap: Micros) -> Action {
        self.longest_bitmap = took_bitmap;
        match self.too_costly() {
            Some(reason) => self.refuse(reason),
            None => self.start_round(pages),
        }
    }

    fn too_costly(&self) -> Option<Reason> {
        let costs = self.costs();
        let limit = self.config.limits.max_suspend?;
        (costs.floor() > limit.micros()).then(|| Reason::FixedCosts {
            part: costs.slowest(),
        })
    }

    /// Applies new limits and checks gate 0 again: if it fails, no round would help.
    fn limit(&mut self, limits: Limits) -> Action {
        self.config.limits = limits;
        match self.too_costly() {
            Some(reason) => self.refuse(reason),
            None => Action::None,
        }
    }

    fn start_round(&mut self, pages: u64) -> Action {
        self.round_start = self.now;
        self.round_sent_at = self.now;
        self.round_pages = pages;
        self.round_sent = 0;
        self.round_zeros = 0;
        self.dirty.restart(self.now);
        if pages == 0 {
            self.phase = Phase::Counting;
            return Action::Count;
        }
        self.service.start(self.now, self.round);
        self.phase = Phase::Copying { left: pages };
        Action::Copy {
            round: self.round,
            pages,
        }
    }

    /// Accounts for a batch and returns the number of frames left.
    fn sent(
        &mut self,
        left: u64,
        requested: u32,
        pages: u32,
        zeros: u32,
    ) -> Result<u64, ProtocolError> {
        if requested == 0 {
            return Err(ProtocolError::EmptyBatch);
        }
        let (pages, zeros) = (u64::from(pages), u64::from(zeros));
        if pages.saturating_add(zeros) > u64::from(requested) {
            return Err(ProtocolError::TooManyPages);
        }
        let left = left
            .checked_sub(u64::from(requested))
            .ok_or(ProtocolError::TooManyPages)?;
        self.service.sent(self.now, pages, zeros);
        self.round_sent = self.round_sent.saturating_add(pages);
        self.round_zeros = self.round_zeros.saturating_add(zeros);
        self.round_sent_at = self.now;
        self.pages_sent = self.pages_sent.saturating_add(pages);
        if left == 0 {
            self.service.stop(self.now);
        }
        Ok(left)
    }

    fn copy_on(&mut self, left: u64) -> Action {
        if left > 0 {
            self.phase = Phase::Copying { left };
            return Action::None;
        }
        self.phase = Phase::Counting;
        Action::Count
    }

    fn count(&mut self, dirty: u64) {
        self.dirty.counted(self.now, dirty);
        self.dirty_count = Some(dirty);
        let forecast = self.model().forecast(dirty);
        self.prediction = Some(forecast.at_most);
        self.expected = Some(forecast.expected);
    }

    /// Checks gate 1: whether to suspend, go on or refuse.
    fn round_ended(&mut self, dirty: u64) -> Action {
        self.dirty.round_ended(self.now, dirty);
        self.dirty_count = Some(dirty);
        let seen = self.seen();
        let model = self.model_of(seen);
        let forecast = model.forecast(dirty);
        let Forecast { at_most, expected } = forecast;
        let needed = model.costs.at_worst(&at_most).total();
        let another_round = model.another_round(dirty);
        self.prediction = Some(at_most);
        self.expected = Some(expected);
        self.least_needed = Some(self.least_needed.unwrap_or(needed).min(needed));
        self.holds.sent(self.round_sent);
        self.keep_promise(expected.total());
        let copying = self.round_sent_at.since(self.round_start);
        self.history.push(RoundRecord {
            round: self.round,
            pages: self.round_pages,
            pages_sent: self.round_sent,
            dirtied: dirty,
            duration: self.now.since(self.round_start),
            transfer_rate: match self.round_sent {
                0 => None,
                sent => Some(PageRate::floor(sent, copying)),
            },
            predicted_downtime: at_most.total(),
            expected_downtime: expected.total(),
        });
        if self.time_left() == Some(Micros::ZERO) {
            return self.refuse(Reason::Timeout);
        }
        let limit = self.config.limits.max_suspend;
        let held = self.holds.take();
        let view = RoundView {
            round: self.round,
            dirty_count: dirty,
            forecast,
            another_round,
            model: self.model_of(seen),
            history: &self.history,
            pages_sent: self.pages_sent,
            disappointments: self.disappointments,
            held,
            time_left: self.time_left(),
        };
        let verdict = match limit {
            Some(limit) => WithinLimit { limit }.decide(&view),
            None => XenDefault.decide(&view),
        };
        let fits = limit.is_none_or(|limit| view.model.costs.fit(&at_most, limit) == Fit::Within);
        let may_stop = fits && !held.unsettled;
        let switch_now = core::mem::take(&mut self.switch_now) && may_stop;
        match verdict {
            Verdict::AnotherRound if switch_now => self.stop(switch_now),
            Verdict::Suspend => self.stop(switch_now),
            Verdict::AnotherRound => {
                self.promise = Some((expected.total(), another_round.1.total()));
                self.phase = Phase::TakingBitmap;
                Action::TakeBitmap
            }
            Verdict::GiveUp(why) => self.refuse(Reason::NotConverging(why)),
        }
    }

    /// Checks whether the round that ended achieved what was expected of it.
    fn keep_promise(&mut self, now: Micros) {
        let Some((before, then)) = self.promise.take() else {
            return;
        };
        let (promised, kept) = (before.since(then), before.since(now));
        self.disappointments = match kept.0 < promised.0 / 2 {
            true => self.disappointments.saturating_add(1),
            false => 0,
        };
    }

    /// The guest is to be stopped: asks it, unless it must be handed over first.
    /// `switch_now` then counts for the decision after the handover.
    fn stop(&mut self, switch_now: bool) -> Action {
        match self.holds.handover() {
            Handover::Done => self.suspend(),
            Handover::Due => {
                self.switch_now = switch_now;
                self.holds.hand_over();
                self.phase = Phase::TakingBitmap;
                Action::HandOver
            }
            // Rounds in which the guest dirtied next to nothing would use up their number.
            Handover::UnderWay => {
                self.switch_now = switch_now;
                self.phase = Phase::HandingOver;
                Action::None
            }
        }
    }

    /// The handover is over. If that was waited for, what the guest has dirtied meanwhile
    /// makes another round.
    fn handed_over(&mut self) -> Step {
        if !self.holds.handed_over() {
            return Err(ProtocolError::Unexpected(self.state()));
        }
        if self.phase != Phase::HandingOver {
            return Ok(Action::None);
        }
        self.phase = Phase::TakingBitmap;
        Ok(Action::TakeBitmap)
    }

    fn suspend(&mut self) -> Action {
        self.cap = self.service.cap();
        if self.cap.is_some() {
            self.service.cap_at(None);
        }
        self.phase = Phase::Suspending {
            since: self.now,
            intent: CancelIntent::Move,
        };
        Action::Suspend
    }

    fn bitmap(&mut self, dirty: u64, took: Micros) -> Action {
        let Some(round) = self.round.checked_add(1) else {
            return self.refuse(Reason::NotConverging(NotConverging::TooManyRounds));
        };
        self.round = round;
        self.dirty.counted(self.now, dirty);
        self.longest_bitmap = self.longest_bitmap.max(took);
        self.start_round(dirty)
    }

    /// Checks gate 2. It uses the expected time for the pages, not the upper bound: the
    /// guest has already stopped, and gate 3 and dom0's own deadline end the pause within
    /// the limit in any case. Giving up is right only if the move is more likely to fail
    /// than to succeed.
    fn suspended(
        &mut self,
        since: Micros,
        intent: CancelIntent,
        dirty: u64,
        took: Micros,
    ) -> Action {
        let elapsed = self.now.since(since);
        let spent = Downtime {
            suspend: elapsed.since(took),
            final_bitmap: took.min(elapsed),
            ..self.config.costs.downtime()
        };
        // The curve's own word, if earlier pauses took longer: gate 1 did not know better.
        let by_curve = self.service.expected(dirty);
        let usual = self.usual_time(dirty, by_curve);
        let left = Downtime {
            pages: usual.min(by_curve),
            ..spent
        };
        self.last_pages_by_curve = Some(by_curve).filter(|_| self.cap.is_none());
        self.dirty_count = Some(dirty);
        self.prediction = Some(Downtime {
            pages: self.service.worst(dirty, self.config.risk),
            ..spent
        });
        self.expected = Some(Downtime {
            cpu_state: self.config.expected_costs.cpu_state,
            landing: self.config.expected_costs.landing,
            pages: usual,
            ..spent
        });
        if intent == CancelIntent::Stay {
            return self.resume(Reason::Cancelled);
        }
        if self.is_beyond(&left) {
            return self.give_up_pause(Reason::DowntimeAfterSuspend, dirty, false);
        }
        self.round_pages = dirty;
        self.round_sent = 0;
        self.round_zeros = 0;
        if dirty == 0 {
            self.phase = Phase::Finished;
            return Action::Finish;
        }
        self.service.start(self.now, self.round);
        self.phase = Phase::CopyingFinal { since, left: dirty };
        Action::CopyFinal { pages: dirty }
    }

    /// The time to expect for `pages`, the last ones, that take `by_curve` by the curve.
    fn usual_time(&self, pages: u64, by_curve: Micros) -> Micros {
        let last_pages = &self.config.last_pages;
        let known = self.service.expected(pages.min(last_pages.pages));
        last_pages.usually(by_curve, known)
    }

    /// The pause if its last page were sent at this moment. It was asked for at `since`.
    fn sending(&self, since: Micros) -> Downtime {
        let spent = self.prediction.unwrap_or_default();
        let before = spent.suspend.saturating_add(spent.final_bitmap);
        Downtime {
            pages: self.now.since(since).since(before),
            ..spent
        }
    }

    /// The pause is given up with `left` pages to send.
    fn behind_schedule(&mut self, sending: &Downtime, left: u64) -> Action {
        let rest = self.service.worst(left, self.config.risk);
        self.prediction = Some(Downtime {
            pages: sending.pages.saturating_add(rest),
            ..*sending
        });
        self.give_up_pause(Reason::BehindSchedule, left, true)
    }

    /// Checks gate 3: would the pause still fit if the rest were sent at this very moment?
    ///
    /// dom0's own deadline is stricter and does not depend on this gate, which keeps a
    /// simulated attempt as strict as a real one.
    fn copy_final_on(&mut self, since: Micros, left: u64) -> Action {
        let sending = self.sending(since);
        if self.is_beyond(&sending) {
            return self.behind_schedule(&sending, left);
        }
        if left > 0 {
            self.phase = Phase::CopyingFinal { since, left };
            return Action::None;
        }
        self.phase = Phase::Finished;
        Action::Finish
    }

    /// Gate 2 or 3 has failed: the pause would exceed its limit. The attempt continues
    /// while its timeout leaves time. An attempt without a timeout ends here, because on a
    /// stalled link it would never end.
    fn give_up_pause(&mut self, reason: Reason, left: u64, scanned: bool) -> Action {
        let needed = self.service.expected(left);
        let needed = needed.saturating_add(needed);
        let in_time = self.time_left().is_some_and(|time| time > needed);
        if self.given_up >= Self::MAX_GIVEN_UP
            || !in_time
            || self.round >= WithinLimit::MAX_ROUNDS.saturating_sub(1)
        {
            return self.resume(reason);
        }
        let refusal = self.refusal(reason);
        self.given_up = self.given_up.saturating_add(1);
        // The prediction behind this figure was wrong.
        self.least_needed = None;
        self.phase = Phase::RunningOn {
            left,
            scanned,
            intent: CancelIntent::Move,
        };
        Action::RunOn(refusal)
    }

    /// The guest runs again. The round that was to be the final one becomes another live
    /// round.
    fn run_on(&mut self, left: u64, scanned: bool, intent: CancelIntent) -> Action {
        if intent == CancelIntent::Stay {
            return self.refuse(Reason::Cancelled);
        }
        self.round = self.round.saturating_add(1);
        if let Some(cap) = self.cap.take() {
            self.service.cap_at(Some(cap));
        }
        if !scanned {
            return self.start_round(left);
        }
        self.round_start = self.now;
        self.dirty.restart(self.now);
        self.copy_on(left)
    }

    fn is_beyond(&self, downtime: &Downtime) -> bool {
        self.config
            .limits
            .max_suspend
            .is_some_and(|limit| self.config.costs.fit(downtime, limit) == Fit::Beyond)
    }

    fn refuse(&mut self, reason: Reason) -> Action {
        let refusal = self.refusal(reason);
        self.phase = Phase::Refused;
        Action::Refuse(refusal)
    }

    fn resume(&mut self, reason: Reason) -> Action {
        let refusal = self.refusal(reason);
        self.phase = Phase::Resumed;
        Action::Resume(refusal)
    }

    fn refusal(&self, reason: Reason) -> Refusal {
        let costs = self.costs();
        let prediction = self
            .prediction
            .map(|prediction| costs.at_worst(&prediction));
        let smallest_limit = match reason {
            Reason::FixedCosts { .. } => Some(costs.floor()),
            // The earlier prediction did not hold.
            Reason::DowntimeAfterSuspend | Reason::BehindSchedule => {
                prediction.map(|prediction| prediction.total())
            }
            _ => self.least_needed.map(|least| least.max(costs.floor())),
        };
        let needed = |limit: DowntimeLimit| {
            let dirty_count = self.dirty_count?;
            self.measured_model(reason)
                .bandwidth_for(dirty_count, limit)
        };
        Refusal {
            reason,
            figures: Figures {
                round: self.round,
                elapsed: self.now,
                limits: self.config.limits,
                dirty_count: self.dirty_count,
                predicted_downtime: prediction,
                smallest_limit,
                bandwidth_needed: self.config.limits.max_suspend.and_then(needed),
                expected_downtime: self.expected,
                rests_on: self.rests_on(),
                dirty_rate: self.dirty.bounds(),
                transfer_rate: self.service.bounds(),
                expected_rate: self.service.expected_rate(),
                cap: self.service.cap(),
            },
        }
    }

    /// The model, with bounds replaced by what is certain by now: a stopped guest dirties
    /// nothing.
    fn measured_model(&self, reason: Reason) -> DowntimeModel<'_> {
        let model = self.model();
        match (reason, self.prediction) {
            (Reason::DowntimeAfterSuspend | Reason::BehindSchedule, Some(spent)) => DowntimeModel {
                costs: FixedCosts {
                    suspend: spent.suspend,
                    final_bitmap: spent.final_bitmap,
                    ..model.costs
                },
                stopped: true,
                ..model
            },
            _ => model,
        }
    }

    /// The configured costs. The bitmap's bound is raised to the longest read seen so far
    /// plus a quarter, if that is more.
    fn costs(&self) -> FixedCosts {
        let seen = self.longest_bitmap;
        let bitmap = seen.saturating_add(Micros(seen.0.div_ceil(4)));
        FixedCosts {
            final_bitmap: self.config.costs.final_bitmap.max(bitmap),
            ..self.config.costs
        }
    }

    fn model(&self) -> DowntimeModel<'_> {
        self.model_of(self.seen())
    }

    /// The figures of the [`model`](Self::model) that take long to compute.
    fn seen(&self) -> Seen {
        let costs = self.costs();
        let window = costs.suspend.saturating_add(costs.final_bitmap);
        Seen {
            costs,
            expected_rate: self.service.expected_rate(),
            dirtied_at_most: self.dirty.at_most(window),
        }
    }

    const fn model_of(&self, seen: Seen) -> DowntimeModel<'_> {
        DowntimeModel {
            costs: seen.costs,
            expected_costs: self.config.expected_costs,
            suspend_pages: self.config.suspend_pages,
            last_pages: self.config.last_pages,
            guest_pages: self.config.guest_pages,
            risk: self.config.risk,
            dirty: &self.dirty,
            service: &self.service,
            expected_rate: seen.expected_rate,
            dirtied_at_most: seen.dirtied_at_most,
            cap: self.service.cap(),
            stopped: false,
        }
    }

    /// The measurement behind the upper bound of the time for the last pages: the slowest
    /// remembered stretch of that many consecutive pages, apart from the risk's share.
    /// `None` before the first count, or while nothing has been sent.
    pub fn rests_on(&self) -> Option<Stretch> {
        let pages = match self.accepts_changes() {
            true => self.model().bound_rests_on(self.dirty_count?),
            false => self.dirty_count?,
        };
        self.service.basis(pages, self.config.risk)
    }

    /// The time left to make the suspend request, if the guest is to be stopped in time;
    /// `None` without a timeout.
    fn time_left(&self) -> Option<Micros> {
        let timeout = self.config.limits.timeout?.micros();
        let needed = self.now.saturating_add(self.config.costs.suspend);
        Some(timeout.since(needed))
    }

    /// Whether the timeout has expired.
    fn is_out_of_time(&self) -> bool {
        let timeout = self.config.limits.timeout;
        timeout.is_some_and(|timeout| self.now >= timeout.micros())
    }

    /// Whether the operator's requests still have an effect: the guest has not been asked
    /// to stop, and still can be. Until then the limits can be changed.
    pub const fn accepts_changes(&self) -> bool {
        matches!(
            self.phase,
            Phase::Waiting
                | Phase::Copying { .. }
                | Phase::Counting
                | Phase::TakingBitmap
                | Phase::HandingOver
        )
    }

    /// The initial configuration, with the limits that apply now.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The state after the last event.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Copying { .. } => State::Copying,
            Phase::Counting => State::Counting,
            Phase::TakingBitmap => State::TakingBitmap,
            Phase::HandingOver => State::HandingOver,
            Phase::Suspending { .. } => State::Suspending,
            Phase::CopyingFinal { .. } => State::CopyingFinal,
            Phase::RunningOn { .. } => State::RunningOn,
            Phase::Finished => State::Finished,
            Phase::Refused => State::Refused,
            Phase::Resumed => State::Resumed,
            Phase::Failed => State::Failed,
        }
    }

    /// The number of the current or last round; 0 is the full pass. The final round has no
    /// number.
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// The number of frames in the current or last round.
    pub const fn round_pages(&self) -> u64 {
        self.round_pages
    }

    /// The number of that round's pages that have been carried.
    pub const fn round_sent(&self) -> u64 {
        self.round_sent
    }

    /// The number of that round's pages that were all zero, and were not carried.
    pub const fn round_zeros(&self) -> u64 {
        self.round_zeros
    }

    /// The rounds that have ended, without the final round.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The number of pages that have been carried, over all rounds and the final one. Pages
    /// that are all zero are not carried.
    pub const fn pages_sent(&self) -> u64 {
        self.pages_sent
    }

    /// The number of dirty pages at the last count.
    pub const fn dirty_count(&self) -> Option<u64> {
        self.dirty_count
    }

    /// The service curve of the path to the destination.
    pub const fn service(&self) -> &ServiceCurve {
        &self.service
    }

    /// The bounds of the rate at which the path carries pages.
    pub fn transfer_rate(&self) -> Bounds<PageRate> {
        self.service.bounds()
    }

    /// The curve of how the guest dirties pages.
    pub const fn dirty(&self) -> &DirtyCurve {
        &self.dirty
    }

    /// The bounds of the rate at which the guest dirties pages.
    pub fn dirty_rate(&self) -> Bounds<PageRate> {
        self.dirty.bounds()
    }

    /// Upper bound of the pause. Before the suspend it assumes a request to stop at the
    /// last count; afterwards it uses the final bitmap. `None` before the first count.
    pub const fn prediction(&self) -> Option<Downtime> {
        self.prediction
    }

    /// The expected pause under the same assumptions. `None` before the first count.
    pub const fn expected(&self) -> Option<Downtime> {
        self.expected
    }

    /// The time for the final bitmap's pages by the path's curve, as it was when the guest
    /// had stopped: what [`LastPages`] is relative to. `None` before that, and for a path
    /// that was known under a cap only, which does not apply to these pages.
    ///
    /// Pages that turned out to be all zero have no share in it: a pause in which they were
    /// many would otherwise make the next one look short.
    pub fn last_pages_by_curve(&self) -> Option<Micros> {
        let all = self.last_pages_by_curve?;
        if self.round_zeros == 0 {
            return Some(all);
        }
        let carried = self.round_pages.saturating_sub(self.round_zeros);
        let time = all.0.checked_mul(carried)?.checked_div(self.round_pages)?;
        Some(Micros(time))
    }
}
