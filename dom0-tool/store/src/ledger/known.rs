//! What the entries predict for a guest's next pause.

use std::time::Duration;

use lull_core::downtime::{LastPages, SuspendPages};
use lull_wire::events::{Landing, PauseParts};
use lull_wire::spec::PauseCosts;
use lull_xen::DomId;

use super::book::Book;
use super::costs::{
    AFTER_READY, Costs, Machine, bound, last_pages, median, round_trip, suspend_pages,
};
use super::entry::{Entry, Took};

/// What is known about a guest's pause on the way to a destination.
///
/// The parts at the source are learned from the guest itself, at all destinations: its
/// devices and its kernel determine the suspend, its size the bitmap, and its vCPUs the CPU
/// state. A guest's figures never influence those of another guest. A guest that was never
/// paused uses the probe guests' figures. The landing is learned from the guest's own
/// landings at this destination, or else from all guests' landings there, and only from
/// landings of the same kind. Guests with and without emulated devices never speak for each
/// other, and probe guests have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Whether the guest has emulated devices.
    pub machine: Machine,
    /// The number of landings at the destination behind the bounds. Zero: no guest was ever
    /// moved there.
    pub landings: usize,
    /// Upper bounds: somewhat more than the worst seen, or the assumed values.
    pub bounds: Costs,
    /// Upper bound of the last part of the landing, from READY on.
    pub after_ready: Duration,
    /// The pages that the guest's kernel dirties in order to stop, from its own pauses to
    /// any destination. Probe guests have another kernel and do not count.
    pub suspend_pages: SuspendPages,
    /// How long the last pages take, beside what the path's curve says of them: from the
    /// guest's own pauses on the way to this destination, or else from all guests' there,
    /// and only from landings of the same kind.
    pub last_pages: LastPages,
    /// The median of the round trips before them. Zero where none was measured.
    pub round_trip: Duration,
    /// The median of each part for which there are figures.
    pub typical: PauseParts,
}

impl Known {
    /// The usual length of each part; its bound where it was never seen.
    pub fn expected(&self) -> Costs {
        let usual = |seen: Option<u64>, bound: Duration| {
            seen.map_or(bound, |ms| Duration::from_millis(ms).min(bound))
        };
        Costs {
            suspend: usual(self.typical.suspend_ms, self.bounds.suspend),
            final_bitmap: usual(self.typical.final_bitmap_ms, self.bounds.final_bitmap),
            cpu_state: usual(self.typical.cpu_state_ms, self.bounds.cpu_state),
            landing: usual(self.typical.landing_ms, self.bounds.landing),
            resume: self.bounds.resume,
        }
    }

    /// Whether anything is known of the destination.
    pub const fn has_history(&self) -> bool {
        self.landings > 0
    }
}

/// The guest of which something is to be known.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'g> {
    /// The guest's name, by which its entries are found.
    pub name: &'g str,
    /// Whether it has emulated devices.
    pub machine: Machine,
}

impl<'g> Subject<'g> {
    /// The guest of this name and domain.
    pub fn of(name: &'g str, domain: DomId) -> Self {
        Self {
            name,
            machine: Machine::of(domain),
        }
    }
}

/// A guest without emulated devices.
impl<'g> From<&'g str> for Subject<'g> {
    fn from(name: &'g str) -> Self {
        Self {
            name,
            machine: Machine::Plain,
        }
    }
}

/// Selects one part of a pause.
type Part = fn(&Entry) -> Option<u64>;

impl From<&Known> for PauseCosts {
    fn from(known: &Known) -> Self {
        Self {
            at_most: known.bounds.into(),
            expected: known.expected().into(),
            suspend_pages: known.suspend_pages,
            last_pages: known.last_pages,
        }
    }
}

