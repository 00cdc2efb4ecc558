//! Checks that for any events in any order the limit holds, every exit leaves one running
//! guest, and the attempt ends.

use lull_core::{
    downtime::{Downtime, DowntimeModel, FixedCosts, FixedPart, LastPages, SuspendPages},
    limits::{DowntimeLimit, Limits, Risk, Timeout},
    machine::{Action, Config, Event, Machine, ProtocolError, State},
    policy::{WithinLimit, XenDefault},
    refusal::{NotConverging, Reason},
    units::{Micros, PageRate},
};
use proptest::{collection::vec, prelude::*};

const GUEST_PAGES: u64 = 1 << 20;

fn ms(ms: u64) -> Micros {
    Micros::from_millis(ms)
}

fn limits(max_suspend: Option<u64>, timeout: Option<u64>) -> Limits {
    Limits {
        max_suspend: max_suspend.and_then(|limit| DowntimeLimit::new(Micros(limit))),
        timeout: timeout.and_then(|timeout| Timeout::new(Micros(timeout))),
    }
}

fn costs() -> FixedCosts {
    FixedCosts {
        suspend: ms(5),
        final_bitmap: ms(2),
        cpu_state: ms(3),
        landing: ms(20),
        resume: ms(4),
    }
}

fn config(max_suspend_ms: Option<u64>, timeout_ms: Option<u64>) -> Config {
    Config {
        limits: limits(
            max_suspend_ms.map(|limit| limit * 1_000),
            timeout_ms.map(|timeout| timeout * 1_000),
        ),
        costs: costs(),
        expected_costs: costs(),
        suspend_pages: SuspendPages::DEFAULT,
        last_pages: LastPages::DEFAULT,
        risk: Risk::DEFAULT,
        guest_pages: GUEST_PAGES,
        hands_over: false,
    }
}

/// Returns the start of a pass whose bitmap took no measurable time.
fn begin(pages: u64) -> Event {
    Event::Begin {
        pages,
        took_bitmap: Micros::ZERO,
    }
}

/// Two machines in lockstep, and the conditions that every action must meet. The conditions
/// are computed from the events alone, in wider integers.
struct Checked {
    machine: Machine,
    twin: Machine,
    config: Config,
    now: u64,
    suspend_asked: Option<u64>,
    guest: Guest,
    ended: Ended,
    rounds: u32,
    left: u64,
    given_up: u32,
    handover: Handover,
}

