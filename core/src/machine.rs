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
//! The machine never waits, never looks at a clock and keeps no more than a few
//! kilobytes; a step costs the same few hundred instructions however large the
//! guest is.

use crate::{
    dirty::DirtyCurve,
    downtime::{Downtime, Fit, FixedCosts, Outlook},
    history::{History, RoundRecord},
    limits::{DowntimeLimit, Limits, Risk},
    policy::{PolicyKind, RoundView, StopPolicy, Verdict, WithinLimit, XenDefault},
    refusal::{Figures, Hopeless, Reason, Refusal},
    service::{ServiceCurve, Stretch},
    units::{Bounds, Micros, PageRate},
};

/// What an attempt starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Config {
    /// What the operator allows.
    pub limits: Limits,
    /// What a pause costs at most whatever is left to send.
    pub costs: FixedCosts,
    /// The same as it mostly is.
    pub expected_costs: FixedCosts,
    /// The share of pauses that may be longer than was predicted at most, and so be
    /// given up.
    pub risk: Risk,
    /// Pages the guest has at most.
    pub guest_pages: u64,
}

impl Config {
    /// Which rule decides; the limits alone say.
    pub const fn policy(&self) -> PolicyKind {
        match self.limits.max_suspend {
            Some(_) => PolicyKind::WithinLimit,
            None => PolicyKind::XenDefault,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event {
    /// Log-dirty mode is on and round 0's bitmap, every populated page, is in
    /// place.
    Begin {
        /// Bits set in it.
        pages: u64,
        /// How long taking a bitmap took when it was tried.
        took_bitmap: Micros,
    },
    /// One batch went to the stream.
    Sent {
        /// Frames taken from the bitmap; never zero.
        requested: u32,
        /// Those of them that were populated and written.
        pages: u32,
    },
    /// Time passes: about every 100 ms while copying.
    Tick {
        /// Pages dirty since the last bitmap was taken, if the hypervisor was
        /// asked.
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
        /// Bits set in it.
        dirty: u64,
        /// How long taking it took.
        took: Micros,
    },
    /// Answers [`Action::Suspend`]: the guest has stopped and the final bitmap
    /// is in place.
    Suspended {
        /// Bits set in it.
        dirty: u64,
        /// How long taking it took.
        took_bitmap: Micros,
    },
    /// Answers [`Action::Suspend`]: the guest never stopped.
    SuspendFailed,
    /// The driver's own deadline has come: the pause is over, whatever is left to send.
    OutOfTime,
    /// Answers [`Action::RunOn`]: the guest runs on at the source.
    RunsOn,
    /// The operator wants the guest to stay. May come at any time.
    Cancel,
    /// The operator allows something else from now on. May come at any time,
    /// but changes nothing once the guest was asked to stop: its deadlines run.
    Limits(Limits),
    /// The operator wants no more than that to be sent from now on; `None`: as
    /// much as goes. The same holds, and from the request to suspend on
    /// nothing is held back any more.
    Bandwidth(Option<PageRate>),
    /// Sending was held back for that since the batch before.
    HeldBack,
    /// Pages go another way from now on, the last ones too. May come between two rounds.
    PathChanged,
    /// The guest's memory has grown or shrunk since the last bitmap was taken: the guest
    /// is not to be stopped before another round. May come between two rounds.
    Unsettled,
    /// The operator would rather have the guest stopped than another round, if
    /// the pause fits. The same holds. Good for the next decision only.
    SwitchNow,
}

/// What to do. Anything but [`None`](Self::None) must be done before the next
/// event, except that ticks and the operator's wishes may come in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Action {
    /// Go on.
    None,
    /// Scan the bitmap in place and send what it names.
    Copy {
        /// 0 is the full pass.
        round: u32,
        /// Bits set.
        pages: u64,
    },
    /// Ask how many pages are dirty.
    Count,
    /// Take the dirty bitmap and clear it in the hypervisor.
    TakeBitmap,
    /// Ask the guest to stop, then take the final bitmap.
    Suspend,
    /// Scan the final bitmap and send what it names.
    CopyFinal {
        /// Bits set.
        pages: u64,
    },
    /// All pages are sent: send the CPU state, end the stream.
    Finish,
    /// Give up. The guest never stopped and must not be resumed.
    Refuse(Refusal),
    /// Give up. The guest has stopped: resume it at once.
    Resume(Refusal),
    /// Give up this pause, and not the attempt. The guest has stopped: resume it at
    /// once, and answer with [`Event::RunsOn`]. What the final bitmap names is copied
    /// like that of any other round from then on.
    RunOn(Refusal),
}

/// Where the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// For [`Event::Begin`].
    Waiting,
    /// A round is being sent.
    Copying,
    /// A round is sent; its count is awaited.
    Counting,
    /// The next round's bitmap is awaited.
    TakingBitmap,
    /// The guest was asked to stop.
    Suspending,
    /// The guest has stopped; its last pages are being sent.
    CopyingFinal,
    /// The guest has stopped in vain, and is being resumed for another try.
    RunningOn,
    /// All pages are sent.
    Finished,
    /// Given up; the guest never stopped.
    Refused,
    /// Given up after the guest had stopped; it is to be resumed.
    Resumed,
    /// The driver broke the protocol. Whether the guest has stopped, only the
    /// driver knows.
    Failed,
}

/// The driver broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProtocolError {
    /// The event cannot happen in this state.
    Unexpected(State),
    /// The event lies before the one before.
    TimeWentBack,
    /// A batch of no frames.
    EmptyBatch,
    /// More frames were taken than the bitmap has bits left, or more pages
    /// were written than frames taken.
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

/// What the operator wanted while the guest was stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Move,
    Stay,
}

