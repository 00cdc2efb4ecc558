//! The expected result of a migration of a guest that keeps writing as sampled.
//!
//! The model uses the simulator's guest and link, and lull's own core decides. It predicts
//! what the core would decide for the real ones, as long as they stay as they were.

use std::time::Duration;

use lull_base::duration::Span;
use lull_base::risk::Risk;
use lull_core::downtime::LastPages;
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::{Micros, PAGE_SIZE};
use lull_engine::Verdict;
use lull_simulator::attempt::{self, End, Outcome};
use lull_simulator::guest::{Curve, Guest};
use lull_simulator::link::{Link, WithinPause};
use lull_simulator::scenario::{Actual, Mishap, Scenario};
use lull_store::ledger::Known;
use lull_wire::events::How;

use super::sample::Sampled;

/// The time to build a stub and list the guest's frames, in µs. It is a conservative guess;
/// only the timeout depends on it.
const PREPARE: u64 = 500_000;

/// The highest limit tried, in µs.
const HIGHEST: u64 = 3_600_000_000;

/// A guest, and the parts of its pause.
#[derive(Debug)]
pub struct Model {
    guest: Guest,
    known: Known,
    /// Reading the bitmap once, in µs.
    bitmap: u64,
    /// The limit on the time until the suspend.
    timeout: Option<Timeout>,
    risk: Risk,
}

/// The expected result of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Why the migration would be refused; `None` if the guest would move.
    pub refused: Option<Verdict>,
    /// The duration from start to end.
    pub took: Duration,
    /// The expected pause, if the guest would be asked to stop.
    pub pause: Option<Duration>,
    /// The upper bound of the pause on which the guest would be asked to stop.
    pub predicted: Option<Duration>,
    /// The number of rounds, without the final one.
    pub rounds: u32,
    /// The traffic over the link in bytes of pages.
    pub traffic: u64,
}

impl Model {
    /// The model of a guest that was sampled.
    pub fn new(sampled: &Sampled, known: Known, timeout: Option<Span>, risk: Risk) -> Self {
        let timeout = timeout.and_then(|timeout| Timeout::new(Micros(timeout.as_micros())));
        Self {
            guest: Guest {
                pages: sampled.pages,
                phases: Vec::new(),
                after_request: None,
                stop_pages: known.suspend_pages.expected,
                sampled: Some(Curve::envelope(&sampled.counts)),
            },
            known,
            bitmap: micros(sampled.cleans.longest),
            timeout,
            risk,
        }
    }

    /// The result over a link of `rate` pages a second, with a limit on the pause in µs.
    pub fn expect(&self, rate: u64, limit: Option<u64>) -> Expected {
        let rate = rate.max(1);
        let scenario = Scenario {
            guest: self.guest.clone(),
            link: Link {
                within_pause: within_pause(self.known.last_pages, rate),
                round_trip: micros(self.known.round_trip),
                ..Link::constant(rate)
            },
            limits: Limits {
                max_suspend: limit.and_then(|limit| DowntimeLimit::new(Micros(limit))),
                timeout: self.timeout,
            },
            risk: self.risk.0,
            assumed: self.known.bounds.into(),
            suspend_pages: self.known.suspend_pages,
            last_pages: self.known.last_pages,
            actual: self.actual(),
            mishap: Mishap::None,
        };
        Expected::of(&attempt::run(&scenario))
    }

    /// The smallest limit under which the guest would move, in µs, accurate to a hundredth;
    /// `None` if there is none up to an hour.
    pub fn smallest_limit(&self, rate: u64) -> Option<u64> {
        let moves = |limit| self.expect(rate, Some(limit)).refused.is_none();
        let floor = lull_core::downtime::FixedCosts::from(self.known.bounds).floor();
        let (mut low, mut high) = (0, floor.0.clamp(1_000, HIGHEST));
        while !moves(high) {
            if high == HIGHEST {
                return None;
            }
            (low, high) = (high, (high * 2).min(HIGHEST));
        }
        while high - low > (high / 100).max(1_000) {
            let middle = u64::midpoint(low, high);
            match moves(middle) {
                true => high = middle,
                false => low = middle,
            }
        }
        Some(high)
    }

