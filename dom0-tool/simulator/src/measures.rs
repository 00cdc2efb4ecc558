//! How good the estimate is, compared with a decision that knows the future.
//!
//! Only attempts without mishaps count: every cost is as assumed or less, no operator
//! cancels, and the request to stop changes neither the link nor the guest.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use lull_core::downtime::{LastPages, SuspendPages};
use lull_core::limits::DowntimeLimit;
use lull_core::refusal::Reason;
use lull_core::units::Micros;

use crate::attempt::{self, End, Outcome, Pause};
use crate::draw::{Draw, LinkKind, Mishaps, WriterKind, seen_last_pages};
use crate::link::{Link, WithinPause};
use crate::oracle::{self, Foresight};
use crate::random::Random;
use crate::scenario::Scenario;
use crate::tally::Histogram;

/// The measurements for one kind of link. Shares and ratios are per mille.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// The number of attempts.
    pub attempts: u64,
    /// The number of attempts in which a decision that knows the future would have moved
    /// the guest, even with every fixed cost at its bound.
    pub winnable: u64,
    /// The number of those that were refused before the guest was stopped.
    pub refused: u64,
    /// The number of those in which a rule that cannot see the future could have moved the
    /// guest at the stated risk: [`oracle::could_be_known`].
    pub refused_in_vain: u64,
    /// The number of guests that were stopped.
    pub stopped: u64,
    /// The number of those that were resumed at the source after a wrong prediction.
    pub late: u64,
    /// For moved guests: the pause, relative to the shortest possible pause with the same
    /// number of rounds.
    pub moment: Histogram,
    /// For moved guests: the error of the expected time for the last pages, relative to
    /// that time.
    pub error: Histogram,
    /// For stopped guests: the upper bound of the time for the last pages, relative to the
    /// time observed.
    pub bound: Histogram,
    /// The number of those whose last pages took longer than the bound.
    pub beyond: u64,
    /// Like `error`, had lull seen the guest stop before.
    pub error_known: Histogram,
    /// Like `bound`, had lull seen the guest stop before.
    pub bound_known: Histogram,
    /// Of every other guest over a path that is two to five times faster within the pause.
    pub faster: Lesson,
    /// Of the others over one that is up to a half slower.
    pub slower: Lesson,
    /// The number of guests that moved under both limits.
    pub compared: u64,
    /// The number of those whose pause was more than a tenth longer under the larger limit.
    pub longer: u64,
}

/// How the last pages were foreseen on a path that is another within the pause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lesson {
    /// With nothing known of that.
    pub before: LastPagesForeseen,
    /// Had lull seen such pauses before.
    pub after: LastPagesForeseen,
}

impl Lesson {
    fn merge(&mut self, other: &Self) {
        self.before.merge(&other.before);
        self.after.merge(&other.after);
    }
}

/// How the last pages were foreseen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastPagesForeseen {
    /// See [`Measures::stopped`].
    pub stopped: u64,
    /// See [`Measures::late`].
    pub late: u64,
    /// See [`Measures::error`].
    pub error: Histogram,
    /// See [`Measures::bound`].
    pub bound: Histogram,
    /// See [`Measures::beyond`].
    pub beyond: u64,
}

