//! The sums of many attempts.

use lull_core::refusal::Reason;
use lull_core::units::Micros;

use crate::attempt::{self, End, Outcome};
use crate::draw::Drawn;
use crate::oracle::{self, Foresight};
use crate::scenario::{Mishap, Scenario};

/// Counts and extremes of any number of attempts. They do not depend on the order of the
/// attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of attempts.
    pub attempts: u64,
    /// Guests that run at the destination.
    pub moved: u64,
    /// Gate 0: the fixed costs alone exceeded the limit.
    pub fixed_costs: u64,
    /// Gate 1: no round could have helped.
    pub hopeless: u64,
    /// The timeout ended the attempt.
    pub timeout: u64,
    /// Gate 2: more dirty pages than predicted.
    pub after_suspend: u64,
    /// Gate 3, by the machine or by dom0's clock.
    pub behind_schedule: u64,
    /// Gate 4: the destination was not ready in time.
    pub not_ready: u64,
    /// The operator cancelled the attempt.
    pub cancelled: u64,
    /// The guest did not stop.
    pub never_stopped: u64,
    /// The simulator ended the attempt.
    pub endless: u64,

    /// Refused attempts that the oracle would have won.
    pub unnecessary: u64,
    /// The number of those that the oracle would have won even with every fixed cost at its
    /// assumed bound. No rule that keeps to bounds can win the rest.
    pub avoidable: u64,
    /// Attempts in which a guest was stopped for longer than the limit. Must be zero.
    pub over_limit: u64,
    /// The numbers of the first few of those attempts.
    pub over_limit_numbers: Vec<u64>,
    /// Guests that took longer to stop than assumed; for them the limit counts from the
    /// stop.
    pub late_stops: u64,
    /// Guests that were stopped and then resumed at the source.
    pub resumed: u64,
    /// Pauses that were given up before the attempt ended.
    pub given_up: u64,
    /// Moved guests whose pause was longer than predicted although no cost exceeded its
    /// bound.
    pub beyond_prediction: u64,

    /// All pauses, whatever the result of the attempt, in thousandths of their limit.
    pub pause_share: Histogram,
    /// The pauses of moved guests.
    pub pauses: Histogram,
    /// For moved guests: the error of the prediction, in thousandths of the pause.
    pub prediction_error: Histogram,
    /// The number of rounds in an attempt.
    pub rounds: Histogram,
}

/// The most numbers of failed attempts that are kept.
const KEPT: usize = 10;

impl Tally {
    /// Runs the attempt, asks the oracle if it was refused, and counts it.
    pub fn run(&mut self, number: u64, drawn: &Drawn) {
        let scenario = &drawn.scenario;
        let outcome = attempt::run(scenario);
        self.count(number, scenario, &outcome);
        if may_be_unnecessary(scenario, &outcome) && would_have_moved(scenario) {
            self.unnecessary += 1;
            if would_have_moved(&scenario.at_the_bounds()) {
                self.avoidable += 1;
            }
        }
    }

    fn count(&mut self, number: u64, scenario: &Scenario, outcome: &Outcome) {
        self.attempts += 1;
        *self.place(&outcome.end) += 1;
        self.rounds.add(u64::from(outcome.rounds));
        self.given_up += u64::from(outcome.given_up.1);
        // For a guest that stopped late the limit counts from its stop.
        if scenario.stops_in_time() && outcome.given_up.0.0 > scenario.limit() {
            self.over_limit += 1;
            self.over_limit_numbers.push(number);
        }
        let Some(pause) = outcome.pause else {
            return;
        };
        let in_time = scenario.stops_in_time();
        let counted = if in_time {
            pause.since_request
        } else {
            self.late_stops += 1;
            pause.since_stop
        };
        let limit = scenario.limit();
        if counted.0 > limit {
            self.over_limit += 1;
            if self.over_limit_numbers.len() < KEPT {
                self.over_limit_numbers.push(number);
            }
        }
        self.pause_share.add(of_a_thousand(counted.0, limit));
        if outcome.end != End::Moved {
            self.resumed += 1;
            return;
        }
        self.pauses.add(pause.since_request.0);
        let predicted = pause.predicted.total();
        let off = predicted.0.abs_diff(pause.since_request.0);
        self.prediction_error
            .add(of_a_thousand(off, pause.since_request.0));
        if predicted < pause.since_request && costs_hold(scenario) {
            self.beyond_prediction += 1;
        }
    }

    fn place(&mut self, end: &End) -> &mut u64 {
        match end {
            End::Moved => &mut self.moved,
            End::Deadline => &mut self.behind_schedule,
            End::NotReady => &mut self.not_ready,
            End::Endless => &mut self.endless,
            End::Refused(refusal) => match refusal.reason {
                Reason::FixedCosts { .. } => &mut self.fixed_costs,
                Reason::NotConverging(_) => &mut self.hopeless,
                Reason::DowntimeAfterSuspend => &mut self.after_suspend,
                Reason::BehindSchedule => &mut self.behind_schedule,
                Reason::Timeout => &mut self.timeout,
                Reason::Cancelled => &mut self.cancelled,
                Reason::SuspendFailed => &mut self.never_stopped,
            },
        }
    }

