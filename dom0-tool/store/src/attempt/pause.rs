//! The guest's pause as observed by the source's clock, and as predicted.

use crate::ledger::{Entry, Known, Machine, Took};
use lull_base::monotonic::span_ms;
use lull_wire::events::{How, PauseParts, Refused};

use super::observed::ObservedAttempt;

impl ObservedAttempt {
    /// The pause of an attempt that was given up after the suspend, in milliseconds, as
    /// measured by the process that ended it.
    pub fn refused_pause_ms(&self) -> Option<u64> {
        let helper = self.ended.as_ref().and_then(|ended| ended.refused_pause_ms);
        let transport = self
            .hung_up
            .as_ref()
            .and_then(|hung_up| hung_up.refused_pause_ms);
        helper.or(transport)
    }

    /// The pauses that were abandoned and tried again, in milliseconds.
    pub fn given_up_ms(&self) -> impl Iterator<Item = u64> + '_ {
        self.given_up.iter().map(|ran_on| ran_on.pause_ms)
    }

    /// Upper bound of the pause, in milliseconds, by the source's monotonic clock alone. It
    /// runs from the request until the destination's report arrived, which is a little
    /// after the guest ran. For an attempt given up it is the pause measured by the process
    /// that resumed the guest.
    pub fn observed_downtime_ms(&self) -> Option<u64> {
        if let Some(pause) = self.refused_pause_ms() {
            return Some(pause);
        }
        Some(span_ms(self.requested_ns()?, self.runs_by_ns()?))
    }

    /// The pause in microseconds, rounded up, if it was longer than this limit, which is in
    /// microseconds too. A pause that ended at the source is known in whole milliseconds
    /// only, rounded up, and counts as longer only if it was longer for certain.
    pub fn longer_than(&self, limit_us: u64) -> Option<u64> {
        if let Some(pause) = self.refused_pause_ms() {
            return (pause > limit_us.div_ceil(1_000)).then(|| pause.saturating_mul(1_000));
        }
        let pause_ns = self.runs_by_ns()?.saturating_sub(self.requested_ns()?);
        Some(pause_ns.div_ceil(1_000)).filter(|pause| *pause > limit_us)
    }

    /// The pause without the time that the report took to arrive, in milliseconds. That
    /// time is taken to be half of the shortest round trip seen on this connection.
    ///
    /// Nothing is sent only to measure. Two answers are observed: READY follows the end of
    /// the stream, and the report follows GO. Both include some work at the destination, so
    /// neither is shorter than the round trip. If the way to the destination is no shorter
    /// than the way back, the estimate errs on the short side. The guest began to run
    /// between the estimate and the [bound](Self::observed_downtime_ms), close to the
    /// report's departure and never before GO. No clock of the destination and no wall
    /// clock is used. A pause that ended at the source needs no correction.
    pub fn observed_downtime_estimate_ms(&self) -> Option<u64> {
        if let Some(pause) = self.refused_pause_ms() {
            return Some(pause);
        }
        let runs_by = self.runs_by_ns()?;
        let round_trip = self.shortest_round_trip_ns()?;
        let way_back = round_trip / 2;
        Some(span_ms(
            self.requested_ns()?,
            runs_by.saturating_sub(way_back),
        ))
    }

    fn requested_ns(&self) -> Option<u64> {
        Some(self.suspended.as_ref()?.requested_monotonic_ns)
    }

    /// The latest time at which the guest began to run at the destination, in nanoseconds.
    /// xl must have accepted the report; the transport read it first.
    fn runs_by_ns(&self) -> Option<u64> {
        let received = self.target_started_ns?;
        let came = self.answered.map(|answered| answered.answer_monotonic_ns);
        Some(came.map_or(received, |came| came.min(received)))
    }

    fn shortest_round_trip_ns(&self) -> Option<u64> {
        let answered = self.answered?;
        let to_go = answered
            .answer_monotonic_ns
            .saturating_sub(answered.go_monotonic_ns);
        let complete = self.ended.as_ref().zip(self.ready.as_ref());
        let to_end = complete
            // In a fast landing READY arrived long before.
            .and_then(|(ended, ready)| ready.came_monotonic_ns.checked_sub(ended.monotonic_ns));
        Some(to_end.map_or(to_go, |to_end| to_end.min(to_go)))
    }

    /// The predicted pause, in milliseconds: the prediction on which the guest was
    /// suspended, or the latest one if it was not.
    pub fn predicted_downtime_ms(&self) -> Option<u64> {
        match &self.suspended {
            Some(suspended) => suspended.predicted_downtime_ms,
            None => self.rounds.latest()?.predicted_downtime_ms,
        }
    }

    /// The pause expected when the guest was asked to stop, in milliseconds: the usual time
    /// of each part, and its pages at the usual rates. `None` without history.
    pub fn expected_downtime_ms(&self, known: &Known) -> Option<u64> {
        let typical = &known.typical;
        [
            typical.suspend_ms?,
            typical.final_bitmap_ms?,
            self.suspended.as_ref()?.likely_pages_ms?,
            typical.cpu_state_ms?,
            typical.landing_ms?,
        ]
        .into_iter()
        .try_fold(0, u64::checked_add)
    }

    /// The parts of the pause of a guest that moved.
    pub fn observed_parts(&self) -> Option<PauseParts> {
        let ended = self.ended.as_ref()?;
        let landing = self
            .runs_by_ns()
            .map(|runs_by| span_ms(ended.monotonic_ns, runs_by));
        Some(PauseParts {
            landing_ms: landing.or(ended.observed.landing_ms),
            ..ended.observed.clone()
        })
    }

    /// The parts of the landing, in milliseconds: the time from the end of the stream to
    /// READY, and from READY until the guest ran.
    pub fn landing_split(&self) -> Option<(u64, Option<u64>)> {
        let ended = self.ended.as_ref()?;
        let came = match (&self.ready, &self.hung_up) {
            // In a fast landing READY came earlier, and was held until everything was in
            // place.
            (Some(ready), _) if self.landing.is_fast() => ready.passed_monotonic_ns,
            (Some(ready), _) => ready.came_monotonic_ns,
            (None, hung_up) => hung_up.as_ref()?.ready_monotonic_ns?,
        };
        let after = self.runs_by_ns().map(|runs_by| span_ms(came, runs_by));
        Some((span_ms(ended.monotonic_ns, came), after))
    }

    /// The smallest limit, in milliseconds, with which a READY that came too late would
    /// have been in time.
    pub fn limit_for_ready_ms(&self, after_ready_ms: u64) -> Option<u64> {
        let begun = self.requested_ns()?;
        let came = self.hung_up.as_ref()?.ready_monotonic_ns?;
        Some(span_ms(begun, came).saturating_add(after_ready_ms))
    }

    /// The time until which the destination was waited for, in nanoseconds, if the attempt
    /// was given up because the destination was slow.
    fn waited_until_ns(&self) -> Option<u64> {
        self.ended
            .as_ref()
            .filter(|ended| ended.how == How::StreamComplete)?;
        let hung_up = self.hung_up.as_ref()?;
        match hung_up.why {
            Refused::ReadyTooLate => hung_up.ready_monotonic_ns,
            Refused::NotReady => Some(hung_up.decided_monotonic_ns),
            _ => None,
        }
    }

    /// The pages that the guest's kernel dirtied in order to stop: those that came between
    /// the count on which it was asked and the final bitmap, without those that its load was
    /// expected to dirty. `None` where the load made up more than half of them, or where a
    /// count is not known.
    fn suspend_pages(&self) -> Option<u64> {
        let last = self.rounds.last_with("suspend")?;
        let suspended = self.suspended.as_ref()?;
        let came = suspended.dirty_pages.saturating_sub(last.pages_dirtied);
        let loads = suspended.load_pages?;
        (loads <= came / 2).then(|| came - loads)
    }

    /// How long the last pages took without the round trip, beside what the path's curve said
    /// of them. `None` where the engine could not compare.
    fn last_pages(&self) -> Option<Took> {
        let ended = self.ended.as_ref()?;
        let per_mille = ended.last_pages_per_mille?;
        let took_ms = ended.observed.pages_ms.unwrap_or(0);
        let took_ms = took_ms.saturating_sub(ended.round_trip_ms);
        let by_curve = u128::from(took_ms) * 1_000 / u128::from(per_mille.max(1_000));
        Some(Took {
            pages: self.suspended.as_ref().map_or(0, |stop| stop.dirty_pages),
            per_mille,
            longer_ms: Some(took_ms - u64::try_from(by_curve).unwrap_or(took_ms)),
            round_trip_ms: Some(ended.round_trip_ms),
        })
    }

    /// The ledger entry of this attempt. A pause that ended in a move yields all parts. A
    /// pause that ended at the source yields the parts it reached, and the time it took to
    /// end it. A destination that was too slow would have taken at least as long as it was
    /// waited for; what follows READY was not observed then, so its bound is used. `None`
    /// if the guest was never paused.
    pub fn entry(&self, guest: &str, known: &Known) -> Option<Entry> {
        let requested_ns = self.requested_ns()?;
        let ended = self.ended.as_ref()?;
        let parts = self.observed_parts()?;
        let transport = self.hung_up.as_ref().and_then(|hung_up| hung_up.resume_ms);
        let after_ready = known.after_ready.as_millis() as u64;
        let at_least = |since: u64| {
            let waited = span_ms(since, self.waited_until_ns()?);
            Some(waited.saturating_add(after_ready))
        };
        let moved = self.target_started_ns.is_some();
        let observed_ms = match moved {
            true => self.observed_downtime_ms(),
            false => at_least(requested_ns),
        };
        let entry = Entry {
            at: None,
            guest: Some(guest.to_owned()),
            emulated: known.machine == Machine::Emulated,
            resumed: !moved,
            suspend_ms: parts.suspend_ms,
            suspend_pages: self.suspend_pages(),
            last_pages: self.last_pages(),
            final_bitmap_ms: parts.final_bitmap_ms,
            cpu_state_ms: parts.cpu_state_ms,
            landing: self.landing,
            landing_ms: parts.landing_ms.or_else(|| at_least(ended.monotonic_ns)),
            after_ready_ms: self.landing_split().and_then(|(_, after)| after),
            resume_ms: ended.resume_ms.or(transport),
            expected_ms: self
                .expected_downtime_ms(known)
                .filter(|_| observed_ms.is_some()),
            predicted_ms: self
                .predicted_downtime_ms()
                .filter(|_| observed_ms.is_some()),
            observed_ms,
        };
        Some(entry).filter(|entry| !entry.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Ledger;
    use lull_wire::events::{Answered, Event, GuestThen, HungUp, Landing, Ready};

    /// Times at the source, in nanoseconds of its monotonic clock.
    #[derive(Debug, Clone, Copy)]
    struct Stamps {
        requested: u64,
        complete: u64,
        ready: u64,
        go: u64,
        answer: u64,
        received: u64,
    }

    fn moved(at: Stamps) -> ObservedAttempt {
        let line = |line: &str| serde_json::from_str(line).expect("an event");
        let mut observed = ObservedAttempt::default();
        let requested = at.requested;
        observed.helper_said(line(&format!(
            r#"{{"type":"suspended","requested_at_ms":1,"stopped_at_ms":2,"dirty_pages":3,"predicted":{{}},"requested_monotonic_ns":{requested}}}"#
        )));
        let complete = at.complete;
        observed.helper_said(line(&format!(
            r#"{{"type":"ended","at_ms":9,"how":"stream-complete","reason":"","advice":"","observed":{{}},"pages_sent":3,"bytes_sent":4,"monotonic_ns":{complete},"helper_cpu_ms":1,"helper_peak_bytes":1}}"#
        )));
        observed.transport_said(Event::Ready(Ready {
            came_monotonic_ns: at.ready,
            passed_monotonic_ns: at.ready,
        }));
        observed.transport_said(Event::Answered(Answered {
            go_monotonic_ns: at.go,
            answer_monotonic_ns: at.answer,
        }));
        observed.target_started_ns = Some(at.received);
        observed
    }

    #[test]
    fn a_pause_within_a_limit_of_part_of_a_millisecond_is_not_over_it() {
        let at = 1_000_000_000;
        let mut observed = moved(Stamps {
            requested: at,
            complete: at,
            ready: at,
            go: at,
            answer: at + 1_800_000,
            received: at + 1_800_000,
        });
        assert_eq!(observed.observed_downtime_ms(), Some(2));
        assert_eq!(observed.longer_than(1_900), None);
        assert_eq!(observed.longer_than(1_799), Some(1_800));
        // The process that resumed it here rounded up.
        observed.ended.as_mut().unwrap().refused_pause_ms = Some(2);
        assert_eq!(observed.longer_than(1_900), None);
        assert_eq!(observed.longer_than(1_000), Some(2_000));
    }

    /// Two seconds to the end of the stream, three seconds for a landing that never came,
    /// and the known bound for the rest.
    #[test]
    fn a_destination_that_was_late_is_remembered_as_slow_and_as_foreseen_badly() {
        let mut observed = moved(Stamps {
            requested: 1_000_000_000,
            complete: 3_000_000_000,
            ready: 0,
            go: 0,
            answer: 0,
            received: 0,
        });
        (
            observed.ready,
            observed.answered,
            observed.target_started_ns,
        ) = (None, None, None);
        observed.suspended.as_mut().unwrap().predicted_downtime_ms = Some(4_000);
        observed.hung_up = Some(HungUp {
            why: Refused::NotReady,
            ready_monotonic_ns: None,
            decided_monotonic_ns: 6_000_000_000,
            guest: GuestThen::Resumed,
            error: String::new(),
            refused_pause_ms: Some(5_009),
            resume_ms: Some(9),
        });
        let known =
            Ledger::at("/nonexistent/ledger").known("host2", "web1", Landing::Classic, |_| {});
        let entry = observed.entry("web1", &known).unwrap();
        assert!(entry.resumed);
        assert_eq!(entry.landing_ms, Some(3_200));
        assert_eq!(entry.resume_ms, Some(9));
        assert_eq!(
            (entry.predicted_ms, entry.observed_ms),
            (Some(4_000), Some(5_200))
        );
        // An operator's cancel is not the destination's fault.
        observed.hung_up.as_mut().unwrap().why = Refused::Cancelled;
        let entry = observed.entry("web1", &known).unwrap();
        assert_eq!((entry.landing_ms, entry.observed_ms), (None, None));
        assert_eq!(entry.resume_ms, Some(9));
        assert_eq!(observed.observed_downtime_estimate_ms(), Some(5_009));
        observed.suspended = None;
        assert_eq!(observed.entry("web1", &known), None);
    }

    /// A pause that was given up and tried again counts by its last try. The final round,
    /// which is reported too, counts nothing.
    #[test]
    fn what_the_guest_dirtied_to_stop_is_counted_from_the_last_decision() {
        let round = |decision: &str, pages_dirtied| {
            let line = format!(
                r#"{{"type":"round","at_ms":1,"round":1,"pages_sent":1,"pages_dirtied":{pages_dirtied},"duration_ms":1000,"decision":"{decision}"}}"#
            );
            serde_json::from_str::<Event>(&line).expect("an event")
        };
        let observed = |rounds: &[(&str, u64)], dirty_pages, load_pages| {
            let at = 1_000_000_000;
            let mut observed = moved(Stamps {
                requested: at,
                complete: at,
                ready: at,
                go: at,
                answer: at,
                received: at,
            });
            let suspended = observed.suspended.as_mut().unwrap();
            (suspended.dirty_pages, suspended.load_pages) = (dirty_pages, Some(load_pages));
            for (decision, pages_dirtied) in rounds {
                observed.helper_said(round(decision, *pages_dirtied));
            }
            observed
        };
        let known =
            Ledger::at("/nonexistent/ledger").known("host2", "web1", Landing::Classic, |_| {});
        let learned = |rounds: &[(&str, u64)], dirty_pages, load_pages| {
            let observed = observed(rounds, dirty_pages, load_pages);
            observed.entry("web1", &known).unwrap().suspend_pages
        };
        let tries = [
            ("another-round", 9_000),
            ("suspend", 100),
            ("another-round", 8_000),
            ("suspend", 60),
            ("finish", 0),
        ];
        assert_eq!(learned(&tries, 420, 0), Some(360));
        assert_eq!(learned(&tries, 50, 0), Some(0));
        assert_eq!(learned(&tries[..1], 420, 0), None);
        // Without the load's share, and not at all where the load is most of it.
        assert_eq!(learned(&[("suspend", 5_000)], 5_420, 50), Some(370));
        assert_eq!(learned(&[("suspend", 5_000)], 5_420, 211), None);
        // Of many rounds too, of which not all are kept.
        let mut many = vec![("another-round", 5); 100];
        many.extend([("suspend", 20), ("finish", 0)]);
        assert_eq!(learned(&many, 420, 0), Some(400));
    }

    /// Only of all of them, and only where the engine could compare.
    #[test]
    fn the_time_of_the_last_pages_is_kept_with_their_number() {
        let mut observed = moved(Stamps {
            requested: 1,
            complete: 2,
            ready: 3,
            go: 4,
            answer: 5,
            received: 6,
        });
        let known =
            Ledger::at("/nonexistent/ledger").known("host2", "web1", Landing::Classic, |_| {});
        let kept = |observed: &ObservedAttempt| observed.entry("web1", &known).unwrap().last_pages;
        assert_eq!(kept(&observed), None);
        observed.suspended.as_mut().unwrap().dirty_pages = 420;
        observed.ended.as_mut().unwrap().last_pages_per_mille = Some(310);
        let took = |per_mille, longer_ms| Took {
            pages: 420,
            per_mille,
            longer_ms: Some(longer_ms),
            round_trip_ms: Some(0),
        };
        assert_eq!(kept(&observed), Some(took(310, 0)));
        // The curve said 40 ms.
        let ended = observed.ended.as_mut().unwrap();
        ended.last_pages_per_mille = Some(2_500);
        ended.observed.pages_ms = Some(100);
        assert_eq!(kept(&observed), Some(took(2_500, 60)));
        // The round trip is no time of the pages.
        let ended = observed.ended.as_mut().unwrap();
        (ended.observed.pages_ms, ended.round_trip_ms) = (Some(150), 50);
        let with_trip = Took {
            round_trip_ms: Some(50),
            ..took(2_500, 60)
        };
        assert_eq!(kept(&observed), Some(with_trip));
    }

    proptest! {
        /// The report left between the estimate and the bound, and the estimate does not
        /// lie before GO. This holds for all transit and processing times, and for every
        /// origin of the clock.
        #[test]
        fn the_guest_ran_between_the_estimate_and_the_bound(
            way_ns in 0..200_000_000u64,
            sending in 0..2_000_000_000u64,
            restoring in 0..2_000_000_000u64,
            renaming in 0..100_000_000u64,
            starting in 0..2_000_000_000u64,
            reading in 0..100_000_000u64,
            (boot, other_boot) in (0..1_000_000_000_000u64, 0..1_000_000_000_000u64),
        ) {
            let seen = |boot: u64| {
                let complete = boot + sending;
                let ready = complete + way_ns + restoring + way_ns;
                let go = ready + renaming;
                let answer = go + way_ns + starting + way_ns;
                let received = answer + reading;
                Stamps { requested: boot, complete, ready, go, answer, received }
            };
            let at = seen(boot);
            let observed = moved(at);
            let bound = observed.observed_downtime_ms().expect("it moved");
            let estimate = observed.observed_downtime_estimate_ms().expect("GO was answered");
            let reported_ms = span_ms(at.requested, at.answer - way_ns);
            prop_assert!(estimate <= reported_ms && reported_ms <= bound);
            prop_assert!(estimate >= span_ms(at.requested, at.go));
            let other = moved(seen(other_boot));
            prop_assert_eq!(other.observed_downtime_ms(), Some(bound));
            prop_assert_eq!(other.observed_downtime_estimate_ms(), Some(estimate));
        }
    }
}