    /// The rate at which the guest keeps dirtying pages, in pages a second.
    pub fn dirty_rate(&self) -> u64 {
        self.guest.sampled.as_ref().map_or(0, Curve::beyond)
    }

    /// How long the last pages of earlier pauses took.
    pub const fn last_pages(&self) -> LastPages {
        self.known.last_pages
    }

    /// The usual length of each part; its bound where it was never seen.
    fn actual(&self) -> Actual {
        let (bounds, typical) = (self.known.bounds, &self.known.typical);
        let usual = |seen: Option<u64>, bound: Duration| {
            let bound = micros(bound);
            seen.map_or(bound, |ms| ms.saturating_mul(1_000).min(bound))
        };
        let landing = usual(typical.landing_ms, bounds.landing);
        // The relay takes the guest back so long before the limit that a resume still fits.
        let after = self.known.after_ready.max(bounds.resume);
        let after_ready = micros(after).min(landing);
        Actual {
            prepare: PREPARE,
            suspend: usual(typical.suspend_ms, bounds.suspend),
            bitmap: self.bitmap.min(micros(bounds.final_bitmap)),
            cpu_state: usual(typical.cpu_state_ms, bounds.cpu_state),
            until_ready: landing - after_ready,
            after_ready,
            resume: micros(bounds.resume),
            // It takes place while rounds are sent.
            handover: None,
        }
    }
}