/// How far the handover is, by actions and events alone.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Handover {
    Due,
    UnderWay,
    Done,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Guest {
    Runs,
    Stopped,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Ended {
    No,
    Moved,
    AtSource,
    Error,
}

impl Checked {
    fn new(config: Config) -> Self {
        Self {
            machine: Machine::new(config),
            twin: Machine::new(config),
            config,
            now: 0,
            suspend_asked: None,
            guest: Guest::Runs,
            ended: Ended::No,
            rounds: 0,
            left: 0,
            given_up: 0,
            handover: match config.hands_over {
                true => Handover::Due,
                false => Handover::Done,
            },
        }
    }

    fn limit(&self) -> u128 {
        let limit = self.config.limits.max_suspend;
        limit.map_or(u128::MAX, |limit| limit.micros().0.into())
    }

    /// Returns the upper bound of the time for `pages`, by the machine's own curve.
    fn at_most(&self, pages: u64) -> u128 {
        let risk = self.config.risk;
        self.machine.service().worst(pages, risk).0.into()
    }

    /// Returns what `pages` take less at `per_mille` of the curve's time, rounded up.
    fn saved(&self, pages: u64, per_mille: u64) -> u128 {
        let service = self.machine.service();
        let known = pages.min(self.config.last_pages.pages);
        let known = service.expected_rate().time_for(known);
        (u128::from(known.0) * u128::from(1_000_u64.saturating_sub(per_mille))).div_ceil(1_000)
    }

    fn after_pages(&self) -> u128 {
        let costs = self.config.costs;
        // The landing counts, or a resume in its place.
        u128::from(costs.cpu_state.0) + u128::from(costs.landing.0.max(costs.resume.0))
    }

    fn step(&mut self, at: u64, event: Event) -> Result<Action, ProtocolError> {
        let before = self.machine.state();
        let open = matches!(
            before,
            State::Waiting
                | State::Copying
                | State::Counting
                | State::TakingBitmap
                | State::HandingOver
        );
        if let Event::Limits(limits) = event
            && open
            && at >= self.now
        {
            self.config.limits = limits;
        }
        let step = self.machine.step(Micros(at), event);
        assert_eq!(step, self.twin.step(Micros(at), event), "not deterministic");
        assert_eq!(*self.machine.config(), self.config, "the limits changed");
        let over = self.ended != Ended::No;
        let Ok(action) = step else {
            if !over {
                assert_eq!(self.machine.state(), State::Failed);
                self.ended = Ended::Error;
            } else {
                assert_eq!(self.machine.state(), before);
            }
            return step;
        };
        assert!(at >= self.now || over);
        self.now = self.now.max(at);
        if over {
            assert_eq!(action, Action::None, "the attempt was over");
            return step;
        }
        match event {
            Event::Suspended { .. } => self.guest = Guest::Stopped,
            Event::HandedOver => {
                assert_eq!(self.handover, Handover::UnderWay, "handed over twice");
                self.handover = Handover::Done;
            }
            Event::RunsOn => self.guest = Guest::Runs,
            Event::Sent { requested, .. } => self.left -= u64::from(requested),
            _ => {}
        }
        self.check(action, event);
        step
    }

    fn check(&mut self, action: Action, event: Event) {
        let costs = self.config.costs;
        match action {
            Action::HandOver => {
                assert_eq!(self.guest, Guest::Runs);
                assert_eq!(self.handover, Handover::Due, "begun twice");
                self.handover = Handover::UnderWay;
            }
            Action::None | Action::Count | Action::TakeBitmap => {
                assert_eq!(
                    self.guest == Guest::Stopped,
                    matches!(self.machine.state(), State::CopyingFinal | State::RunningOn)
                );
            }
            Action::Copy { round, pages } => {
                assert_eq!(self.guest, Guest::Runs);
                assert_eq!(self.machine.round(), round);
                assert!(pages > 0);
                self.left = pages;
                self.rounds = round + 1;
                // One round is sent during the handover, and one may follow it.
                let more = if self.config.hands_over { 2 } else { 0 };
                assert!(self.rounds <= WithinLimit::MAX_ROUNDS + more);
            }
            Action::Suspend => {
                assert_eq!(self.guest, Guest::Runs);
                assert_eq!(self.suspend_asked, None, "asked twice");
                assert_eq!(self.handover, Handover::Done, "not handed over");
                self.suspend_asked = Some(self.now);
                let Event::Counted { dirty } = event else {
                    panic!("suspend out of {event:?}");
                };
                let window = u128::from(costs.suspend.0) + u128::from(costs.final_bitmap.0);
                let span = Micros(costs.suspend.0 + costs.final_bitmap.0);
                let stop = self.config.suspend_pages;
                let usual = self.config.expected_costs;
                let usual = Micros(usual.suspend.0 + usual.final_bitmap.0);
                let load = self.machine.dirty().expected_more(usual);
                let likely = dirty.saturating_add(stop.expected).saturating_add(load);
                // The load and the kernel may dirty more than usual; without a risk, both do.
                // The machine's own span may be longer: it knows how long bitmaps took.
                let mut loads = self.machine.dirty().at_most(span);
                if self.config.risk.get() > 0 {
                    let twice = self.machine.dirty().expected_more(span).saturating_mul(2);
                    loads = loads.min(twice);
                }
                let loads = loads.saturating_sub(load);
                let kernels = stop.most.saturating_sub(stop.expected);
                let more = match self.config.risk.get() {
                    0 => loads.saturating_add(kernels),
                    _ => loads.max(kernels),
                };
                let most = self.config.guest_pages.max(dirty);
                let most = likely.saturating_add(more).min(most);
                let likely = likely.min(most);
                // Either the link is slow or the pages are many; without a risk, both must
                // hold.
                let expected = self.machine.service().expected_rate();
                let pages = match self.config.risk.get() {
                    0 => self.at_most(most),
                    _ => {
                        let service = self.machine.service();
                        let risk = self.config.risk;
                        let (_, now) = service.worst_and_now(likely, most, risk);
                        let more = now.max(expected.time_for(most));
                        // Earlier pauses say what is saved of that.
                        let saved = |pages| self.saved(pages, self.config.last_pages.most);
                        let slower = self.at_most(likely).saturating_sub(saved(likely));
                        slower.max(u128::from(more.0).saturating_sub(saved(most)))
                    }
                };
                // A guest that would be refused may have three fifths of the risk's part left out.
                let foreseen = u128::from(self.machine.expected().unwrap().pages.0);
                let may_be_a_try = self.config.risk.get() > 0
                    && (dirty < XenDefault::TARGET_DIRTY_COUNT
                        || self.machine.round() >= XenDefault::MAX_ROUNDS - 1);
                let conceded = match may_be_a_try {
                    true => (pages.saturating_sub(foreseen) * 3).div_ceil(5),
                    false => 0,
                };
                let pause = window + pages - conceded + self.after_pages();
                assert!(pause <= self.limit(), "gate 1: {pause}");
                if let Some(timeout) = self.config.limits.timeout {
                    assert!(
                        self.now + costs.suspend.0 < timeout.micros().0,
                        "forced suspend"
                    );
                }
            }
            Action::CopyFinal { pages } => {
                assert_eq!(self.guest, Guest::Stopped);
                let elapsed = u128::from(self.now - self.suspend_asked.unwrap());
                let expected = self.machine.service().expected(pages);
                let saved = self.saved(pages, self.config.last_pages.usual);
                let pause = elapsed + u128::from(expected.0) - saved + self.after_pages();
                assert!(pause <= self.limit(), "gate 2: {pause}");
                self.left = pages;
            }
            Action::Finish => {
                assert_eq!(self.guest, Guest::Stopped);
                assert_eq!(self.left, 0);
                let elapsed = u128::from(self.now - self.suspend_asked.unwrap());
                assert!(elapsed + self.after_pages() <= self.limit(), "gate 3");
                self.ended = Ended::Moved;
            }
            Action::Refuse(_) => {
                assert_eq!(self.guest, Guest::Runs, "stopped, and nobody resumes it");
                self.ended = Ended::AtSource;
            }
            Action::Resume(_) => {
                assert_eq!(self.guest, Guest::Stopped, "resumed while running");
                self.ended = Ended::AtSource;
            }
            Action::RunOn(_) => {
                assert_eq!(self.guest, Guest::Stopped, "resumed while running");
                self.given_up += 1;
                assert!(self.given_up <= Machine::MAX_GIVEN_UP);
                self.suspend_asked = None;
            }
        }
    }
}

fn any_config() -> impl Strategy<Value = Config> {
    let micros = || (0..30_000_u64).prop_map(Micros);
    (
        proptest::option::of(1..400_000_u64),
        proptest::option::of(1..20_000_000_u64),
        (micros(), micros(), micros(), micros(), micros()),
        (
            (1..2_000_u64, 1..2_000_u64),
            (0..3_000_u64, 0..3_000_u64, 0..2_000_u64, 0..30_000_u64),
        ),
        1..GUEST_PAGES,
        prop_oneof![Just(0), Just(50)],
        any::<bool>(),
    )
        .prop_map(
            |(limit, timeout, costs, (stop, last), guest_pages, risk, hands_over)| Config {
                limits: limits(limit, timeout),
                costs: FixedCosts {
                    suspend: costs.0,
                    final_bitmap: costs.1,
                    cpu_state: costs.2,
                    landing: costs.3,
                    resume: costs.4,
                },
                expected_costs: FixedCosts::default(),
                suspend_pages: SuspendPages {
                    expected: stop.0,
                    most: stop.1,
                },
                last_pages: LastPages {
                    usual: last.0,
                    longer: Micros(last.3),
                    most: last.1,
                    pages: last.2,
                },
                risk: Risk::per_mille(risk).unwrap(),
                guest_pages,
                hands_over,
            },
        )
}

fn any_event() -> impl Strategy<Value = Event> {
    let pages = || prop_oneof![Just(0), 0..3_000_u64, any::<u64>()];
    let took = || (0..10_000_u64).prop_map(Micros);
    prop_oneof![
        (pages(), took()).prop_map(|(pages, took_bitmap)| Event::Begin { pages, took_bitmap }),
        (
            0..2_000_u32,
            0..2_000_u32,
            prop_oneof![Just(0), 0..2_000_u32]
        )
            .prop_map(|(requested, pages, zeros)| Event::Sent {
                requested,
                pages,
                zeros
            }),
        proptest::option::of(pages()).prop_map(|dirty| Event::Tick { dirty }),
        pages().prop_map(|dirty| Event::Counted { dirty }),
        (pages(), took()).prop_map(|(dirty, took)| Event::Bitmap { dirty, took }),
        (pages(), took()).prop_map(|(dirty, took_bitmap)| Event::Suspended { dirty, took_bitmap }),
        Just(Event::SuspendFailed),
        Just(Event::Cancel),
        any_limits().prop_map(Event::Limits),
        Just(Event::SwitchNow),
        Just(Event::PathChanged),
        Just(Event::RoundTrip),
        Just(Event::Unsettled),
        Just(Event::HandedOver),
        Just(Event::OutOfTime),
        Just(Event::RunsOn),
    ]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        proptest::option::of(1..400_000_u64),
        proptest::option::of(1..20_000_000_u64),
    )
        .prop_map(|(limit, timeout)| limits(limit, timeout))
}

/// The answers of a driver: the pages that are dirty at a round's end as a share of those
/// that it began with, and the time that each batch and each answer takes.
#[derive(Debug, Clone, Copy)]
struct Answer {
    dirty_percent: u64,
    batch_us: u64,
    answer_us: u64,
    populated: u32,
    mishap: u8,
}

fn any_answer() -> impl Strategy<Value = Answer> {
    (
        0..130_u64,
        1..60_000_u64,
        0..20_000_u64,
        0..=1_024_u32,
        any::<u8>(),
    )
        .prop_map(
            |(dirty_percent, batch_us, answer_us, populated, mishap)| Answer {
                dirty_percent,
                batch_us,
                answer_us,
                populated,
                mishap,
            },
        )
}