impl Book {
    /// Looks up `guest`'s pause on the way to `destination`.
    pub(super) fn known<'g>(
        &self,
        destination: &str,
        guest: impl Into<Subject<'g>>,
        order: Landing,
        now: u64,
    ) -> Known {
        let Subject {
            name: guest,
            machine,
        } = guest.into();
        let emulated = machine == Machine::Emulated;
        let there = || {
            let entries = self.destinations.get(destination);
            let entries = entries.into_iter().flatten();
            entries.filter(|entry| entry.counts(now))
        };
        let everywhere = || {
            let entries = self.destinations.values().flatten();
            entries.filter(|entry| entry.counts(now))
        };
        let own_anywhere = |part: Part| seen(everywhere().filter(|entry| entry.is_of(guest)), part);
        let at_source = |part: Part| {
            let own = own_anywhere(part);
            match own.is_empty() {
                true => seen(
                    there().filter(|entry| entry.is_rehearsal() && !emulated),
                    part,
                ),
                false => own,
            }
        };
        let at_destination = |part: Part| {
            let likewise =
                || there().filter(|entry| entry.landing == order && entry.emulated == emulated);
            let own = seen(likewise().filter(|entry| entry.is_of(guest)), part);
            match own.is_empty() {
                true => seen(likewise(), part),
                false => own,
            }
        };
        let took = |of_guest: Option<&str>| -> Vec<Took> {
            let likewise = there().filter(|entry| entry.landing == order);
            let entries = likewise.filter(|entry| of_guest.is_none_or(|guest| entry.is_of(guest)));
            let took = entries.filter_map(|entry| entry.last_pages);
            // A fast landing's figures of an older lull include the round trip.
            took.filter(|took| order == Landing::Classic || took.round_trip_ms.is_some())
                .collect()
        };
        let own = took(Some(guest));
        let took = match own.is_empty() {
            true => took(None),
            false => own,
        };
        let suspend = without_accident(at_source(|entry| entry.suspend_ms));
        let final_bitmap = at_source(|entry| entry.final_bitmap_ms);
        let cpu_state = at_source(|entry| entry.cpu_state_ms);
        let resume = at_source(|entry| entry.resume_ms);
        let landing = at_destination(|entry| entry.landing_ms);
        let after_ready = at_destination(|entry| entry.after_ready_ms);
        let assumed = Costs::assumed(order, machine);
        Known {
            machine,
            landings: landing.len(),
            bounds: Costs {
                suspend: bound(&suspend).unwrap_or(assumed.suspend),
                final_bitmap: bound(&final_bitmap).unwrap_or(assumed.final_bitmap),
                cpu_state: bound(&cpu_state).unwrap_or(assumed.cpu_state),
                landing: bound(&landing).unwrap_or(assumed.landing),
                resume: bound(&resume).unwrap_or(assumed.resume),
            },
            after_ready: bound(&after_ready).unwrap_or(AFTER_READY),
            suspend_pages: suspend_pages(&own_anywhere(|entry| entry.suspend_pages)),
            last_pages: last_pages(&took),
            round_trip: round_trip(&took),
            typical: PauseParts {
                suspend_ms: median(&suspend),
                final_bitmap_ms: median(&final_bitmap),
                pages_ms: None,
                cpu_state_ms: median(&cpu_state),
                landing_ms: median(&landing),
            },
        }
    }
}

impl Book {
    /// Bounds for `guest`'s pause when the destination is not known: the worst of all known
    /// destinations, or the assumptions for an unknown one. Nothing is known of the path.
    pub(super) fn known_wherever<'g>(&self, guest: impl Into<Subject<'g>>, now: u64) -> Known {
        let guest = guest.into();
        let everywhere = self.destinations.keys();
        let known =
            everywhere.map(|destination| self.known(destination, guest, Landing::Classic, now));
        let worst = known.filter(Known::has_history).reduce(|one, other| Known {
            landings: one.landings + other.landings,
            bounds: one.bounds.or_worse(other.bounds),
            after_ready: one.after_ready.max(other.after_ready),
            ..one
        });
        Known {
            last_pages: LastPages::DEFAULT,
            round_trip: Duration::ZERO,
            ..worst.unwrap_or_else(|| self.known("", guest, Landing::Classic, now))
        }
    }
}

/// Milliseconds. A suspend longer than this was blocked by something: a disk that does not
/// answer, a process that does not freeze.
const ACCIDENT: u64 = 5_000;

/// Drops a single suspend that took far longer than all others. One such suspend is bad
/// luck and would keep the guest from being moved for as long as it is remembered. A second
/// one counts.
fn without_accident(mut ordered: Vec<u64>) -> Vec<u64> {
    if let [others @ .., worst] = &ordered[..] {
        let next = others.last().copied().unwrap_or(0);
        if *worst > ACCIDENT && *worst / 4 > next {
            ordered.pop();
        }
    }
    ordered
}