impl LastPagesForeseen {
    fn add(&mut self, outcome: &Outcome) {
        let Some(pause) = &outcome.pause else {
            return;
        };
        let moved = outcome.end == End::Moved;
        self.stopped += 1 + u64::from(outcome.given_up.1);
        self.late += u64::from(!moved) + u64::from(outcome.given_up.1);
        if let Some(foreseen) = Foreseen::of(pause) {
            self.error.add(foreseen.error);
            self.bound.add(foreseen.bound);
            self.beyond += u64::from(foreseen.is_beyond);
        } else if !moved {
            self.beyond += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.stopped += other.stopped;
        self.late += other.late;
        self.error.merge(&other.error);
        self.bound.merge(&other.bound);
        self.beyond += other.beyond;
    }
}

/// The number of attempts that a thread takes at a time.
const SHARE: u64 = 64;

/// In µs. Below this the time for the last pages is too short to be worth predicting.
const LEAST: u64 = 10_000;

/// Runs the attempts 0 to `attempts` with steady and bursty guests over such links.
pub fn run(link: LinkKind, seed: u64, attempts: u64) -> Measures {
    let next = AtomicU64::new(0);
    let work = || {
        let mut measures = Measures::default();
        loop {
            let start = next.fetch_add(SHARE, Ordering::Relaxed);
            if start >= attempts {
                return measures;
            }
            for number in start..attempts.min(start + SHARE) {
                measures.add(link, seed, number);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Measures::default();
        for thread in threads {
            all.merge(&thread.join().expect("a panic aborts"));
        }
        all
    })
}

impl Measures {
    fn add(&mut self, link: LinkKind, seed: u64, number: u64) {
        let draw = Draw {
            mishaps: Mishaps::None,
            link: Some(link),
            writer: Some([WriterKind::Steady, WriterKind::Bursty][(number % 2) as usize]),
            ..Draw::anything(seed)
        };
        let scenario = draw.scenario(number).scenario;
        let outcome = attempt::run(&scenario);
        self.attempts += 1;
        self.count(&scenario, &outcome);
        if outcome.end == End::Moved {
            self.compare(&scenario, &outcome);
        }
        let known = attempt::run(&seen_to_stop(&scenario, seed, number));
        if let Some(foreseen) = known.pause.as_ref().and_then(Foreseen::of) {
            self.error_known.add(foreseen.error);
            self.bound_known.add(foreseen.bound);
        }
        let (before, after) = another_path_within_the_pause(&scenario, seed, number);
        let lesson = match is_slower(number) {
            false => &mut self.faster,
            true => &mut self.slower,
        };
        lesson.before.add(&attempt::run(&before));
        lesson.after.add(&attempt::run(&after));
    }

    fn count(&mut self, scenario: &Scenario, outcome: &Outcome) {
        let wins = |scenario| matches!(oracle::foresee(scenario), Foresight::WouldHaveMoved { .. });
        let Some(pause) = outcome.pause else {
            let by_rule = matches!(outcome.end, End::Refused(refusal)
                if !matches!(refusal.reason, Reason::FixedCosts { .. }));
            if wins(&scenario.at_the_bounds()) {
                self.winnable += 1;
                self.refused += u64::from(by_rule);
                let in_vain = by_rule && oracle::could_be_known(&scenario.at_the_bounds());
                self.refused_in_vain += u64::from(in_vain);
            }
            return;
        };
        self.winnable += 1;
        self.stopped += 1 + u64::from(outcome.given_up.1);
        let moved = outcome.end == End::Moved;
        self.late += u64::from(!moved) + u64::from(outcome.given_up.1);
        if let Some(foreseen) = Foreseen::of(&pause) {
            self.error.add(foreseen.error);
            self.bound.add(foreseen.bound);
            self.beyond += u64::from(foreseen.is_beyond);
        } else if !moved {
            self.beyond += 1;
        }
        if !moved {
            return;
        }
        if let Some(best) = oracle::best_of(scenario, outcome.rounds) {
            self.moment.add(per_mille(pause.since_request.0, best));
        }
    }

    /// Runs the same guest under a limit three times as large.
    fn compare(&mut self, scenario: &Scenario, outcome: &Outcome) {
        let limits = lull_core::limits::Limits {
            max_suspend: DowntimeLimit::new(Micros(scenario.limit().saturating_mul(3))),
            ..scenario.limits
        };
        let larger = attempt::run(&Scenario {
            limits,
            ..scenario.clone()
        });
        let pauses = outcome.pause.zip(larger.pause);
        if let Some((one, other)) = pauses.filter(|_| larger.end == End::Moved) {
            let (one, other) = (one.since_request.0, other.since_request.0);
            self.compared += 1;
            self.longer += u64::from(other > one + one / 10);
        }
    }

    fn merge(&mut self, other: &Self) {
        let Self {
            attempts,
            winnable,
            refused,
            refused_in_vain,
            stopped,
            late,
            moment,
            error,
            bound,
            beyond,
            error_known,
            bound_known,
            faster,
            slower,
            compared,
            longer,
        } = other;
        for (mine, theirs) in [
            (&mut self.attempts, attempts),
            (&mut self.winnable, winnable),
            (&mut self.refused, refused),
            (&mut self.refused_in_vain, refused_in_vain),
            (&mut self.stopped, stopped),
            (&mut self.late, late),
            (&mut self.beyond, beyond),
            (&mut self.compared, compared),
            (&mut self.longer, longer),
        ] {
            *mine += theirs;
        }
        self.moment.merge(moment);
        self.error.merge(error);
        self.bound.merge(bound);
        self.error_known.merge(error_known);
        self.bound_known.merge(bound_known);
        self.faster.merge(faster);
        self.slower.merge(slower);
    }
}

/// How the time for the last pages was foreseen.
struct Foreseen {
    /// See [`Measures::error`].
    error: u64,
    /// See [`Measures::bound`].
    bound: u64,
    /// See [`Measures::beyond`].
    is_beyond: bool,
}

impl Foreseen {
    /// `None` where the last pages were not all sent, or took no time worth foreseeing.
    fn of(pause: &Pause) -> Option<Self> {
        let pages = pause.pages.filter(|pages| pages.0 >= LEAST)?;
        let (expected, most) = (pause.expected.pages, pause.predicted.pages);
        Some(Self {
            error: per_mille(expected.0.abs_diff(pages.0), pages.0),
            bound: per_mille(most.0, pages.0),
            is_beyond: most < pages,
        })
    }
}

/// The same, of a guest that was seen to stop before: it dirtied up to a twentieth more or
/// less than it is going to, and a quarter more than that is the bound.
fn seen_to_stop(scenario: &Scenario, seed: u64, number: u64) -> Scenario {
    // Other numbers than those that the scenario was drawn from.
    let mut random = Random::of(!seed, number);
    let expected = scenario.guest.stop_pages * random.within(95, 105) / 100;
    Scenario {
        suspend_pages: SuspendPages {
            expected,
            most: expected + expected / 4,
        },
        ..scenario.clone()
    }
}

/// The same guest, seen to stop before, over a path that is another within the pause:
/// without and with the knowledge of it.
fn another_path_within_the_pause(
    scenario: &Scenario,
    seed: u64,
    number: u64,
) -> (Scenario, Scenario) {
    let mut random = Random::of(!seed, !number);
    let per_mille = match is_slower(number) {
        false => random.within(200, 500),
        true => random.within(1_000, 1_500),
    };
    let before = Scenario {
        link: Link {
            within_pause: WithinPause {
                per_mille,
                pages: u64::MAX,
            },
            ..scenario.link.clone()
        },
        last_pages: LastPages::DEFAULT,
        ..seen_to_stop(scenario, seed, number)
    };
    let after = Scenario {
        last_pages: LastPages {
            pages: u64::MAX,
            ..seen_last_pages(&mut random, per_mille)
        },
        ..before.clone()
    };
    (before, after)
}

/// Steady and bursty guests take turns, so pairs of them do here.
const fn is_slower(number: u64) -> bool {
    number / 2 % 2 == 1
}

const fn per_mille(part: u64, whole: u64) -> u64 {
    let whole = if whole == 0 { 1 } else { whole };
    let share = part as u128 * 1_000 / whole as u128;
    if share > u64::MAX as u128 {
        u64::MAX
    } else {
        share as u64
    }
}