/// Drives a whole attempt according to the protocol. Mishaps are drawn from `answers`.
fn drive(config: Config, pages: u64, answers: &[Answer]) -> Checked {
    let mut checked = Checked::new(config);
    let mut answers = answers.iter().cycle().copied();
    let mut event = begin(pages);
    let mut dirty = pages;
    let mut at = 0;
    let mut ticked = false;
    // There are 30 rounds of at most 64 batches, with a tick and three answers each.
    for _ in 0..10_000 {
        let action = checked
            .step(at, event)
            .expect("the driver keeps to the protocol");
        if checked.ended != Ended::No {
            return checked;
        }
        let answer = answers.next().unwrap();
        at += answer.answer_us;
        event = match action {
            Action::None | Action::Copy { .. } | Action::CopyFinal { .. } if checked.left > 0 => {
                at += answer.batch_us;
                match answer.mishap {
                    0 => Event::Cancel,
                    41..=60 if checked.handover == Handover::UnderWay => Event::HandedOver,
                    1..=40 if !ticked => {
                        ticked = true;
                        Event::Tick {
                            dirty: Some(checked.left),
                        }
                    }
                    _ => {
                        ticked = false;
                        let requested = checked.left.min(1_024) as u32;
                        let pages = requested.min(answer.populated);
                        let zeros = requested - pages;
                        Event::Sent {
                            requested,
                            pages,
                            zeros,
                        }
                    }
                }
            }
            Action::None if checked.machine.state() == State::Suspending => Event::Suspended {
                dirty,
                took_bitmap: Micros(answer.answer_us / 2),
            },
            Action::Count => {
                dirty = dirty * answer.dirty_percent / 100;
                Event::Counted { dirty }
            }
            // The handover ends at some time beside the round, or is waited for.
            Action::TakeBitmap | Action::HandOver => Event::Bitmap {
                dirty,
                took: Micros(answer.answer_us / 2),
            },
            Action::None if checked.machine.state() == State::HandingOver => match answer.mishap {
                0 => Event::Cancel,
                1..=100 if !ticked => {
                    ticked = true;
                    Event::Tick { dirty: Some(dirty) }
                }
                _ => Event::HandedOver,
            },
            Action::Suspend => match answer.mishap {
                0..=20 => Event::Cancel,
                21..=40 => Event::SuspendFailed,
                _ => Event::Suspended {
                    dirty: dirty * answer.dirty_percent / 100,
                    took_bitmap: Micros(answer.answer_us / 2),
                },
            },
            Action::RunOn(_) => Event::RunsOn,
            other => panic!("nothing to answer to {other:?}"),
        };
    }
    panic!("the attempt does not end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_attempt_ends_within_its_limits(
        config in any_config(),
        pages in 0..65_536_u64,
        answers in vec(any_answer(), 1..40),
    ) {
        let checked = drive(config, pages, &answers);
        prop_assert!(matches!(checked.ended, Ended::Moved | Ended::AtSource));
    }

    #[test]
    fn any_events_in_any_order_break_nothing(
        config in any_config(),
        events in vec((any_event(), 0..300_000_u64), 0..60),
    ) {
        let mut checked = Checked::new(config);
        let mut at = 0;
        for (event, wait) in events {
            at += wait;
            let _ = checked.step(at, event);
        }
    }

    /// Most events follow the protocol, so that random events reach every state.
    #[test]
    fn a_stray_event_breaks_nothing(
        config in any_config(),
        pages in 0..4_096_u64,
        stray in vec((any_event(), 0..30_u8, 0..20_000_u64), 1..20),
    ) {
        let mut checked = Checked::new(config);
        let mut at = 0;
        let mut strays = stray.iter().cycle();
        let mut event = begin(pages);
        for _ in 0..500 {
            let step = checked.step(at, event);
            let (stray, often, wait) = *strays.next().unwrap();
            at += wait;
            let left = checked.left;
            event = match step {
                _ if often == 0 => stray,
                Ok(Action::Count) => Event::Counted { dirty: pages / 2 },
                Ok(Action::TakeBitmap | Action::HandOver) => Event::Bitmap { dirty: pages / 2, took: Micros(9) },
                Ok(_) if checked.machine.state() == State::HandingOver => Event::HandedOver,
                Ok(Action::Suspend) => Event::Suspended { dirty: pages / 2, took_bitmap: Micros(0) },
                Ok(_) if left > 0 => Event::Sent { requested: left.min(1_024) as u32, pages: 0, zeros: 0 },
                _ => stray,
            };
        }
    }

    #[test]
    fn extreme_numbers_break_nothing(
        numbers in vec(prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()], 17),
        at in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
    ) {
        let n = |i: usize| numbers[i];
        let config = Config {
            limits: limits(Some(n(0)), Some(n(1))),
            costs: FixedCosts {
                suspend: Micros(n(2)), final_bitmap: Micros(n(3)), cpu_state: Micros(n(4)),
                landing: Micros(n(5)), resume: Micros(n(6)),
            },
            expected_costs: FixedCosts { suspend: Micros(n(8)), ..FixedCosts::default() },
            suspend_pages: SuspendPages { expected: n(12), most: n(13) },
            last_pages: LastPages {
                usual: n(14), longer: Micros(n(12)), most: n(15), pages: n(16),
            },
            risk: Risk::DEFAULT,
            guest_pages: n(7),
            hands_over: n(13) > 1,
        };
        for config in [config, Config { costs: FixedCosts::default(), ..config }] {
            let mut machine = Machine::new(config);
            for event in [
                begin(1),
                Event::Tick { dirty: Some(n(8)) },
                Event::Sent { requested: 1, pages: 1, zeros: 0 },
                Event::Counted { dirty: n(9) },
                Event::Bitmap { dirty: n(10), took: Micros(n(11)) },
                Event::Suspended { dirty: n(10), took_bitmap: Micros(n(11)) },
                Event::Tick { dirty: None },
                Event::Limits(limits(Some(n(1)), Some(n(0)))),
                Event::Bandwidth(Some(PageRate(n(8)))),
                Event::HeldBack,
                Event::PathChanged,
                Event::Unsettled,
                Event::HandedOver,
                Event::SwitchNow,
                Event::Cancel,
            ] {
                let _ = machine.step(Micros(at), event);
            }
        }
    }

    /// Compares stock Xen's rule with stock Xen's loop: `dirty[r]` pages are dirty at the
    /// end of round r.
    #[test]
    fn without_a_limit_xen_s_rule_decides(dirty in vec(0..120_u64, 6)) {
        let mut checked = Checked::new(config(None, None));
        let mut at = 0;
        let mut action = checked.step(at, begin(2_000)).unwrap();
        let mut rounds = 0;
        loop {
            at += 1_000;
            let event = match action {
                Action::Copy { .. } | Action::None => {
                    let requested = checked.left.min(1_024) as u32;
                    Event::Sent { requested, pages: requested, zeros: 0 }
                }
                Action::Count => {
                    rounds += 1;
                    Event::Counted { dirty: dirty[rounds - 1] }
                }
                Action::TakeBitmap => Event::Bitmap { dirty: dirty[rounds - 1], took: Micros(1) },
                Action::Suspend => break,
                other => panic!("{other:?}"),
            };
            action = checked.step(at, event).unwrap();
        }
        // The constants are SPP_TARGET_DIRTY_COUNT 50 and SPP_MAX_ITERATIONS 5.
        let expected = (1..5).find(|round| dirty[round - 1] < 50).unwrap_or(5);
        prop_assert_eq!(rounds, expected);
        prop_assert_eq!((XenDefault::TARGET_DIRTY_COUNT, XenDefault::MAX_ROUNDS), (50, 5));
    }
}

/// Sends a full pass at 1,024 pages in 1.5 ms, and reports `dirty` pages at its end.
fn first_round(checked: &mut Checked, pages: u64, dirty: u64) -> (u64, Action) {
    let mut at = 0;
    let mut action = checked.step(at, begin(pages)).unwrap();
    while action != Action::Count {
        at += 1_500;
        let requested = checked.left.min(1_024) as u32;
        let event = Event::Sent {
            requested,
            pages: requested,
            zeros: 0,
        };
        action = checked.step(at, event).unwrap();
    }
    at += 100;
    (at, checked.step(at, Event::Counted { dirty }).unwrap())
}

