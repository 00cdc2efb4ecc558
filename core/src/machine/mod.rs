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

mod pause;
mod protocol;
mod refusing;
mod status;

pub use protocol::{Action, Config, Event, ProtocolError, State};

use crate::{
    dirty::DirtyCurve,
    downtime::{Downtime, DowntimeModel, Fit, FixedCosts, Forecast},
    history::{History, RoundRecord},
    holds::{Handover, Holds},
    limits::Limits,
    policy::{RoundView, StopPolicy, Verdict, WithinLimit, XenDefault},
    refusal::{NotConverging, Reason},
    service::{ServiceCurve, Stretch},
    units::{Micros, PageRate},
};

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
    round_trip: Micros,
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
                | Event::RoundTrip
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
            (_, Event::RoundTrip) => {
                self.service.round_trip(self.now);
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
        self.expected = Some(forecast.shown());
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
        self.expected = Some(forecast.shown());
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

    fn bitmap(&mut self, dirty: u64, took: Micros) -> Action {
        let Some(round) = self.round.checked_add(1) else {
            return self.refuse(Reason::NotConverging(NotConverging::TooManyRounds));
        };
        self.round = round;
        self.dirty.counted(self.now, dirty);
        self.longest_bitmap = self.longest_bitmap.max(took);
        self.start_round(dirty)
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
            round_trip: self.service.usual_round_trip(),
            dirtied_at_most: match self.config.risk.get() {
                0 => self.dirty.at_most(window),
                _ => self.dirty.at_most_more(window),
            },
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
            round_trip: seen.round_trip,
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
}