/// [`State`], with what only that state knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Copying {
        left: u64,
    },
    Counting,
    TakingBitmap,
    Suspending {
        since: Micros,
        wish: Wish,
    },
    CopyingFinal {
        since: Micros,
        left: u64,
    },
    RunningOn {
        left: u64,
        scanned: bool,
        wish: Wish,
    },
    Finished,
    Refused,
    Resumed,
    Failed,
}

/// One migration; see the module.
#[derive(Debug, Clone)]
pub struct Machine {
    config: Config,
    phase: Phase,
    now: Micros,
    service: ServiceCurve,
    dirty: DirtyCurve,
    history: History,
    round: u32,
    /// Of the round under way: when its bitmap was in place, the bits set in
    /// it, and the pages sent of them.
    round_start: Micros,
    round_pages: u64,
    round_sent: u64,
    /// When the round under way had sent its last page.
    round_sent_at: Micros,
    /// Over all rounds.
    pages_sent: u64,
    /// The pause expected at the end of the last round, and then after the next.
    promise: Option<(Micros, Micros)>,
    disappointments: u32,
    /// Pauses given up so far.
    given_up: u32,
    /// What was sent at most until the guest was asked to stop.
    cap: Option<PageRate>,
    /// A round has gone the way that the last pages will go.
    path_known: bool,
    /// The guest's memory has changed since the last bitmap.
    unsettled: bool,
    /// The operator would rather switch now.
    switch_now: bool,
    dirty_count: Option<u64>,
    prediction: Option<Downtime>,
    expected: Option<Downtime>,
    /// The least limit that the prediction at the end of any round needed.
    least_needed: Option<Micros>,
    /// The longest that taking a bitmap took: the one cost that shows itself
    /// while the guest runs.
    longest_bitmap: Micros,
}

/// What a step comes to.
type Step = Result<Action, ProtocolError>;

impl Machine {
    /// Pauses that may be given up before the attempt is.
    pub const MAX_GIVEN_UP: u32 = 2;