#[test]
fn met_limit_succeeds() {
    let mut checked = Checked::new(config(Some(100), None));
    let (at, action) = first_round(&mut checked, 100_000, 10);
    assert_eq!(action, Action::Suspend);
    let suspended = Event::Suspended {
        dirty: 12,
        took_bitmap: ms(1),
    };
    let action = checked.step(at + 4_000, suspended).unwrap();
    assert_eq!(action, Action::CopyFinal { pages: 12 });
    let sent = Event::Sent {
        requested: 12,
        pages: 12,
        zeros: 0,
    };
    assert_eq!(checked.step(at + 4_200, sent).unwrap(), Action::Finish);
    assert_eq!(checked.machine.pages_sent(), 100_012);
}

/// While the guest's memory grows or shrinks, it is not suspended before a round that
/// contains the changed pages.
#[test]
fn an_unsettled_guest_is_sent_another_round() {
    let mut checked = Checked::new(config(Some(100), None));
    let mut at = 0;
    let mut action = checked.step(at, begin(2_048)).unwrap();
    while action != Action::Count {
        at += 1_500;
        let sent = Event::Sent {
            requested: 1_024,
            pages: 1_024,
            zeros: 0,
        };
        action = checked.step(at, sent).unwrap();
    }
    assert_eq!(checked.step(at, Event::Unsettled).unwrap(), Action::None);
    let counted = Event::Counted { dirty: 10 };
    assert_eq!(checked.step(at, counted).unwrap(), Action::TakeBitmap);
    let bitmap = Event::Bitmap {
        dirty: 10,
        took: ms(1),
    };
    checked.step(at + 1_000, bitmap).unwrap();
    let sent = Event::Sent {
        requested: 10,
        pages: 10,
        zeros: 0,
    };
    assert_eq!(checked.step(at + 2_000, sent).unwrap(), Action::Count);
    assert_eq!(checked.step(at + 2_000, counted).unwrap(), Action::Suspend);
}

/// Where the guest is handed over before it stops, the first decision to stop begins that
/// beside another round, and the guest is asked only once it is over.
#[test]
fn a_guest_is_not_asked_to_stop_before_it_is_handed_over() {
    let with_handover = Config {
        hands_over: true,
        ..config(Some(100), None)
    };
    let counted = Event::Counted { dirty: 10 };
    let bitmap = Event::Bitmap {
        dirty: 10,
        took: ms(1),
    };
    let sent = Event::Sent {
        requested: 10,
        pages: 10,
        zeros: 0,
    };
    for in_time in [true, false] {
        let mut checked = Checked::new(with_handover);
        let (at, action) = first_round(&mut checked, 100_000, 10);
        assert_eq!(action, Action::HandOver);
        let copy = Action::Copy {
            round: 1,
            pages: 10,
        };
        assert_eq!(checked.step(at + 1_000, bitmap).unwrap(), copy);
        if in_time {
            let handed = checked.step(at + 2_000, Event::HandedOver).unwrap();
            assert_eq!(handed, Action::None);
        }
        assert_eq!(checked.step(at + 2_000, sent).unwrap(), Action::Count);
        let decided = checked.step(at + 3_000, counted).unwrap();
        if in_time {
            assert_eq!(decided, Action::Suspend);
            continue;
        }
        // What the guest writes while the handover takes its time makes one more round.
        assert_eq!(decided, Action::None);
        assert_eq!(checked.machine.state(), State::HandingOver);
        assert!(checked.machine.accepts_changes());
        let tick = Event::Tick { dirty: Some(300) };
        assert_eq!(checked.step(at + 90_000, tick).unwrap(), Action::None);
        let handed = checked.step(at + 95_000, Event::HandedOver).unwrap();
        assert_eq!(handed, Action::TakeBitmap);
        checked.step(at + 96_000, bitmap).unwrap();
        assert_eq!(checked.step(at + 97_000, sent).unwrap(), Action::Count);
        let decided = checked.step(at + 97_000, counted).unwrap();
        assert_eq!(decided, Action::Suspend);
    }
}

/// A handover that does not end is given up like a round that does not: by the operator, or
/// when the time is over. So is one that ends too late for a guest that no longer fits.
#[test]
fn a_handover_that_does_not_end_is_no_reason_to_wait_for_ever() {
    for (timeout, event, reason) in [
        (None, Event::Cancel, Reason::Cancelled),
        (
            Some(10_000),
            Event::Tick { dirty: Some(10) },
            Reason::Timeout,
        ),
    ] {
        let mut checked = Checked::new(Config {
            hands_over: true,
            ..config(Some(100), timeout)
        });
        let (at, _) = first_round(&mut checked, 100_000, 10);
        let bitmap = Event::Bitmap {
            dirty: 0,
            took: ms(1),
        };
        assert_eq!(checked.step(at, bitmap).unwrap(), Action::Count);
        let counted = Event::Counted { dirty: 0 };
        assert_eq!(checked.step(at, counted).unwrap(), Action::None);
        let Action::Refuse(refusal) = checked.step(11_000_000, event).unwrap() else {
            panic!("not refused");
        };
        assert_eq!(refusal.reason, reason);
        // It may end yet, while everything is undone.
        let late = checked.step(11_000_001, Event::HandedOver);
        assert_eq!(late.unwrap(), Action::None);
    }
}

#[test]
fn a_wish_to_switch_now_outlasts_the_handover() {
    let mut checked = Checked::new(Config {
        hands_over: true,
        ..config(Some(10_000), None)
    });
    let mut at = 0;
    let mut action = checked.step(at, begin(100_000)).unwrap();
    checked.step(at, Event::SwitchNow).unwrap();
    while action != Action::Count {
        at += 1_500;
        let requested = checked.left.min(1_024) as u32;
        let event = Event::Sent {
            requested,
            pages: requested,
            zeros: 0,
        };
        action = checked.step(at, event).unwrap();
    }
    // Otherwise another round would be worth it.
    let counted = Event::Counted { dirty: 5_000 };
    assert_eq!(checked.step(at, counted).unwrap(), Action::HandOver);
    checked.step(at, Event::HandedOver).unwrap();
    let bitmap = Event::Bitmap {
        dirty: 1_000,
        took: ms(1),
    };
    checked.step(at + 1_000, bitmap).unwrap();
    let sent = Event::Sent {
        requested: 1_000,
        pages: 1_000,
        zeros: 0,
    };
    assert_eq!(checked.step(at + 2_000, sent).unwrap(), Action::Count);
    assert_eq!(checked.step(at + 2_000, counted).unwrap(), Action::Suspend);
}

/// What the guest's own kernel dirties in order to stop is added to the pages, expected to
/// expected and most to most.
#[test]
fn the_last_pages_are_more_by_what_this_guest_dirties_to_stop() {
    let mut checked = Checked::new(config(Some(100), None));
    first_round(&mut checked, 100_000, 10);
    let (dirty, service) = (checked.machine.dirty(), checked.machine.service());
    let pages = |suspend_pages, stopped| {
        let model = DowntimeModel {
            costs: costs(),
            expected_costs: costs(),
            suspend_pages,
            last_pages: LastPages::DEFAULT,
            guest_pages: GUEST_PAGES,
            risk: Risk::DEFAULT,
            dirty,
            service,
            expected_rate: service.expected_rate(),
            round_trip: Micros::ZERO,
            dirtied_at_most: dirty
                .at_most_more(costs().suspend.saturating_add(costs().final_bitmap)),
            cap: None,
            stopped,
        };
        (model.likely_pages(10), model.final_pages(10))
    };
    let none = SuspendPages {
        expected: 0,
        most: 0,
    };
    let many = SuspendPages {
        expected: 3_000,
        most: 5_000,
    };
    let (likely, most) = pages(none, false);
    assert_eq!(pages(many, false), (likely + 3_000, most + 5_000));
    // It has done so by then.
    assert_eq!(pages(many, true), (10, 10));
}