impl Expected {
    fn of(outcome: &Outcome) -> Self {
        let late = |why: &str| Verdict::plain(How::RefusedDowntime, why, "");
        let refused = match &outcome.end {
            End::Moved => None,
            End::Refused(refusal) => Some(Verdict::from(refusal)),
            End::Deadline => Some(late("the last pages would not be sent in time")),
            End::NotReady => Some(late("the destination would not be ready in time")),
            End::Endless => Some(Verdict::plain(
                How::RefusedTimeout,
                "it would take longer than a hundred days",
                "",
            )),
        };
        let span = |time: Micros| Duration::from_micros(time.0);
        let pause = outcome.pause.as_ref();
        Self {
            refused,
            took: span(outcome.took),
            pause: pause.map(|pause| span(pause.since_request)),
            predicted: pause.map(|pause| span(pause.predicted.total())),
            rounds: outcome.rounds,
            traffic: outcome.pages_sent.saturating_mul(PAGE_SIZE),
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What the link does in the pause, if the last pages take what they mostly took. The
/// simulator's link knows shares only, so a fixed time is one of theirs.
fn within_pause(known: LastPages, rate: u64) -> WithinPause {
    let by_rate = u128::from(known.pages) * 1_000_000 / u128::from(rate);
    let longer = (u128::from(known.longer.0) * 1_000)
        .checked_div(by_rate)
        .unwrap_or_default();
    let longer = u64::try_from(longer).unwrap_or(u64::MAX);
    WithinPause {
        per_mille: known.usual.saturating_add(longer).max(1),
        pages: known.pages,
    }
}

#[cfg(test)]
mod tests {
    use lull_core::downtime::SuspendPages;

    use super::*;
    use lull_store::ledger::Ledger;

    /// A guest of 1 GiB that sweeps over `pages` at `rate` pages a second.
    fn sampled(pages: u64, rate: u64) -> Sampled {
        let sweep = |tenth: u64| (tenth * 100_000, (rate * tenth / 10).min(pages));
        Sampled {
            pages: 262_144,
            counts: vec![(0..=20).map(sweep).collect()],
            ..Sampled::default()
        }
    }

    fn nothing_known() -> Known {
        let landing = lull_wire::events::Landing::Classic;
        Ledger::at("/nonexistent/ledger").known("host2", "web1", landing, |_| {})
    }

    fn model(pages: u64, rate: u64, timeout: Option<&str>) -> Model {
        Model::new(
            &sampled(pages, rate),
            nothing_known(),
            timeout.map(|text| text.parse().unwrap()),
            Risk::default(),
        )
    }

    const GBIT: u64 = 30_517;

    #[test]
    fn a_quiet_guest_moves_under_the_limit_that_is_named_and_not_under_less() {
        let model = model(100, 50, None);
        let smallest = model.smallest_limit(GBIT).unwrap();
        let moved = model.expect(GBIT, Some(smallest));
        assert_eq!(moved.refused, None);
        assert!(moved.pause.unwrap() <= Duration::from_micros(smallest));
        assert!(moved.traffic >= 1 << 30);
        let less = model.expect(GBIT, Some(smallest * 9 / 10));
        assert_eq!(less.refused.unwrap().how, How::RefusedDowntime);
    }

    #[test]
    fn a_guest_that_dirties_much_to_stop_pauses_longer_and_needs_a_larger_limit() {
        let usual = model(100, 50, None);
        let known = Known {
            suspend_pages: SuspendPages {
                expected: 30_000,
                most: 40_000,
            },
            ..nothing_known()
        };
        let much = Model::new(&sampled(100, 50), known, None, Risk::default());
        let pause = |model: &Model| model.expect(GBIT, None).pause.unwrap();
        assert!(pause(&much) > pause(&usual) + Duration::from_millis(800));
        let limit = |model: &Model| model.smallest_limit(GBIT).unwrap();
        assert!(limit(&much) > limit(&usual) + 1_000_000);
    }

    /// As many pages as were seen take a quarter of the time, and no more than them.
    #[test]
    fn a_path_that_is_faster_within_the_pause_makes_it_shorter() {
        let usual = model(100, 50, None);
        let with = |pages| {
            let known = Known {
                last_pages: LastPages {
                    usual: 250,
                    most: 300,
                    pages,
                    ..LastPages::DEFAULT
                },
                ..nothing_known()
            };
            Model::new(&sampled(100, 50), known, None, Risk::default())
        };
        // Slow, so that the last pages are most of the pause.
        let pause = |model: &Model| model.expect(100, None).pause.unwrap();
        let limit = |model: &Model| model.smallest_limit(100).unwrap();
        let (some, all) = (with(100), with(1_000));
        assert!(pause(&all) < pause(&some) && pause(&some) < pause(&usual));
        assert!(limit(&all) < limit(&some) && limit(&some) < limit(&usual));
        for model in [some, all] {
            let expected = model.expect(100, Some(limit(&model)));
            assert_eq!(expected.refused, None);
            assert!(expected.pause <= expected.predicted);
        }
    }

    /// 100 pages at 1,000 a second take 100 ms.
    #[test]
    fn a_fixed_time_within_the_pause_is_a_share_of_the_last_pages_time() {
        let known = LastPages {
            longer: Micros(20_000),
            pages: 100,
            ..LastPages::DEFAULT
        };
        let per_mille = |known, rate| within_pause(known, rate).per_mille;
        assert_eq!(per_mille(known, 1_000), 1_200);
        assert_eq!(per_mille(known, 2_000), 1_400);
        assert_eq!(per_mille(LastPages::DEFAULT, 1_000), 1_000);
    }

    #[test]
    fn one_that_outpaces_the_link_is_refused_and_more_bandwidth_helps() {
        let model = model(200_000, 60_000, None);
        let refused = model.expect(GBIT, Some(5_000_000)).refused.unwrap();
        assert_eq!(refused.how, How::RefusedTimeout);
        let slow = model.smallest_limit(GBIT).unwrap();
        let fast = model.smallest_limit(GBIT * 10).unwrap();
        assert!(fast < slow, "{fast} {slow}");
    }

    #[test]
    fn without_a_limit_anything_moves_unless_time_runs_out() {
        assert_eq!(
            model(200_000, 60_000, None).expect(GBIT, None).refused,
            None
        );
        let short = model(100, 50, Some("1s"));
        let refused = short.expect(GBIT, None).refused.unwrap();
        assert_eq!(refused.how, How::RefusedTimeout);
        assert_eq!(short.smallest_limit(GBIT), None);
    }
}