    /// A machine that waits for [`Event::Begin`].
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
            round_sent_at: Micros::ZERO,
            pages_sent: 0,
            promise: None,
            disappointments: 0,
            given_up: 0,
            cap: None,
            path_known: true,
            unsettled: false,
            switch_now: false,
            dirty_count: None,
            prediction: None,
            expected: None,
            least_needed: None,
            longest_bitmap: Micros::ZERO,
        }
    }

    /// Takes in what happened at `at` and says what to do.
    ///
    /// `at` is zero when the attempt starts, which is what the timeout counts
    /// from, and never goes back.
    ///
    /// Once the attempt is over, ticks and wishes that come late are ignored.
    ///
    /// # Errors
    /// When the driver broke the protocol. The machine then is
    /// [`State::Failed`] for good, unless the attempt was over already.
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
            (Phase::Copying { left }, Event::Sent { requested, pages }) => {
                let left = self.sent(left, requested, pages)?;
                self.copy_on(left)
            }
            (Phase::Copying { .. } | Phase::Counting, Event::Tick { dirty: Some(dirty) }) => {
                self.count(dirty);
                Action::None
            }
            (Phase::Counting, Event::Counted { dirty }) => self.round_ended(dirty),
            (Phase::TakingBitmap, Event::Bitmap { dirty, took }) => self.bitmap(dirty, took),
            (Phase::Suspending { since, wish }, Event::Suspended { dirty, took_bitmap }) => {
                self.suspended(since, wish, dirty, took_bitmap)
            }
            (Phase::Suspending { wish, .. }, Event::SuspendFailed) => self.refuse(match wish {
                Wish::Stay => Reason::Cancelled,
                Wish::Move if self.is_out_of_time() => Reason::Timeout,
                Wish::Move => Reason::SuspendFailed,
            }),
            (Phase::CopyingFinal { since, left }, Event::Sent { requested, pages }) => {
                let left = self.sent(left, requested, pages)?;
                self.copy_final_on(since, left)
            }
            (Phase::CopyingFinal { since, left }, Event::Tick { .. }) => {
                self.copy_final_on(since, left)
            }
            (Phase::CopyingFinal { left, .. }, Event::OutOfTime) => {
                self.give_up_pause(Reason::BehindSchedule, left, true)
            }
            (
                Phase::RunningOn {
                    left,
                    scanned,
                    wish,
                },
                Event::Sent { requested, pages },
            ) => {
                let left = self.sent(left, requested, pages)?;
                self.phase = Phase::RunningOn {
                    left,
                    scanned,
                    wish,
                };
                Action::None
            }
            (
                Phase::RunningOn {
                    left,
                    scanned,
                    wish,
                },
                Event::RunsOn,
            ) => self.run_on(left, scanned, wish),
            (Phase::RunningOn { left, scanned, .. }, Event::Cancel) => {
                self.phase = Phase::RunningOn {
                    left,
                    scanned,
                    wish: Wish::Stay,
                };
                Action::None
            }
            // Too late: it is over, or all pages are sent.
            (_, Event::OutOfTime) => Action::None,
            (Phase::Suspending { since, .. }, Event::Cancel) => {
                // Whether the guest stops is no longer in anyone's hands: wait.
                self.phase = Phase::Suspending {
                    since,
                    wish: Wish::Stay,
                };
                Action::None
            }
            (Phase::CopyingFinal { .. }, Event::Cancel) => self.resume(Reason::Cancelled),
            (Phase::Failed, _) => return Err(ProtocolError::Unexpected(State::Failed)),
            (_, Event::Cancel) => self.refuse(Reason::Cancelled),
            (_, Event::Limits(limits)) if self.heeds_wishes() => self.limit(limits),
            (_, Event::SwitchNow) if self.heeds_wishes() => {
                self.switch_now = true;
                Action::None
            }
            (_, Event::Bandwidth(cap)) if self.heeds_wishes() => {
                self.service.cap_at(cap);
                Action::None
            }
            (_, Event::HeldBack) if self.heeds_wishes() => {
                self.service.held_back();
                Action::None
            }
            (_, Event::PathChanged) if self.heeds_wishes() => {
                self.service.path_changed();
                self.path_known = false;
                Action::None
            }
            (_, Event::Unsettled) if self.heeds_wishes() => {
                self.unsettled = true;
                Action::None
            }
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
        if self.heeds_wishes() && self.time_left() == Some(Micros::ZERO) {
            return Ok(self.refuse(Reason::Timeout));
        }
        Ok(action)
    }

    /// Gate 0.
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

    /// Other limits, from now on. Gate 0 again: no round would help.
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

    /// Takes note of a batch and says how many frames are left.
    fn sent(&mut self, left: u64, requested: u32, pages: u32) -> Result<u64, ProtocolError> {
        if requested == 0 {
            return Err(ProtocolError::EmptyBatch);
        }
        if pages > requested {
            return Err(ProtocolError::TooManyPages);
        }
        let left = left
            .checked_sub(u64::from(requested))
            .ok_or(ProtocolError::TooManyPages)?;
        let pages = u64::from(pages);
        self.service.sent(self.now, pages);
        self.round_sent = self.round_sent.saturating_add(pages);
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
        let (prediction, expected) = predict(&self.outlook(), dirty);
        self.prediction = Some(prediction);
        self.expected = Some(expected);
    }

    /// Gate 1.
    fn round_ended(&mut self, dirty: u64) -> Action {
        self.dirty.round_ended(self.now, dirty);
        self.dirty_count = Some(dirty);
        let outlook = self.outlook();
        let (prediction, expected) = predict(&outlook, dirty);
        let needed = outlook.costs.at_worst(&prediction).total();
        self.prediction = Some(prediction);
        self.expected = Some(expected);
        self.least_needed = Some(self.least_needed.unwrap_or(needed).min(needed));
        self.path_known |= self.round_sent > 0;
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
            predicted_downtime: prediction.total(),
            expected_downtime: expected.total(),
        });
        if self.time_left() == Some(Micros::ZERO) {
            return self.refuse(Reason::Timeout);
        }
        let limit = self.config.limits.max_suspend;
        let unsettled = core::mem::take(&mut self.unsettled);
        let view = RoundView {
            round: self.round,
            dirty_count: dirty,
            prediction,
            expected,
            outlook: self.outlook(),
            history: &self.history,
            pages_sent: self.pages_sent,
            disappointments: self.disappointments,
            path_known: self.path_known,
            unsettled,
            time_left: self.time_left(),
        };
        let verdict = match limit {
            Some(limit) => WithinLimit { limit }.decide(&view),
            None => XenDefault.decide(&view),
        };
        let fits =
            limit.is_none_or(|limit| view.outlook.costs.fit(&prediction, limit) == Fit::Within);
        let then = match verdict {
            Verdict::AnotherRound => view.outlook.another_round(dirty).1.total(),
            _ => Micros::ZERO,
        };
        let may_stop = fits && !unsettled;
        let switch_now = core::mem::take(&mut self.switch_now) && may_stop;
        match verdict {
            Verdict::AnotherRound if switch_now => self.suspend(),
            Verdict::Suspend => self.suspend(),
            Verdict::AnotherRound => {
                self.promise = Some((expected.total(), then));
                self.phase = Phase::TakingBitmap;
                Action::TakeBitmap
            }
            Verdict::GiveUp(hopeless) => self.refuse(Reason::Hopeless(hopeless)),
        }
    }

    /// Looks whether the round that has ended brought what was expected of it.
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

    fn suspend(&mut self) -> Action {
        self.cap = self.service.cap();
        if self.cap.is_some() {
            self.service.cap_at(None);
        }
        self.phase = Phase::Suspending {
            since: self.now,
            wish: Wish::Move,
        };
        Action::Suspend
    }

    fn bitmap(&mut self, dirty: u64, took: Micros) -> Action {
        let Some(round) = self.round.checked_add(1) else {
            return self.refuse(Reason::Hopeless(Hopeless::TooManyRounds));
        };
        self.round = round;
        self.dirty.counted(self.now, dirty);
        self.longest_bitmap = self.longest_bitmap.max(took);
        self.start_round(dirty)
    }

    /// Gate 2. The pages are reckoned as expected: once the guest has stopped, going on
    /// costs no more than the limit allows, for gate 3 and dom0's own deadline end it in
    /// time, and giving up is right only if the move is more likely to fail.
    fn suspended(&mut self, since: Micros, wish: Wish, dirty: u64, took: Micros) -> Action {
        let elapsed = self.now.since(since);
        let spent = Downtime {
            suspend: elapsed.since(took),
            final_bitmap: took.min(elapsed),
            ..self.config.costs.downtime()
        };
        let left = Downtime {
            pages: self.service.expected(dirty),
            ..spent
        };
        self.dirty_count = Some(dirty);
        self.prediction = Some(Downtime {
            pages: self.service.worst(dirty, self.config.risk),
            ..spent
        });
        self.expected = Some(Downtime {
            cpu_state: self.config.expected_costs.cpu_state,
            landing: self.config.expected_costs.landing,
            ..left
        });
        if wish == Wish::Stay {
            return self.resume(Reason::Cancelled);
        }
        if self.is_beyond(&left) {
            return self.give_up_pause(Reason::DowntimeAfterSuspend, dirty, false);
        }
        self.round_pages = dirty;
        self.round_sent = 0;
        if dirty == 0 {
            self.phase = Phase::Finished;
            return Action::Finish;
        }
        self.service.start(self.now, self.round);
        self.phase = Phase::CopyingFinal { since, left: dirty };
        Action::CopyFinal { pages: dirty }
    }

    /// Gate 3: even if the rest were sent this very moment, would it fit?
    ///
    /// dom0's own deadline is stricter and does not depend on this one; here it
    /// keeps a simulated attempt as honest as a real one.
    fn copy_final_on(&mut self, since: Micros, left: u64) -> Action {
        let spent = self.prediction.unwrap_or_default();
        let before = spent.suspend.saturating_add(spent.final_bitmap);
        let sending = Downtime {
            pages: self.now.since(since).since(before),
            ..spent
        };
        if self.is_beyond(&sending) {
            let rest = self.service.worst(left, self.config.risk);
            self.prediction = Some(Downtime {
                pages: sending.pages.saturating_add(rest),
                ..sending
            });
            return self.give_up_pause(Reason::BehindSchedule, left, true);
        }
        if left > 0 {
            self.phase = Phase::CopyingFinal { since, left };
            return Action::None;
        }
        self.phase = Phase::Finished;
        Action::Finish
    }

    /// Gates 2 and 3 close: the pause would break its limit. The attempt goes on while its
    /// timeout leaves time. An attempt without a timeout ends here: on a link that stands
    /// still it would never end.
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
        // Proved wrong.
        self.least_needed = None;
        self.phase = Phase::RunningOn {
            left,
            scanned,
            wish: Wish::Move,
        };
        Action::RunOn(refusal)
    }

    /// The guest runs again: what was to be its final round is one more of those while
    /// it runs.
    fn run_on(&mut self, left: u64, scanned: bool, wish: Wish) -> Action {
        if wish == Wish::Stay {
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
            // What was predicted before did not hold.
            Reason::DowntimeAfterSuspend | Reason::BehindSchedule => {
                prediction.map(|prediction| prediction.total())
            }
            _ => self.least_needed.map(|least| least.max(costs.floor())),
        };
        let needed = |limit: DowntimeLimit| {
            let dirty_count = self.dirty_count?;
            self.hindsight(reason).bandwidth_for(dirty_count, limit)
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

    /// The outlook, with what is certain by now in place of what was feared:
    /// a guest that has stopped dirties nothing.
    fn hindsight(&self, reason: Reason) -> Outlook<'_> {
        let outlook = self.outlook();
        match (reason, self.prediction) {
            (Reason::DowntimeAfterSuspend | Reason::BehindSchedule, Some(spent)) => Outlook {
                costs: FixedCosts {
                    suspend: spent.suspend,
                    final_bitmap: spent.final_bitmap,
                    ..outlook.costs
                },
                stopped: true,
                ..outlook
            },
            _ => outlook,
        }
    }

    /// The costs given; a bitmap may take a quarter longer than it ever did,
    /// if that is more than was thought.
    fn costs(&self) -> FixedCosts {
        let seen = self.longest_bitmap;
        let bitmap = seen.saturating_add(Micros(seen.0.div_ceil(4)));
        FixedCosts {
            final_bitmap: self.config.costs.final_bitmap.max(bitmap),
            ..self.config.costs
        }
    }

    fn outlook(&self) -> Outlook<'_> {
        Outlook {
            costs: self.costs(),
            expected_costs: self.config.expected_costs,
            guest_pages: self.config.guest_pages,
            risk: self.config.risk,
            dirty: &self.dirty,
            service: &self.service,
            expected_rate: self.service.expected_rate(),
            cap: self.service.cap(),
            stopped: false,
        }
    }

    /// What the upper bound of the time for the last pages rests on: so many of those
    /// remembered in a row took longest, but for the risk's share. `None` before the
    /// first count, or while nothing was sent.
    pub fn rests_on(&self) -> Option<Stretch> {
        let pages = match self.heeds_wishes() {
            true => self.outlook().bound_rests_on(self.dirty_count?),
            false => self.dirty_count?,
        };
        self.service.basis(pages, self.config.risk)
    }

    /// Until the suspend request must be made for the guest to have stopped in
    /// time; `None` without a timeout.
    fn time_left(&self) -> Option<Micros> {
        let timeout = self.config.limits.timeout?.micros();
        let needed = self.now.saturating_add(self.config.costs.suspend);
        Some(timeout.since(needed))
    }

    /// Whether the timeout is over.
    fn is_out_of_time(&self) -> bool {
        let timeout = self.config.limits.timeout;
        timeout.is_some_and(|timeout| self.now >= timeout.micros())
    }

    /// Whether nobody has asked the guest to stop yet, and somebody may: until
    /// then limits can be changed.
    pub const fn heeds_wishes(&self) -> bool {
        matches!(
            self.phase,
            Phase::Waiting | Phase::Copying { .. } | Phase::Counting | Phase::TakingBitmap
        )
    }

    /// What it was started with, under the limits that hold now.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Copying { .. } => State::Copying,
            Phase::Counting => State::Counting,
            Phase::TakingBitmap => State::TakingBitmap,
            Phase::Suspending { .. } => State::Suspending,
            Phase::CopyingFinal { .. } => State::CopyingFinal,
            Phase::RunningOn { .. } => State::RunningOn,
            Phase::Finished => State::Finished,
            Phase::Refused => State::Refused,
            Phase::Resumed => State::Resumed,
            Phase::Failed => State::Failed,
        }
    }

    /// The round under way, or the last one; 0 is the full pass. The final
    /// round has no number.
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// Frames the round under way, or the last one, is about.
    pub const fn round_pages(&self) -> u64 {
        self.round_pages
    }

    /// Pages of that round that went to the stream so far.
    pub const fn round_sent(&self) -> u64 {
        self.round_sent
    }

    /// Rounds that have ended; the final round is not among them.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// Populated pages that went to the stream, over all rounds and the final
    /// one.
    pub const fn pages_sent(&self) -> u64 {
        self.pages_sent
    }

    /// Pages dirty when last counted.
    pub const fn dirty_count(&self) -> Option<u64> {
        self.dirty_count
    }

    /// What the path carries.
    pub const fn service(&self) -> &ServiceCurve {
        &self.service
    }

    /// How fast the path carries pages.
    pub fn transfer_rate(&self) -> Bounds<PageRate> {
        self.service.bounds()
    }

    /// How the guest dirties pages.
    pub const fn dirty(&self) -> &DirtyCurve {
        &self.dirty
    }

    /// How fast the guest dirties pages.
    pub fn dirty_rate(&self) -> Bounds<PageRate> {
        self.dirty.bounds()
    }

    /// Upper bound of the pause: if the guest were asked to stop at the last
    /// count, or, once it has stopped, from what the final bitmap says. `None`
    /// before the first count.
    pub const fn prediction(&self) -> Option<Downtime> {
        self.prediction
    }

    /// The pause expected then. `None` before the first count.
    pub const fn expected(&self) -> Option<Downtime> {
        self.expected
    }
}

/// The pause at most, and as expected: never longer than that, though a risk may leave
/// out what an average has in it.
fn predict(outlook: &Outlook<'_>, dirty: u64) -> (Downtime, Downtime) {
    let worst = outlook.predict(dirty);
    let expected = outlook.expect(dirty);
    let pages = expected.pages.min(worst.pages);
    (worst, Downtime { pages, ..expected })
}