/// Both of them reach the prediction of a machine.
#[test]
fn a_guest_that_dirties_more_to_stop_is_expected_to_pause_longer() {
    let pause = |expected, most| {
        let mut checked = Checked::new(Config {
            suspend_pages: SuspendPages { expected, most },
            ..config(Some(1_000), None)
        });
        first_round(&mut checked, 100_000, 10);
        let machine = checked.machine;
        let pages = |pause: Option<Downtime>| pause.unwrap().pages;
        (pages(machine.expected()), pages(machine.prediction()))
    };
    let (expected, predicted) = pause(350, 450);
    let (more_expected, _) = pause(3_500, 4_500);
    let (as_expected, more_predicted) = pause(350, 4_500);
    assert!(more_expected > expected && as_expected == expected);
    assert!(more_predicted > predicted);
}

/// Of the same 10 dirty pages: the time of the last pages, expected and at most, by the
/// machine.
fn last_pages_foreseen(last_pages: LastPages, risk: Risk) -> (Micros, Micros) {
    let mut checked = Checked::new(Config {
        last_pages,
        risk,
        ..config(Some(1_000), None)
    });
    first_round(&mut checked, 100_000, 10);
    let pages = |pause: Option<Downtime>| pause.unwrap().pages;
    (
        pages(checked.machine.expected()),
        pages(checked.machine.prediction()),
    )
}

#[test]
fn last_pages_are_expected_as_they_were_and_the_bound_falls_by_what_the_slowest_saved() {
    let foreseen = |usual, most, pages| {
        let last_pages = LastPages {
            usual,
            most,
            pages,
            ..LastPages::DEFAULT
        };
        last_pages_foreseen(last_pages, Risk::DEFAULT)
    };
    let (expected, at_most) = last_pages_foreseen(LastPages::DEFAULT, Risk::DEFAULT);
    // As many as were seen: a quarter of the time, and of the bound what the slowest saved.
    let all = u64::MAX;
    assert_eq!(foreseen(250, 1_000, all), (Micros(expected.0 / 4), at_most));
    let (quarter, less) = foreseen(250, 400, all);
    assert_eq!(quarter, Micros(expected.0 / 4));
    assert!(at_most.0 - less.0 >= expected.0 * 3 / 5 && less.0 >= at_most.0 * 2 / 5);
    // For pages beyond those, only the curve is used.
    let (some, most_of_some) = foreseen(250, 400, 100);
    assert!(quarter < some && some < expected);
    assert!(less < most_of_some && most_of_some < at_most);
    assert_eq!(foreseen(250, 400, 0), (expected, at_most));
    // What took longer is expected to, and no bound is above one without history.
    let (longer, unchanged) = foreseen(1_100, 5_000, all);
    assert_eq!(unchanged, at_most);
    assert!(longer > expected && longer <= at_most);
    assert_eq!(foreseen(1_000_000, 5_000, all), (at_most, at_most));
    // A bound without risk knows nothing of it.
    let known = LastPages {
        usual: 250,
        most: 400,
        pages: all,
        ..LastPages::DEFAULT
    };
    // A fixed time is expected besides. It is no part of the bound either.
    let longer = LastPages {
        longer: Micros(expected.0 / 8),
        ..known
    };
    let (more, as_before) = last_pages_foreseen(longer, Risk::DEFAULT);
    assert_eq!(more, Micros(expected.0 / 4 + expected.0 / 8));
    assert_eq!(as_before, less);
    let no_risk = Risk::per_mille(0).unwrap();
    let (_, without) = last_pages_foreseen(LastPages::DEFAULT, no_risk);
    assert_eq!(last_pages_foreseen(known, no_risk), (quarter, without));
}

/// The curve's time is what a ledger compares with. A cap, which the curve may know instead
/// of the path, does not apply to the last pages.
#[test]
fn the_curve_s_word_for_the_last_pages_is_kept_unless_it_was_capped() {
    let by_curve = |cap| {
        let mut checked = Checked::new(config(Some(1_000), None));
        checked.step(0, Event::Bandwidth(cap)).unwrap();
        let (at, action) = first_round(&mut checked, 100_000, 10);
        assert_eq!(action, Action::Suspend);
        assert_eq!(checked.machine.last_pages_by_curve(), None);
        let stopped = Event::Suspended {
            dirty: 400,
            took_bitmap: ms(1),
        };
        checked.step(at + 1_000, stopped).unwrap();
        let expected = checked.machine.service().expected(400);
        checked
            .machine
            .last_pages_by_curve()
            .map(|time| time == expected)
    };
    assert_eq!(by_curve(None), Some(true));
    assert_eq!(by_curve(Some(PageRate(1_000_000))), None);
}

/// Three of four last pages are all zero. The time of the rest is compared with the curve's
/// time for a quarter of the pages. Otherwise the next pause would be predicted four times
/// too short.
#[test]
fn zero_pages_have_no_share_in_what_is_learned_of_the_last_pages() {
    let mut checked = Checked::new(config(Some(1_000), None));
    let (at, action) = first_round(&mut checked, 100_000, 10);
    assert_eq!(action, Action::Suspend);
    let stopped = Event::Suspended {
        dirty: 400,
        took_bitmap: ms(1),
    };
    checked.step(at + 1_000, stopped).unwrap();
    let all = checked.machine.last_pages_by_curve().unwrap();
    let before = checked.machine.pages_sent();
    let sent = Event::Sent {
        requested: 400,
        pages: 100,
        zeros: 300,
    };
    assert_eq!(checked.step(at + 2_000, sent), Ok(Action::Finish));
    let by_curve = checked.machine.last_pages_by_curve();
    assert_eq!(by_curve, Some(Micros(all.0 / 4)));
    assert_eq!(checked.machine.pages_sent(), before + 100);
}

#[test]
fn limit_is_met_to_the_microsecond() {
    let mut probe = Checked::new(config(Some(1_000), None));
    let (_, action) = first_round(&mut probe, 100_000, 40);
    assert_eq!(action, Action::Suspend);
    let exact = probe.machine.prediction().unwrap().total().0;
    for (limit, suspends) in [(exact, true), (exact - 1, false)] {
        let config = Config {
            limits: limits(Some(limit), None),
            ..probe.config
        };
        let (_, action) = first_round(&mut Checked::new(config), 100_000, 40);
        assert_eq!(action == Action::Suspend, suspends, "{limit} {action:?}");
    }
}

#[test]
fn fixed_costs_beyond_the_limit_are_refused_before_copying() {
    let mut checked = Checked::new(config(Some(29), None));
    let Action::Refuse(refusal) = checked.step(0, begin(100)).unwrap() else {
        panic!("not refused");
    };
    let part = FixedPart::Landing;
    assert_eq!(refusal.reason, Reason::FixedCosts { part });
    assert_eq!(refusal.figures.smallest_limit, Some(ms(30)));
    assert_eq!(refusal.figures.bandwidth_needed, None);
}

#[test]
fn resuming_alone_beyond_the_limit_is_refused_before_copying() {
    let slow = Config {
        costs: FixedCosts {
            resume: ms(60),
            ..costs()
        },
        ..config(Some(50), None)
    };
    let mut checked = Checked::new(slow);
    let Action::Refuse(refusal) = checked.step(0, begin(100)).unwrap() else {
        panic!("not refused");
    };
    let part = FixedPart::Resume;
    assert_eq!(refusal.reason, Reason::FixedCosts { part });
    assert_eq!(refusal.figures.smallest_limit, Some(ms(70)));
}