/// The figures of one part, in ascending order.
fn seen<'e>(entries: impl Iterator<Item = &'e Entry>, part: Part) -> Vec<u64> {
    let mut seen: Vec<u64> = entries.filter_map(part).collect();
    seen.sort_unstable();
    seen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::entry::{LASTS, LATE_LASTS};

    const NOW: u64 = 2_000_000_000;

    fn book(entries: &[(&str, Entry)]) -> Book {
        let mut book = Book::default();
        for (destination, entry) in entries {
            book.add(destination, entry.clone(), NOW);
        }
        book
    }

    fn of(guest: &str, entry: Entry) -> Entry {
        Entry {
            guest: Some(guest.to_owned()),
            ..entry
        }
    }

    fn landed(ms: u64) -> Entry {
        Entry {
            landing_ms: Some(ms),
            ..Entry::default()
        }
    }

    fn suspended(ms: u64) -> Entry {
        Entry {
            suspend_ms: Some(ms),
            ..Entry::default()
        }
    }

    #[test]
    fn one_slow_suspend_is_bad_luck_and_two_are_not() {
        let known = |suspends: &[u64]| {
            let of_web1 = |ms: &u64| ("host2", of("web1", suspended(*ms)));
            let entries: Vec<_> = suspends.iter().map(of_web1).collect();
            book(&entries)
                .known("host2", "web1", Landing::Classic, NOW)
                .bounds
                .suspend
        };
        assert_eq!(known(&[15_000]), Costs::ASSUMED.suspend);
        assert_eq!(known(&[100, 15_000, 110]), known(&[100, 110]));
        assert!(known(&[100, 15_000, 14_000]) > Duration::from_secs(15));
        // A spread like this is normal and counts.
        assert!(known(&[1_900, 2_000, 6_000]) > Duration::from_secs(6));
    }

    #[test]
    fn of_a_guest_that_goes_somewhere_the_worst_is_known() {
        let book = book(&[
            ("near", of("web1", landed(500))),
            ("near", of("web1", suspended(70))),
            ("far", landed(9_000)),
            ("far", of("db", suspended(40_000))),
        ]);
        let known = book.known_wherever("web1", NOW);
        assert_eq!(
            known.bounds.landing,
            book.known("far", "web1", Landing::Classic, NOW)
                .bounds
                .landing
        );
        assert_eq!(
            known.bounds.suspend,
            book.known("near", "web1", Landing::Classic, NOW)
                .bounds
                .suspend
        );
        assert_eq!(known.landings, 2);
        assert_eq!(
            Book::default().known_wherever("web1", NOW).bounds,
            Costs::ASSUMED
        );
    }

    #[test]
    fn guests_with_and_without_emulated_devices_do_not_speak_for_each_other() {
        let hvm = Subject {
            name: "win1",
            machine: Machine::Emulated,
        };
        let of_hvm = |guest: &str, ms: u64| Entry {
            emulated: true,
            ..of(guest, landed(ms))
        };
        let assumed = Costs::assumed(Landing::Classic, Machine::Emulated);
        let plain = book(&[("host2", of("web1", landed(500))), ("host2", suspended(70))]);
        let known = plain.known("host2", hvm, Landing::Classic, NOW);
        assert_eq!(known.bounds, assumed);
        assert!(!known.has_history());
        let book = book(&[
            ("host2", of_hvm("win2", 9_000)),
            ("host2", of("web1", landed(500))),
        ]);
        let landing_of = |guest: Subject<'_>| {
            let known = book.known("host2", guest, Landing::Classic, NOW);
            (
                known.landings,
                known.bounds.landing > Duration::from_secs(9),
            )
        };
        assert_eq!(landing_of(hvm), (1, true));
        assert_eq!(landing_of("web2".into()), (1, false));
    }

    #[test]
    fn without_history_bounds_are_assumed_and_nothing_is_expected() {
        let known = Book::default().known("host2", "web1", Landing::Classic, NOW);
        assert!(!known.has_history());
        assert_eq!(known.bounds, Costs::ASSUMED);
        assert_eq!(known.after_ready, AFTER_READY);
        assert_eq!(known.typical, PauseParts::default());
    }

    #[test]
    fn the_worst_seen_and_a_half_more_is_the_bound_and_the_median_is_expected() {
        let entries = [399, 799, 199].map(|ms| ("host2", of("web1", landed(ms))));
        let book = book(&entries);
        let known = book.known("host2", "web1", Landing::Classic, NOW);
        assert_eq!(known.landings, 3);
        assert_eq!(known.bounds.landing, Duration::from_millis(1_200));
        assert_eq!(known.typical.landing_ms, Some(399));
        assert_eq!(known.bounds.suspend, Costs::ASSUMED.suspend);
        assert!(
            !book
                .known("host3", "web1", Landing::Classic, NOW)
                .has_history()
        );
    }

    #[test]
    fn a_guest_goes_by_its_own_landing_and_a_stranger_by_everybodys() {
        let book = book(&[
            ("host2", of("web1", landed(79))),
            ("host2", of("db1", landed(799))),
        ]);
        let landing = |guest| {
            book.known("host2", guest, Landing::Classic, NOW)
                .bounds
                .landing
        };
        assert_eq!(landing("web1"), Duration::from_millis(120));
        assert_eq!(landing("db1"), Duration::from_millis(1_200));
        assert_eq!(landing("new1"), Duration::from_millis(1_200));
    }

    #[test]
    fn a_suspend_is_the_guests_own_wherever_it_went() {
        let book = book(&[
            ("host2", of("web1", suspended(79))),
            ("host3", of("web1", suspended(799))),
            ("host2", of("slow1", suspended(60_000))),
            ("host2", suspended(39)),
        ]);
        let suspend = |to, guest| book.known(to, guest, Landing::Classic, NOW).bounds.suspend;
        assert_eq!(suspend("host2", "web1"), Duration::from_millis(1_200));
        assert_eq!(suspend("host4", "web1"), Duration::from_millis(1_200));
        // The bound does not come from slow1: only a probe guest's figures apply to other
        // guests.
        assert_eq!(suspend("host2", "new1"), Duration::from_millis(60));
        assert_eq!(suspend("host3", "new1"), Costs::ASSUMED.suspend);
    }

    #[test]
    fn what_a_guest_dirties_to_stop_is_its_own_wherever_it_went() {
        let stopped = |pages: u64| Entry {
            suspend_pages: Some(pages),
            ..Entry::default()
        };
        let book = book(&[
            ("host2", of("web1", stopped(300))),
            ("host3", of("web1", stopped(320))),
            ("host2", of("web1", stopped(400))),
            ("host2", of("db1", stopped(9_000))),
            ("host2", stopped(20)),
        ]);
        let known = |to, guest| {
            let known = book.known(to, guest, Landing::Classic, NOW);
            known.suspend_pages
        };
        let web1 = SuspendPages {
            expected: 320,
            most: 450,
        };
        assert_eq!(known("host2", "web1"), web1);
        assert_eq!(known("host4", "web1"), web1);
        assert_eq!(book.known_wherever("web1", NOW).suspend_pages, web1);
        // Figures of db1 and of probe guests do not apply to other guests.
        assert_eq!(known("host2", "new1"), SuspendPages::DEFAULT);
        let old = book.known("host2", "web1", Landing::Classic, NOW + LASTS + 1);
        assert_eq!(old.suspend_pages, SuspendPages::DEFAULT);
    }

    #[test]
    fn last_pages_are_those_of_the_path_and_of_the_landing() {
        let took = |landing: Landing, per_mille: u64| Entry {
            landing,
            last_pages: Some(Took {
                pages: 400,
                per_mille,
                longer_ms: Some(0),
                round_trip_ms: Some(per_mille / 100),
            }),
            ..Entry::default()
        };
        let book = book(&[
            ("host2", of("web1", took(Landing::Classic, 300))),
            ("host2", of("web1", took(Landing::Fast, 800))),
            ("host3", of("web1", took(Landing::Classic, 900))),
            ("host2", of("db1", took(Landing::Classic, 500))),
            ("host2", of("web1", landed(799))),
        ]);
        let usual = |to, guest, landing| book.known(to, guest, landing, NOW).last_pages.usual;
        assert_eq!(usual("host2", "web1", Landing::Classic), 300);
        assert_eq!(usual("host2", "web1", Landing::Fast), 800);
        assert_eq!(usual("host3", "web1", Landing::Classic), 900);
        let trip = |landing| {
            let known = book.known("host2", "web1", landing, NOW);
            known.round_trip.as_millis()
        };
        assert_eq!((trip(Landing::Classic), trip(Landing::Fast)), (3, 8));
        // All guests' there, if its own are not known.
        assert_eq!(usual("host2", "new1", Landing::Classic), 500);
        let nothing = LastPages::DEFAULT;
        let known = book.known("host3", "web1", Landing::Fast, NOW);
        assert_eq!(known.last_pages, nothing);
        assert_eq!(book.known_wherever("web1", NOW).last_pages, nothing);
        let old = book.known("host2", "web1", Landing::Classic, NOW + LASTS + 1);
        assert_eq!(old.last_pages, nothing);
    }

    #[test]
    fn what_follows_ready_and_the_resume_are_learned_too() {
        let entry = Entry {
            after_ready_ms: Some(79),
            resume_ms: Some(7),
            ..landed(799)
        };
        let book = book(&[("host2", of("web1", entry))]);
        let known = book.known("host2", "web1", Landing::Classic, NOW);
        assert_eq!(known.after_ready, Duration::from_millis(120));
        assert_eq!(known.bounds.resume, Duration::from_millis(12));
    }

    #[test]
    fn a_late_landing_keeps_nothing_from_moving_for_long() {
        let late = Entry {
            resumed: true,
            ..landed(59_999)
        };
        let book = book(&[
            ("host2", of("web1", landed(79))),
            ("host2", of("web1", late)),
        ]);
        let landing = |now| {
            book.known("host2", "web1", Landing::Classic, now)
                .bounds
                .landing
        };
        assert_eq!(landing(NOW + LATE_LASTS), Duration::from_secs(90));
        assert_eq!(landing(NOW + LATE_LASTS + 1), Duration::from_millis(120));
    }

    #[test]
    fn what_is_old_is_forgotten_and_what_is_from_the_future_is_not() {
        let book = book(&[("host2", of("web1", landed(79)))]);
        assert!(
            book.known("host2", "web1", Landing::Classic, NOW + LASTS)
                .has_history()
        );
        assert!(
            !book
                .known("host2", "web1", Landing::Classic, NOW + LASTS + 1)
                .has_history()
        );
        assert!(
            book.known("host2", "web1", Landing::Classic, NOW - 1_000)
                .has_history()
        );
    }

    #[test]
    fn a_fast_landing_is_learned_from_fast_ones_and_a_classic_one_from_classic_ones() {
        let fast = Entry {
            landing: Landing::Fast,
            ..landed(79)
        };
        let book = book(&[
            ("host2", of("web1", landed(799))),
            ("host2", of("web1", fast)),
        ]);
        let landing = |guest, order| book.known("host2", guest, order, NOW).bounds.landing;
        assert_eq!(landing("web1", Landing::Fast), Duration::from_millis(120));
        assert_eq!(landing("db1", Landing::Fast), Duration::from_millis(120));
        assert_eq!(
            landing("web1", Landing::Classic),
            Duration::from_millis(1_200)
        );
        // One with the handshake last is another kind.
        for (to, order) in [
            ("host2", Landing::FastHandshakeLast),
            ("host3", Landing::Fast),
        ] {
            let known = book.known(to, "web1", order, NOW);
            assert_eq!(
                known.bounds.landing,
                Costs::assumed(order, Machine::Plain).landing
            );
        }
    }

    proptest! {
        /// Whatever was seen of any guest, no bound of a part is below one of this guest's
        /// own figures that still count.
        #[test]
        fn bounds_cover_all_that_was_seen_of_the_guest(
            seen in proptest::collection::vec(
                (0..3u8, 0..3u8, proptest::array::uniform6(proptest::option::of(0..100_000u64))),
                0..40,
            ),
        ) {
            let entries: Vec<(String, Entry)> = seen
                .iter()
                .map(|(to, guest, [a, b, c, d, e, f])| {
                    let entry = Entry {
                        guest: (*guest > 0).then(|| format!("g{guest}")),
                        suspend_ms: *a,
                        final_bitmap_ms: *b,
                        cpu_state_ms: *c,
                        landing_ms: *d,
                        after_ready_ms: *e,
                        resume_ms: *f,
                        ..Entry::default()
                    };
                    (format!("host{to}"), entry)
                })
                .collect();
            let mut book = Book::default();
            for (to, entry) in &entries {
                book.add(to, entry.clone(), NOW);
            }
            let kept = book.destinations.clone();
            let known = book.known("host0", "g1", Landing::Classic, NOW);
            let covers = |bound: Duration, ms: Option<u64>| {
                bound >= Duration::from_millis(ms.unwrap_or(0))
            };
            for (to, entry) in kept.iter().flat_map(|(to, list)| list.iter().map(move |e| (to, e))) {
                if !entry.is_of("g1") {
                    continue;
                }
                // A longer suspend is covered too, unless it is the only one.
                let suspend = entry.suspend_ms.filter(|ms| *ms <= ACCIDENT);
                prop_assert!(covers(known.bounds.suspend, suspend));
                prop_assert!(covers(known.bounds.final_bitmap, entry.final_bitmap_ms));
                prop_assert!(covers(known.bounds.cpu_state, entry.cpu_state_ms));
                prop_assert!(covers(known.bounds.resume, entry.resume_ms));
                if to == "host0" {
                    prop_assert!(covers(known.bounds.landing, entry.landing_ms));
                    prop_assert!(covers(known.after_ready, entry.after_ready_ms));
                }
            }
        }
    }
}