    /// Adds the counts of another tally.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            attempts,
            moved,
            fixed_costs,
            hopeless,
            timeout,
            after_suspend,
            behind_schedule,
            not_ready,
            cancelled,
            never_stopped,
            endless,
            unnecessary,
            avoidable,
            over_limit,
            over_limit_numbers,
            late_stops,
            resumed,
            given_up,
            beyond_prediction,
            pause_share,
            pauses,
            prediction_error,
            rounds,
        } = other;
        for (mine, theirs) in [
            (&mut self.attempts, attempts),
            (&mut self.moved, moved),
            (&mut self.fixed_costs, fixed_costs),
            (&mut self.hopeless, hopeless),
            (&mut self.timeout, timeout),
            (&mut self.after_suspend, after_suspend),
            (&mut self.behind_schedule, behind_schedule),
            (&mut self.not_ready, not_ready),
            (&mut self.cancelled, cancelled),
            (&mut self.never_stopped, never_stopped),
            (&mut self.endless, endless),
            (&mut self.unnecessary, unnecessary),
            (&mut self.avoidable, avoidable),
            (&mut self.over_limit, over_limit),
            (&mut self.late_stops, late_stops),
            (&mut self.resumed, resumed),
            (&mut self.given_up, given_up),
            (&mut self.beyond_prediction, beyond_prediction),
        ] {
            *mine += theirs;
        }
        self.over_limit_numbers.extend(over_limit_numbers);
        self.over_limit_numbers.sort_unstable();
        self.over_limit_numbers.truncate(KEPT);
        self.pause_share.merge(pause_share);
        self.pauses.merge(pauses);
        self.prediction_error.merge(prediction_error);
        self.rounds.merge(rounds);
    }

    /// Attempts that did not move their guest.
    pub const fn refused(&self) -> u64 {
        self.attempts - self.moved
    }

    /// Attempts that a decision that knows the future would have won.
    pub const fn winnable(&self) -> u64 {
        self.moved + self.unnecessary
    }
}

/// Whether the rule refused the attempt, and not an operator or a fault.
fn may_be_unnecessary(scenario: &Scenario, outcome: &Outcome) -> bool {
    let asked_for = match outcome.end {
        End::Moved => true,
        End::Refused(refusal) => {
            matches!(refusal.reason, Reason::Cancelled | Reason::SuspendFailed)
        }
        _ => matches!(scenario.mishap, Mishap::StubHangs(_)),
    };
    !asked_for
}

fn would_have_moved(scenario: &Scenario) -> bool {
    matches!(oracle::foresee(scenario), Foresight::WouldHaveMoved { .. })
}

/// Whether every cost is within its bound.
fn costs_hold(scenario: &Scenario) -> bool {
    let (actual, assumed) = (&scenario.actual, &scenario.assumed);
    [
        (actual.suspend, assumed.suspend),
        (actual.bitmap, assumed.final_bitmap),
        (actual.cpu_state, assumed.cpu_state),
        (actual.until_ready + actual.after_ready, assumed.landing),
        (actual.resume, assumed.resume),
    ]
    .iter()
    .all(|(actual, assumed)| Micros(*actual) <= *assumed)
}

const fn of_a_thousand(part: u64, whole: u64) -> u64 {
    (part as u128 * 1_000 / if whole == 0 { 1 } else { whole as u128 }) as u64
}

/// The frequency of values, with a resolution of one in 32.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    most: u64,
}

impl Histogram {
    /// The base-2 logarithm of the number of steps in an octave.
    const STEPS: u32 = 5;

    /// Adds one value to its bucket.
    pub fn add(&mut self, value: u64) {
        let place = Self::place(value);
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.total += 1;
        self.most = self.most.max(value);
    }

    /// Adds the values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.most = self.most.max(other.most);
    }

    /// The value that `percent` % of all values do not exceed, rounded up to the end of its
    /// step; `None` without values.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(place, count)| {
            seen += count;
            (seen >= rank).then(|| Self::end_of(place).min(self.most))
        })
    }

    /// The exact largest value; `None` without values.
    pub const fn most(&self) -> Option<u64> {
        match self.total {
            0 => None,
            _ => Some(self.most),
        }
    }

    /// Below 32 each value has its own step; above, each octave has 32.
    const fn place(value: u64) -> usize {
        if value < 1 << Self::STEPS {
            return value as usize;
        }
        let shift = value.ilog2() - Self::STEPS;
        ((shift as usize) << Self::STEPS) + (value >> shift) as usize
    }

    const fn end_of(place: usize) -> u64 {
        if place < 1 << (Self::STEPS + 1) {
            return place as u64;
        }
        let shift = (place >> Self::STEPS) - 1;
        let base = (place - (shift << Self::STEPS)) as u64;
        (((base as u128 + 1) << shift) - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_within_a_step_above_the_truth() {
        let mut histogram = Histogram::default();
        for value in 0..=10_000 {
            histogram.add(value);
        }
        for percent in [1, 10, 50, 90, 99] {
            let truth = percent * 100;
            let reported = histogram.percentile(percent).unwrap();
            assert!(
                (truth..=truth + truth / 32 + 1).contains(&reported),
                "{percent}: {reported}"
            );
        }
        assert_eq!(histogram.percentile(100), Some(10_000));
        assert_eq!(histogram.most(), Some(10_000));
        assert_eq!(Histogram::default().percentile(50), None);
    }

    #[test]
    fn steps_have_no_gaps() {
        for value in (0..2_000).chain([u64::MAX / 3, u64::MAX]) {
            let place = Histogram::place(value);
            assert!(Histogram::end_of(place) >= value);
            assert!(place == 0 || Histogram::end_of(place - 1) < value);
        }
    }
}