#[test]
fn a_guest_gets_the_shortest_pause_it_can_have_however_long_it_lands() {
    let far = Config {
        costs: FixedCosts {
            landing: ms(3_000),
            ..costs()
        },
        ..config(Some(10_000), None)
    };
    // The pages take 7 ms to send now, within a limit of 10 s; after a round of 7 ms they
    // would take 0.4 ms.
    let (_, action) = first_round(&mut Checked::new(far), 100_000, 5_000);
    assert_eq!(action, Action::TakeBitmap);
    // Xen's own rule would not stop the guest either.
    let (_, action) = first_round(&mut Checked::new(far), 100_000, 600);
    assert_eq!(action, Action::TakeBitmap);
    let (_, action) = first_round(&mut Checked::new(far), 100_000, 40);
    assert_eq!(action, Action::Suspend);
    // The guest is stopped if there is no time for another round: the pass took 147 ms, and
    // a suspend may take 5 ms.
    let hurried = Config {
        limits: limits(Some(10_000_000), Some(165_000)),
        ..far
    };
    let (_, action) = first_round(&mut Checked::new(hurried), 100_000, 5_000);
    assert_eq!(action, Action::Suspend);
}

#[test]
fn a_suspended_attempt_always_has_room_to_resume() {
    let slow = Config {
        costs: FixedCosts {
            resume: ms(60),
            ..costs()
        },
        ..config(Some(1_000), None)
    };
    let mut probe = Checked::new(slow);
    first_round(&mut probe, 100_000, 40);
    // The landing, 20 ms, would be over before a resume.
    let needed = probe.machine.prediction().unwrap().total().0 + 40_000;
    for (limit, suspends) in [(needed, true), (needed - 1, false)] {
        let config = Config {
            limits: limits(Some(limit), None),
            ..slow
        };
        let (_, action) = first_round(&mut Checked::new(config), 100_000, 40);
        assert_eq!(action == Action::Suspend, suspends, "{limit} {action:?}");
    }
    let tight = Config {
        limits: limits(Some(needed), None),
        ..slow
    };
    let mut checked = Checked::new(tight);
    let (at, _) = first_round(&mut checked, 100_000, 40);
    let late = Event::Suspended {
        dirty: 1_500,
        took_bitmap: ms(1),
    };
    let Action::Resume(refusal) = checked.step(at + 20_000, late).unwrap() else {
        panic!("no room left");
    };
    let figures = refusal.figures;
    let needed_now = figures.predicted_downtime.unwrap().total();
    assert!(needed_now > Micros(needed));
    assert_eq!(figures.smallest_limit, Some(needed_now));
}

#[test]
fn a_bitmap_that_was_slow_when_tried_is_expected_to_be_slow() {
    let slow = Event::Begin {
        pages: 100,
        took_bitmap: ms(80),
    };
    // The final bitmap counts as 100 ms, everything else as 28 ms.
    for (limit, begins) in [(128, true), (127, false)] {
        let mut checked = Checked::new(config(Some(limit), None));
        match checked.step(0, slow).unwrap() {
            Action::Refuse(refusal) => {
                assert!(!begins);
                let part = FixedPart::FinalBitmap;
                assert_eq!(refusal.reason, Reason::FixedCosts { part });
                assert_eq!(refusal.figures.smallest_limit, Some(ms(128)));
            }
            action => assert!(begins, "{action:?}"),
        }
    }
}

#[test]
fn too_many_pages_after_suspend_resume_the_guest_at_once() {
    let mut checked = Checked::new(config(Some(100), None));
    let (at, action) = first_round(&mut checked, 100_000, 10);
    assert_eq!(action, Action::Suspend);
    let suspended = Event::Suspended {
        dirty: 90_000,
        took_bitmap: ms(1),
    };
    let Action::Resume(refusal) = checked.step(at + 4_000, suspended).unwrap() else {
        panic!("not resumed");
    };
    assert_eq!(refusal.reason, Reason::DowntimeAfterSuspend);
    let figures = refusal.figures;
    assert_eq!(figures.dirty_count, Some(90_000));
    assert_eq!(
        figures.smallest_limit,
        Some(figures.predicted_downtime.unwrap().total())
    );
    assert!(figures.smallest_limit.unwrap() > ms(100));
    assert!(figures.bandwidth_needed.unwrap() > figures.transfer_rate.lower.bytes());
}

#[test]
fn slow_suspend_counts_against_the_limit() {
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    let suspended = Event::Suspended {
        dirty: 0,
        took_bitmap: ms(1),
    };
    let action = checked.step(at + 77_001, suspended).unwrap();
    assert!(matches!(action, Action::Resume(_)), "{action:?}");
}

#[test]
fn collapsing_link_in_the_final_round_resumes_the_guest() {
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    let suspended = Event::Suspended {
        dirty: 1_000,
        took_bitmap: ms(1),
    };
    checked.step(at + 4_000, suspended).unwrap();
    let tick = Event::Tick { dirty: None };
    assert_eq!(checked.step(at + 70_000, tick).unwrap(), Action::None);
    let Action::Resume(refusal) = checked.step(at + 78_000, tick).unwrap() else {
        panic!("not resumed");
    };
    assert_eq!(refusal.reason, Reason::BehindSchedule);
}

#[test]
fn cancel_keeps_the_guest_in_every_state() {
    // The cancel comes before anything else.
    let mut checked = Checked::new(config(Some(100), None));
    assert!(
        matches!(checked.step(0, Event::Cancel), Ok(Action::Refuse(r)) if r.reason == Reason::Cancelled)
    );
    // The cancel comes while pages are copied.
    let mut checked = Checked::new(config(Some(100), None));
    checked.step(0, begin(9)).unwrap();
    assert!(
        matches!(checked.step(1, Event::Cancel), Ok(Action::Refuse(r)) if r.reason == Reason::Cancelled)
    );
    // The cancel comes while the guest is stopping, and is remembered until it has stopped.
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    assert_eq!(checked.step(at, Event::Cancel), Ok(Action::None));
    let suspended = Event::Suspended {
        dirty: 1,
        took_bitmap: ms(1),
    };
    assert!(
        matches!(checked.step(at, suspended), Ok(Action::Resume(r)) if r.reason == Reason::Cancelled)
    );
    // The same holds if the guest does not stop.
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    assert_eq!(checked.step(at, Event::Cancel), Ok(Action::None));
    assert!(
        matches!(checked.step(at, Event::SuspendFailed), Ok(Action::Refuse(r)) if r.reason == Reason::Cancelled)
    );
    // The cancel comes in the final round.
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    assert_eq!(
        checked.step(at + 1_000, suspended),
        Ok(Action::CopyFinal { pages: 1 })
    );
    assert!(
        matches!(checked.step(at + 1_000, Event::Cancel), Ok(Action::Resume(r)) if r.reason == Reason::Cancelled)
    );
    // The cancel comes too late.
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    let suspended = Event::Suspended {
        dirty: 0,
        took_bitmap: Micros(1),
    };
    assert_eq!(checked.step(at + 10, suspended), Ok(Action::Finish));
    assert_eq!(checked.step(at + 20, Event::Cancel), Ok(Action::None));
    assert_eq!(checked.machine.state(), State::Finished);
}

#[test]
fn guest_that_will_not_stop_is_refused_not_resumed() {
    let mut checked = Checked::new(config(Some(100), None));
    let (at, _) = first_round(&mut checked, 100_000, 10);
    assert!(
        matches!(checked.step(at, Event::SuspendFailed), Ok(Action::Refuse(r)) if r.reason == Reason::SuspendFailed)
    );
}

