//! The fixed parts of a pause, as upper bounds.

use std::time::Duration;

use lull_core::downtime::{FixedCosts, LastPages, SuspendPages};
use lull_core::units::Micros;
use lull_wire::events::Landing;
use lull_xen::DomId;
use lull_xen::device_model::Model;
use lull_xen::xenstore::Xenstore;

use super::entry::Took;

/// Whether a guest has emulated devices. QEMU then is a part of its pause: it stops, writes
/// back its disks and saves its state here, and another QEMU starts there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Machine {
    /// The guest has none.
    #[default]
    Plain,
    /// The guest is HVM.
    Emulated,
}

impl Machine {
    /// Whether the domain has emulated devices. Without an answer of xenstore's it counts as
    /// one that has none, as most guests that lull has moved.
    pub fn of(domain: DomId) -> Self {
        let model = Xenstore::open().and_then(|mut store| Model::of(&mut store, domain));
        model.map_or_else(|_| Self::default(), Self::from)
    }
}

impl From<Model> for Machine {
    fn from(model: Model) -> Self {
        match model {
            Model::None => Self::Plain,
            Model::Qemu | Model::Traditional | Model::StubDomain => Self::Emulated,
        }
    }
}

/// Upper bounds of the fixed parts of a pause, for the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// From the request to suspend until the guest has stopped.
    pub suspend: Duration,
    /// Reading the final dirty bitmap.
    pub final_bitmap: Duration,
    /// Reading and writing the CPU state and parameters, and ending the stream.
    pub cpu_state: Duration,
    /// From the end of the stream until the guest runs at the destination.
    pub landing: Duration,
    /// Resuming the guest at the source when the attempt is given up.
    pub resume: Duration,
}

impl Costs {
    /// The greater of both values for each part.
    pub fn or_worse(self, other: Self) -> Self {
        Self {
            suspend: self.suspend.max(other.suspend),
            final_bitmap: self.final_bitmap.max(other.final_bitmap),
            cpu_state: self.cpu_state.max(other.cpu_state),
            landing: self.landing.max(other.landing),
            resume: self.resume.max(other.resume),
        }
    }

    /// The bounds assumed where nothing was measured yet. They come from the rig's
    /// measurements of stock `xl migrate` under emulation, where everything is slow: the
    /// suspend took 130 ms, and the last pages and the CPU state together took about as
    /// long. The landing took 2.7 s: 2.5 s for the hotplug script of one network interface,
    /// and ssh round trips for the rest. Reading a bitmap and resuming are a few
    /// hypercalls.
    pub const ASSUMED: Self = Self {
        suspend: Duration::from_millis(200),
        final_bitmap: Duration::from_millis(10),
        cpu_state: Duration::from_millis(50),
        landing: Duration::from_secs(3),
        resume: Duration::from_millis(50),
    };

    /// The bounds assumed of a guest with emulated devices. QEMU stops and saves its state in
    /// some 10 ms on real hardware, and starts in less than a second, but its disks must be
    /// written back, and each of its interfaces has a script more.
    const EMULATED: Self = Self {
        suspend: Duration::from_millis(500),
        landing: Duration::from_secs(5),
        resume: Duration::from_millis(300),
        ..Self::ASSUMED
    };

    /// The assumed bounds for the given kinds of guest and landing. For a fast landing they
    /// cover what follows the last byte: applying the final state, and the start of the copy
    /// or READY, GO and a report. The first trial of the latter took 0.3 s in the rig. QEMU
    /// loads its state besides, which takes milliseconds on real hardware, and opens its disks.
    pub fn assumed(landing: Landing, machine: Machine) -> Self {
        let assumed = match machine {
            Machine::Plain => Self::ASSUMED,
            Machine::Emulated => Self::EMULATED,
        };
        match landing {
            Landing::Classic => assumed,
            Landing::Fast | Landing::FastHandshakeLast => Self {
                landing: match machine {
                    Machine::Plain => Duration::from_secs(1),
                    Machine::Emulated => Duration::from_millis(1_500),
                },
                ..assumed
            },
        }
    }

    /// The parts in the order of the fields.
    pub const fn parts(self) -> [Duration; 5] {
        [
            self.suspend,
            self.final_bitmap,
            self.cpu_state,
            self.landing,
            self.resume,
        ]
    }
}