#[test]
fn guest_that_has_not_stopped_by_the_timeout_is_refused_for_it() {
    for (wait, reason) in [(0, Reason::SuspendFailed), (10_000_000, Reason::Timeout)] {
        let mut checked = Checked::new(config(Some(100), Some(10_000)));
        let (at, _) = first_round(&mut checked, 100_000, 10);
        assert!(
            matches!(checked.step(at + wait, Event::SuspendFailed), Ok(Action::Refuse(r)) if r.reason == reason)
        );
    }
}

#[test]
fn timeout_refuses_and_never_suspends() {
    // The first pass takes 147 ms; suspending takes up to 5 ms.
    for (timeout, suspends) in [(160, true), (150, false), (100, false)] {
        let mut checked = Checked::new(config(None, Some(timeout)));
        checked.step(0, begin(100_000)).unwrap();
        let mut at = 0;
        let last = loop {
            at += 1_500;
            let requested = checked.left.min(1_024) as u32;
            let event = match checked.left {
                0 => Event::Counted { dirty: 0 },
                _ => Event::Sent {
                    requested,
                    pages: requested,
                    zeros: 0,
                },
            };
            match checked.step(at, event).unwrap() {
                Action::None | Action::Count => {}
                last => break last,
            }
        };
        match last {
            Action::Suspend => assert!(suspends),
            Action::Refuse(refusal) => {
                assert!(!suspends);
                assert_eq!(refusal.reason, Reason::Timeout);
                assert!(at <= timeout * 1_000);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn clean_rounds_go_straight_on() {
    let mut checked = Checked::new(config(None, None));
    assert_eq!(checked.step(0, begin(0)), Ok(Action::Count));
    assert_eq!(
        checked.step(1, Event::Counted { dirty: 60 }),
        Ok(Action::TakeBitmap)
    );
    let bitmap = Event::Bitmap {
        dirty: 0,
        took: Micros(1),
    };
    assert_eq!(checked.step(2, bitmap), Ok(Action::Count));
    assert_eq!(
        checked.step(3, Event::Counted { dirty: 0 }),
        Ok(Action::Suspend)
    );
    let suspended = Event::Suspended {
        dirty: 0,
        took_bitmap: Micros(1),
    };
    assert_eq!(checked.step(4, suspended), Ok(Action::Finish));
}

#[test]
fn driver_s_mistakes_are_named() {
    let mut checked = Checked::new(config(None, None));
    let sent = |requested, pages| Event::Sent {
        requested,
        pages,
        zeros: 0,
    };
    let zeros = Event::Sent {
        requested: 9,
        pages: 5,
        zeros: 5,
    };
    checked.step(5, begin(9)).unwrap();
    assert_eq!(checked.step(6, zeros), Err(ProtocolError::TooManyPages));
    let begun = |checked: &mut Checked| {
        *checked = Checked::new(config(None, None));
        checked.step(5, begin(9)).unwrap();
    };
    begun(&mut checked);
    assert_eq!(
        checked.step(6, sent(10, 10)),
        Err(ProtocolError::TooManyPages)
    );
    begun(&mut checked);
    assert_eq!(
        checked.step(6, sent(3, 4)),
        Err(ProtocolError::TooManyPages)
    );
    begun(&mut checked);
    assert_eq!(checked.step(6, sent(0, 0)), Err(ProtocolError::EmptyBatch));
    begun(&mut checked);
    assert_eq!(
        checked.step(4, sent(1, 1)),
        Err(ProtocolError::TimeWentBack)
    );
    begun(&mut checked);
    let early = Event::Counted { dirty: 1 };
    assert_eq!(
        checked.step(6, early),
        Err(ProtocolError::Unexpected(State::Copying))
    );
    assert_eq!(
        checked.step(7, sent(1, 1)),
        Err(ProtocolError::Unexpected(State::Failed))
    );
    assert_eq!(
        checked.step(8, Event::Cancel),
        Err(ProtocolError::Unexpected(State::Failed))
    );
}

#[test]
fn a_refusal_names_what_would_have_helped() {
    let mut checked = Checked::new(config(Some(100), None));
    let (mut at, mut action) = first_round(&mut checked, 200_000, 150_000);
    let refusal = loop {
        at += 1_500;
        let requested = checked.left.min(1_024) as u32;
        action = match action {
            Action::TakeBitmap => {
                let event = Event::Bitmap {
                    dirty: 150_000,
                    took: ms(1),
                };
                checked.step(at, event).unwrap()
            }
            Action::Count => checked.step(at, Event::Counted { dirty: 150_000 }).unwrap(),
            Action::Refuse(refusal) => break refusal,
            _ => checked
                .step(
                    at,
                    Event::Sent {
                        requested,
                        pages: requested,
                        zeros: 0,
                    },
                )
                .unwrap(),
        };
    };
    assert!(matches!(
        refusal.reason,
        Reason::NotConverging(NotConverging::Stalled | NotConverging::DirtyRateTooHigh)
    ));
    let figures = refusal.figures;
    assert!(figures.round < 5, "{figures:?}");
    assert!(figures.smallest_limit.unwrap() > ms(100));
    let needed = figures.bandwidth_needed.unwrap().0;
    assert!(needed > figures.transfer_rate.lower.bytes().0);
    // At most 150,000 pages must fit into the 70 ms that the fixed costs leave.
    assert!(
        needed <= (150_000 + 20_000) * 4_096 * 1_000 / 70,
        "{needed}"
    );
}

/// Rounds of a guest that writes nothing, over a path of 102,400 pages a second, until the
/// guest is asked to stop or is refused. 350 pages are expected of its stop, and 450 are the
/// bound: a pause of 33.4 or 34.4 ms.
fn end_of_a_quiet_guest(limit: u64, risk: Risk) -> (Action, u32) {
    let mut checked = Checked::new(Config {
        limits: limits(Some(limit), None),
        risk,
        ..config(None, None)
    });
    checked.step(0, begin(20_480)).unwrap();
    let (mut at, mut rounds) = (0, 0);
    let mut action = Action::None;
    for _ in 0..20 {
        at += 10_000;
        let (requested, pages) = (1_024, 1_024);
        action = checked
            .step(
                at,
                Event::Sent {
                    requested,
                    pages,
                    zeros: 0,
                },
            )
            .unwrap();
    }
    loop {
        at += 100;
        action = match action {
            Action::Count => {
                rounds += 1;
                checked.step(at, Event::Counted { dirty: 0 }).unwrap()
            }
            Action::TakeBitmap => {
                let took = Micros::ZERO;
                checked.step(at, Event::Bitmap { dirty: 0, took }).unwrap()
            }
            end => return (end, rounds),
        };
    }
}

#[test]
fn a_guest_is_tried_rather_than_refused_for_the_last_of_a_bound() {
    let end = |limit, risk| end_of_a_quiet_guest(limit, Risk::per_mille(risk).unwrap());
    // The bound fits, half of the way to it does, and not even that.
    assert_eq!(end(34_500, 50), (Action::Suspend, 1));
    let (tried, rounds) = end(34_000, 50);
    assert_eq!(tried, Action::Suspend);
    assert!(rounds > 1, "{rounds}");
    assert!(matches!(end(33_800, 50), (Action::Refuse(_), _)));
    // The less may be at risk, the less is conceded; and nothing without a risk.
    assert!(matches!(end(34_000, 10), (Action::Refuse(_), _)));
    assert_eq!(end(34_320, 10).0, Action::Suspend);
    assert!(matches!(end(34_320, 0), (Action::Refuse(_), _)));
}

#[test]
fn limits_change_until_the_guest_is_asked_to_stop_and_not_after() {
    let mut checked = Checked::new(config(Some(31), None));
    let (at, action) = first_round(&mut checked, 20_000, 20_000);
    assert_eq!(action, Action::TakeBitmap, "too much for 31 ms");
    // The pages that do not fit under the first limit fit under the second.
    let wide = Event::Limits(limits(Some(5_000_000), None));
    assert_eq!(checked.step(at, wide), Ok(Action::None));
    let bitmap = Event::Bitmap {
        dirty: 0,
        took: Micros::ZERO,
    };
    assert_eq!(checked.step(at, bitmap), Ok(Action::Count));
    let counted = Event::Counted { dirty: 100 };
    assert_eq!(checked.step(at, counted), Ok(Action::Suspend));
    let narrow = Event::Limits(limits(Some(1), None));
    assert_eq!(checked.step(at, narrow), Ok(Action::None));
    assert_eq!(
        checked.machine.config().limits,
        limits(Some(5_000_000), None)
    );
}

#[test]
fn a_limit_below_what_every_pause_costs_refuses_at_once() {
    let mut checked = Checked::new(config(Some(1_000), None));
    checked.step(0, begin(4_000)).unwrap();
    let step = checked.step(1, Event::Limits(limits(Some(1_000), None)));
    assert!(matches!(
        step,
        Ok(Action::Refuse(refusal)) if matches!(refusal.reason, Reason::FixedCosts { .. })
    ));
}

#[test]
fn a_timeout_that_is_over_refuses_at_once() {
    let mut checked = Checked::new(config(Some(1_000), None));
    checked.step(0, begin(4_000)).unwrap();
    let step = checked.step(9_000, Event::Limits(limits(Some(1_000_000), Some(9_000))));
    assert!(matches!(step, Ok(Action::Refuse(refusal)) if refusal.reason == Reason::Timeout));
}

#[test]
fn a_wish_to_switch_spares_a_round_but_no_gate() {
    // Without a limit the request takes effect at the next decision.
    let mut checked = Checked::new(config(None, None));
    checked.step(0, begin(1_024)).unwrap();
    checked.step(1, Event::SwitchNow).unwrap();
    let sent = Event::Sent {
        requested: 1_024,
        pages: 1_024,
        zeros: 0,
    };
    assert_eq!(checked.step(1_500, sent), Ok(Action::Count));
    let counted = Event::Counted { dirty: 900 };
    assert_eq!(checked.step(1_501, counted), Ok(Action::Suspend));
    // Under a limit that the pages do not fit, there is another round, and the request is
    // used up.
    let mut checked = Checked::new(config(Some(36), None));
    checked.step(0, begin(1_024)).unwrap();
    checked.step(1, Event::SwitchNow).unwrap();
    assert_eq!(checked.step(15_000, sent), Ok(Action::Count));
    assert_eq!(checked.step(15_001, counted), Ok(Action::TakeBitmap));
}

#[test]
fn a_guest_that_outpaces_the_bandwidth_allowed_is_refused_though_the_link_would_do() {
    let refused = |cap: Option<u64>| {
        let allowed = cap.map(PageRate);
        let mut checked = Checked::new(config(Some(100), None));
        let mut at = 1_000;
        checked.step(0, begin(8_192)).unwrap();
        for round in 0..6 {
            // Pages are sent at the rate of the cap once there is one, and at 100,000 pages
            // a second before.
            let cap = cap.filter(|_| round > 0);
            let took = 1_024 * 1_000_000 / cap.unwrap_or(100_000);
            for _ in 0..8 {
                at += took;
                if cap.is_some() {
                    checked.step(at, Event::HeldBack).unwrap();
                }
                let sent = Event::Sent {
                    requested: 1_024,
                    pages: 1_024,
                    zeros: 0,
                };
                checked.step(at, sent).unwrap();
            }
            // The guest dirties 20,000 pages a second, of 8,192 at most.
            at += 1_000;
            let dirty = match round {
                0 => 8_192,
                _ => (8 * took / 50).min(8_192),
            };
            match checked.step(at, Event::Counted { dirty }).unwrap() {
                Action::Refuse(refusal) => return Some(refusal),
                Action::Suspend => return None,
                _ => {}
            }
            let took = Micros::ZERO;
            let bitmap = Event::Bitmap { dirty: 8_192, took };
            checked.step(at, bitmap).unwrap();
            checked.step(at, Event::Bandwidth(allowed)).unwrap();
        }
        panic!("no end");
    };
    assert_eq!(refused(None), None);
    let refusal = refused(Some(10_000)).expect("too fast for it");
    assert_eq!(
        refusal.reason,
        Reason::NotConverging(NotConverging::DirtyRateTooHigh)
    );
    // The estimate of the link is kept.
    assert!(refusal.figures.transfer_rate.lower > PageRate(80_000));
    assert_eq!(refusal.figures.cap, Some(PageRate(10_000)));
}

#[test]
fn a_pause_given_up_is_tried_again_while_there_is_time_and_twice_at_most() {
    for (timeout, expected) in [(Some(60_000), 2), (Some(160), 0), (None, 0)] {
        let mut checked = Checked::new(config(Some(100), timeout));
        let (mut at, mut action) = first_round(&mut checked, 100_000, 40);
        let mut given_up = 0;
        loop {
            assert_eq!(action, Action::Suspend);
            at += 4_000;
            // The guest dirties far more than expected on its way to the stop.
            let dirty = 60_000;
            let took_bitmap = ms(1);
            let suspended = Event::Suspended { dirty, took_bitmap };
            match checked.step(at, suspended).unwrap() {
                Action::RunOn(refusal) => {
                    assert_eq!(refusal.reason, Reason::DowntimeAfterSuspend);
                    given_up += 1;
                }
                Action::Resume(_) => break,
                other => panic!("{other:?}"),
            }
            at += 4_000;
            // The pages in the final bitmap belong to the next round.
            let next = checked.step(at, Event::RunsOn).unwrap();
            assert!(
                matches!(next, Action::Copy { pages: 60_000, .. }),
                "{next:?}"
            );
            action = next;
            while action != Action::Count {
                at += 1_500;
                let requested = checked.left.min(1_024) as u32;
                let pages = requested;
                let sent = Event::Sent {
                    requested,
                    pages,
                    zeros: 0,
                };
                action = checked.step(at, sent).unwrap();
            }
            at += 100;
            action = checked.step(at, Event::Counted { dirty: 40 }).unwrap();
        }
        assert_eq!(given_up, expected, "{timeout:?}");
    }
}

#[test]
fn a_pause_given_up_in_the_final_round_goes_on_where_it_was() {
    let mut checked = Checked::new(config(Some(100), Some(60_000)));
    let (at, _) = first_round(&mut checked, 100_000, 40);
    let dirty = 2_048;
    let took_bitmap = ms(1);
    let suspended = Event::Suspended { dirty, took_bitmap };
    let action = checked.step(at + 4_000, suspended).unwrap();
    assert_eq!(action, Action::CopyFinal { pages: 2_048 });
    let late = checked.step(at + 70_000, Event::OutOfTime).unwrap();
    let Action::RunOn(refusal) = late else {
        panic!("{late:?}");
    };
    // The time that has passed is part of the pause that would have been needed.
    let needed = refusal.figures.smallest_limit.unwrap();
    assert!(needed > ms(70), "{needed:?}");
    let half = Event::Sent {
        requested: 1_024,
        pages: 1_024,
        zeros: 0,
    };
    assert_eq!(checked.step(at + 71_000, half), Ok(Action::None));
    assert_eq!(checked.step(at + 72_000, Event::RunsOn), Ok(Action::None));
    assert_eq!(checked.machine.state(), State::Copying);
    assert_eq!(checked.step(at + 73_000, half), Ok(Action::Count));
}