/// Converts the bounds for the state machine.
/// The duration in whole microseconds, as many as fit.
pub fn saturating_micros(time: Duration) -> Micros {
    Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

impl From<Costs> for FixedCosts {
    fn from(costs: Costs) -> Self {
        let micros = saturating_micros;
        Self {
            suspend: micros(costs.suspend),
            final_bitmap: micros(costs.final_bitmap),
            cpu_state: micros(costs.cpu_state),
            landing: micros(costs.landing),
            resume: micros(costs.resume),
        }
    }
}

/// The time after READY that is assumed where nothing is known: xl renames the guest and
/// says GO, and the destination renames and unpauses its own. This took 140 ms in the rig,
/// under emulation, over ssh.
pub const AFTER_READY: Duration = Duration::from_millis(200);

/// The number of figures from which their spread can be judged.
const ENOUGH: usize = 4;

/// The upper bound for figures in milliseconds, which may have been rounded down: more than
/// the worst of them, as [`more_than_the_worst`] says. `None` without figures.
pub fn bound(seen: &[u64]) -> Option<Duration> {
    let mut ordered: Vec<u64> = seen.iter().map(|ms| ms.saturating_add(1)).collect();
    ordered.sort_unstable();
    let micros = more_than_the_worst(&ordered)?;
    let whole = Duration::from_millis(u64::try_from(micros / 1_000).unwrap_or(u64::MAX));
    Some(whole + Duration::from_micros((micros % 1_000) as u64))
}

/// The pages of a guest's next stop, from those of its earlier stops in ascending order.
///
/// With few stops the upper bound is at least the one assumed of every guest: a stop that
/// was seen is no reason to expect more than before.
pub fn suspend_pages(ordered: &[u64]) -> SuspendPages {
    let Some((median, thousandths)) = median(ordered).zip(more_than_the_worst(ordered)) else {
        return SuspendPages::DEFAULT;
    };
    let worst = ordered.last().copied().unwrap_or_default();
    let most = match ordered.len() >= ENOUGH {
        true => u64::try_from(thousandths.div_ceil(1_000)).unwrap_or(u64::MAX),
        false => worst
            .saturating_add(worst / 8)
            .max(SuspendPages::DEFAULT.most),
    };
    // No guest stops without writing anything down.
    SuspendPages {
        expected: median.max(1),
        most: most.max(1),
    }
}

/// The number of pauses that tell how long the last pages take. A path changes sooner than
/// a guest or a host does.
const LATEST: usize = 8;

fn latest(seen: &[Took]) -> &[Took] {
    seen.get(seen.len().saturating_sub(LATEST)..)
        .unwrap_or_default()
}

/// The round trip before the next pause's last pages, from those of earlier pauses, the oldest
/// first.
pub fn round_trip(seen: &[Took]) -> Duration {
    let trips = latest(seen).iter().filter_map(|took| took.round_trip_ms);
    let mut trips: Vec<u64> = trips.collect();
    trips.sort_unstable();
    median(&trips).map_or(Duration::ZERO, Duration::from_millis)
}

/// The time of the next pause's last pages, from those of earlier pauses, the oldest first.
pub fn last_pages(seen: &[Took]) -> LastPages {
    let latest = latest(seen);
    let ordered = |figure: fn(&Took) -> u64| {
        let mut figures: Vec<u64> = latest.iter().map(figure).collect();
        figures.sort_unstable();
        figures
    };
    // Pages that take longer than by the curve do so by a fixed time, not by a share.
    let share = ordered(Took::share);
    let longer = ordered(|took| took.longer_ms.unwrap_or(0));
    let took = ordered(|took| took.per_mille);
    let pages = ordered(|took| took.pages);
    let Some((((usual, longer), thousandths), pages)) = median(&share)
        .zip(median(&longer))
        .zip(more_than_the_worst(&took))
        .zip(median(&pages))
    else {
        return LastPages::DEFAULT;
    };
    LastPages {
        usual,
        longer: Micros(longer.saturating_mul(1_000)),
        most: u64::try_from(thousandths.div_ceil(1_000)).unwrap_or(u64::MAX),
        pages,
    }
}

/// More than the worst of figures in ascending order, in thousandths of their unit.
///
/// With few figures the margin is half of the worst. With enough of them it is the distance
/// from the median to the worst, because widely spread figures are likely to spread wider
/// still. It is at least an eighth of the worst, and never more than the worst itself.
fn more_than_the_worst(ordered: &[u64]) -> Option<u128> {
    let thousandths = |figure: u64| u128::from(figure) * 1_000;
    let worst = thousandths(*ordered.last()?);
    let more = match median(ordered).filter(|_| ordered.len() >= ENOUGH) {
        None => worst / 2,
        Some(median) => (worst - thousandths(median)).max(worst / 8),
    };
    Some(worst + more)
}

/// The median of sorted values; the greater of the middle two for an even number.
pub fn median(ordered: &[u64]) -> Option<u64> {
    ordered.get(ordered.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_worst_of_a_few_is_trusted_less() {
        let ms = Duration::from_millis;
        assert_eq!(bound(&[]), None);
        assert_eq!(bound(&[799]), Some(ms(1_200)));
        assert_eq!(bound(&[399, 799, 199]), Some(ms(1_200)));
        assert_eq!(bound(&[799, 791, 797, 790]), Some(ms(900)));
    }

    #[test]
    fn figures_that_are_spread_wide_may_come_wider_still() {
        let ms = Duration::from_millis;
        assert_eq!(bound(&[199, 799, 199, 299]), Some(ms(1_300)));
        // A landing on a slow host: usually 2.9 s, once 5.8 s. The next took 8.5 s.
        assert_eq!(bound(&[2_899, 5_799, 2_899, 2_999]), Some(ms(8_600)));
    }

    #[test]
    fn a_guest_stops_as_it_mostly_did_and_at_most_somewhat_worse() {
        let pages = |ordered: &[u64]| {
            let SuspendPages { expected, most } = suspend_pages(ordered);
            (expected, most)
        };
        assert_eq!(suspend_pages(&[]), SuspendPages::DEFAULT);
        assert_eq!(pages(&[301]), (301, 450));
        assert_eq!(pages(&[300, 320, 480]), (320, 540));
        assert_eq!(pages(&[300, 310, 320, 330]), (320, 372));
        assert_eq!(pages(&[300, 310, 320, 520]), (320, 720));
        assert_eq!(pages(&[0]), (1, 450));
        assert_eq!(pages(&[0, 0, 0, 0]), (1, 1));
    }

    #[test]
    fn last_pages_take_what_they_mostly_took_of_late() {
        let took = |per_mille: u64| Took {
            pages: per_mille * 2,
            per_mille,
            longer_ms: Some(per_mille.saturating_sub(1_000) / 25),
            round_trip_ms: Some(0),
        };
        let known = |seen: &[u64]| {
            let seen: Vec<Took> = seen.iter().copied().map(took).collect();
            let LastPages {
                usual, most, pages, ..
            } = last_pages(&seen);
            (usual, most, pages)
        };
        assert_eq!(last_pages(&[]), LastPages::DEFAULT);
        // Of a few, somewhat more than the worst; of enough, as far as they spread.
        assert_eq!(known(&[400]), (400, 600, 800));
        assert_eq!(known(&[300, 500, 400]), (400, 750, 800));
        assert_eq!(known(&[410, 400, 390, 400]), (400, 462, 800));
        assert_eq!(known(&[200, 300, 250, 700]), (300, 1_100, 600));
        // Only the latest eight pauses count.
        let mut many = vec![5_000; 4];
        many.extend([400; 8]);
        assert_eq!(known(&many), (400, 450, 800));
        // What took longer than the curve says is expected to by the same time again.
        let known = last_pages(&[took(2_000), took(900), took(3_000)]);
        assert_eq!((known.usual, known.longer), (1_000, Micros(40_000)));
        let known = last_pages(&[took(900), took(800), took(3_000)]);
        assert_eq!((known.usual, known.longer), (900, Micros::ZERO));
        // Entries of an older lull do not say by how much.
        let older = |per_mille| Took {
            longer_ms: None,
            round_trip_ms: None,
            ..took(per_mille)
        };
        let known = last_pages(&[older(2_000), older(900), older(3_000)]);
        assert_eq!((known.usual, known.longer), (2_000, Micros::ZERO));
    }

    proptest! {
        #[test]
        fn no_stop_seen_is_beyond_what_is_known(
            mut seen in proptest::collection::vec(any::<u64>(), 1..20),
        ) {
            seen.sort_unstable();
            let SuspendPages { expected, most } = suspend_pages(&seen);
            prop_assert!(most >= seen[seen.len() - 1]);
            prop_assert!((1..=most).contains(&expected));
            prop_assert!(expected == 1 || seen.contains(&expected));
        }

        #[test]
        fn a_bound_is_never_below_what_was_seen(seen in proptest::collection::vec(any::<u64>(), 0..20)) {
            let Some(bound) = bound(&seen) else {
                prop_assert!(seen.is_empty());
                return Ok(());
            };
            for ms in seen {
                let seen = Duration::from_millis(ms);
                prop_assert!(bound >= seen);
            }
        }
    }
}
