//! What was seen of an attempt.

use std::collections::VecDeque;

use crate::events::{
    Answered, Ended, Event, How, HungUp, PauseParts, Progress, Ready, Refused, Round, Started,
    Suspended,
};
use crate::ledger::{Entry, Known};

use super::handshake::{Handshake, Step};
use super::outcome::{HelperSeen, XlEnd};
use super::words::Words;

/// Rounds kept from the beginning and from the end; a guest that is refused
/// after an hour has thousands.
const FIRST: usize = 6;
const LAST: usize = 14;

/// The rounds, those in the middle only counted.
#[derive(Debug, Default)]
pub struct Rounds {
    count: u32,
    first: Vec<Round>,
    last: VecDeque<Round>,
}

impl Rounds {
    fn push(&mut self, round: Round) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < FIRST {
            self.first.push(round);
            return;
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(round);
    }

    /// How many there were.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The first ones.
    pub fn first(&self) -> &[Round] {
        &self.first
    }

    /// The ones between, not kept.
    pub fn left_out(&self) -> usize {
        self.count as usize - self.first.len() - self.last.len()
    }

    /// The last ones.
    pub fn last(&self) -> impl Iterator<Item = &Round> {
        self.last.iter()
    }

    fn latest(&self) -> Option<&Round> {
        self.last.back().or(self.first.last())
    }
}

/// What was seen of an attempt.
#[derive(Debug, Default)]
pub struct Account {
    /// Copying began.
    pub started: Option<Started>,
    /// The last progress.
    pub progress: Option<Progress>,
    /// The rounds.
    pub rounds: Rounds,
    /// The guest stopped.
    pub suspended: Option<Suspended>,
    /// The helper's last word.
    pub ended: Option<Ended>,
    /// READY was passed on to xl.
    pub ready: Option<Ready>,
    /// The destination answered GO.
    pub answered: Option<Answered>,
    /// The transport hung up instead.
    pub hung_up: Option<HungUp>,
    /// Was there a helper?
    pub helper: HelperSeen,
    /// How far xl came.
    pub handshake: Handshake,
    /// When the destination reported that the guest runs, `CLOCK_MONOTONIC`.
    pub target_started_ns: Option<u64>,
    /// What was said.
    pub words: Words,
    /// How xl ended.
    pub xl: Option<XlEnd>,
}

impl Account {
    /// Takes an event of the helper's.
    pub fn helper_said(&mut self, event: Event) {
        self.helper = HelperSeen::Begun;
        match event {
            Event::Started(started) => self.started = Some(started),
            Event::Progress(progress) => self.progress = Some(progress),
            Event::Round(round) => self.rounds.push(round),
            Event::Suspended(suspended) => self.suspended = Some(suspended),
            Event::Ended(ended) => self.ended = Some(ended),
            // The transport's and the front end's own; the helper's log is for
            // show.
            Event::Ready(_)
            | Event::Answered(_)
            | Event::HungUp(_)
            | Event::Log(_)
            | Event::Result(_) => {}
        }
    }

    /// Takes an event of the transport's.
    pub fn transport_said(&mut self, event: Event) {
        match event {
            Event::Ready(ready) => self.ready = Some(ready),
            Event::Answered(answered) => self.answered = Some(answered),
            Event::HungUp(hung_up) => self.hung_up = Some(hung_up),
            _ => {}
        }
    }

    /// Takes a line of xl's.
    pub fn xl_said(&mut self, line: &str) {
        self.handshake.line(line);
        self.words.push(line);
    }

    /// Has the destination been told to start the guest?
    pub fn past_permission(&self) -> bool {
        self.handshake.step >= Step::PermissionGiven
    }

    /// Can it no longer be stopped that the destination starts the guest? xl
    /// may not have said so yet, but nothing keeps it from doing it.
    pub fn is_past_return(&self) -> bool {
        self.past_permission() || self.ready.is_some()
    }

    /// The pause of an attempt that was given up after the suspend, as whoever
    /// ended it measured it.
    pub fn refused_pause_ms(&self) -> Option<u64> {
        let helper = self.ended.as_ref().and_then(|ended| ended.refused_pause_ms);
        let transport = self
            .hung_up
            .as_ref()
            .and_then(|hung_up| hung_up.refused_pause_ms);
        helper.or(transport)
    }

    /// The pause, at most: by the source's monotonic clock alone, from the
    /// request until the destination's report was there, which is a little
    /// after the guest ran; or, of an attempt given up, as whoever resumed the
    /// guest measured it.
    pub fn observed_downtime_ms(&self) -> Option<u64> {
        if let Some(pause) = self.refused_pause_ms() {
            return Some(pause);
        }
        Some(span_ms(self.requested_ns()?, self.runs_by_ns()?))
    }

    /// The pause without the report's way back, which is taken to be half of
    /// the shortest round trip seen on this connection.
    ///
    /// Nothing is sent only to measure. Two answers are seen: READY to the end
    /// of the stream, and the report to GO. Both hold some work of the
    /// destination's besides the way, so that neither is shorter than the
    /// round trip: the estimate errs, if the way there is no shorter than the
    /// way back, on the short side. The guest began to run between it and the
    /// [bound](Self::observed_downtime_ms), close to the report's departure,
    /// and never before GO. No clock of the destination's has any part in it,
    /// nor has a wall clock. A pause that ended here needs no correction.
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

    /// When the guest ran at the destination at the latest. xl must have read
    /// the report as good; the transport saw it first.
    fn runs_by_ns(&self) -> Option<u64> {
        let heard = self.target_started_ns?;
        let came = self.answered.map(|answered| answered.answer_monotonic_ns);
        Some(came.map_or(heard, |came| came.min(heard)))
    }

    fn shortest_round_trip_ns(&self) -> Option<u64> {
        let answered = self.answered?;
        let to_go = answered
            .answer_monotonic_ns
            .saturating_sub(answered.go_monotonic_ns);
        let complete = self.ended.as_ref().zip(self.ready.as_ref());
        let to_end = complete
            .map(|(ended, ready)| ready.came_monotonic_ns.saturating_sub(ended.monotonic_ns));
        Some(to_end.map_or(to_go, |to_end| to_end.min(to_go)))
    }

    /// What the pause was predicted to be: on which the guest was suspended,
    /// or else the last time it was judged.
    pub fn predicted_downtime_ms(&self) -> Option<u64> {
        match &self.suspended {
            Some(suspended) => suspended.predicted_downtime_ms,
            None => self.rounds.latest()?.predicted_downtime_ms,
        }
    }

    /// What it was expected to be when the guest was asked to stop: the usual
    /// of each part, and its pages at the usual rates. Nothing without history.
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

    /// Where the pause of a moved guest went.
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

    /// Of the landing: how long the destination took until READY, and from
    /// there until the guest ran.
    pub fn landing_split(&self) -> Option<(u64, Option<u64>)> {
        let ended = self.ended.as_ref()?;
        let came = match (&self.ready, &self.hung_up) {
            (Some(ready), _) => ready.came_monotonic_ns,
            (None, hung_up) => hung_up.as_ref()?.ready_monotonic_ns?,
        };
        let after = self.runs_by_ns().map(|runs_by| span_ms(came, runs_by));
        Some((span_ms(ended.monotonic_ns, came), after))
    }

    /// The smallest limit with which a READY that came too late would have
    /// been in time.
    pub fn limit_for_ready_ms(&self, after_ready_ms: u64) -> Option<u64> {
        let begun = self.suspended.as_ref()?.requested_monotonic_ns;
        let came = self.hung_up.as_ref()?.ready_monotonic_ns?;
        Some(span_ms(begun, came).saturating_add(after_ready_ms))
    }

    /// What the destination took at least, if it was given up for being slow.
    /// What follows READY was never seen then: `after_ready_ms` stands for it.
    fn landing_at_least_ms(&self, after_ready_ms: u64) -> Option<u64> {
        let ended = self.ended.as_ref()?;
        if ended.how != How::StreamComplete {
            return None;
        }
        let hung_up = self.hung_up.as_ref()?;
        let until = match hung_up.why {
            Refused::ReadyTooLate => hung_up.ready_monotonic_ns?,
            Refused::NotReady => hung_up.decided_monotonic_ns,
            _ => return None,
        };
        Some(span_ms(ended.monotonic_ns, until).saturating_add(after_ready_ms))
    }

    /// What this attempt teaches: of a pause that ended in a move everything,
    /// of one that ended at the source what came so far, and what it took to
    /// end it. `None` if the guest was never paused.
    pub fn entry(&self, guest: &str, known: &Known) -> Option<Entry> {
        self.suspended.as_ref()?;
        let parts = self.observed_parts()?;
        let helper = self.ended.as_ref().and_then(|ended| ended.resume_ms);
        let transport = self.hung_up.as_ref().and_then(|hung_up| hung_up.resume_ms);
        let after_ready = known.after_ready.as_millis() as u64;
        let moved = self.target_started_ns.is_some();
        let entry = Entry {
            at: None,
            guest: Some(guest.to_owned()),
            suspend_ms: parts.suspend_ms,
            final_bitmap_ms: parts.final_bitmap_ms,
            cpu_state_ms: parts.cpu_state_ms,
            landing_ms: parts
                .landing_ms
                .or_else(|| self.landing_at_least_ms(after_ready)),
            after_ready_ms: self.landing_split().and_then(|(_, after)| after),
            resume_ms: helper.or(transport),
            expected_ms: self.expected_downtime_ms(known).filter(|_| moved),
            predicted_ms: self.predicted_downtime_ms().filter(|_| moved),
            observed_ms: self.observed_downtime_ms().filter(|_| moved),
        };
        Some(entry).filter(|entry| !entry.is_empty())
    }

    /// Pages sent in all.
    pub fn pages_sent(&self) -> u64 {
        let ended = self.ended.as_ref().map(|ended| ended.pages_sent);
        let progress = self.progress.as_ref().map(|progress| progress.pages_sent);
        ended.or(progress).unwrap_or(0)
    }
}

/// Rounded up: a report never shows a pause shorter than it was.
fn span_ms(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns).div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(round: u32) -> Round {
        Round {
            at_ms: 0,
            round,
            pages_sent: 0,
            pages_dirtied: 0,
            duration_ms: 0,
            transfer_rate: None,
            dirty_rate: None,
            predicted_downtime_ms: Some(u64::from(round)),
            decision: "another-round".to_owned(),
        }
    }

    #[test]
    fn of_many_rounds_the_ends_are_kept() {
        let mut account = Account::default();
        for number in 0..10_000 {
            account.helper_said(Event::Round(round(number)));
        }
        let rounds = &account.rounds;
        assert_eq!(rounds.count(), 10_000);
        assert_eq!(rounds.left_out(), 10_000 - FIRST - LAST);
        assert_eq!(rounds.first()[0].round, 0);
        assert_eq!(rounds.last().last().unwrap().round, 9_999);
        assert_eq!(account.predicted_downtime_ms(), Some(9_999));
    }

    #[test]
    fn a_pause_is_rounded_up_and_never_negative() {
        assert_eq!(span_ms(0, 1), 1);
        assert_eq!(span_ms(0, 2_000_000), 2);
        assert_eq!(span_ms(5, 0), 0);
    }

    /// What happened at the source, nanoseconds on its monotonic clock.
    #[derive(Debug, Clone, Copy)]
    struct Stamps {
        requested: u64,
        complete: u64,
        ready: u64,
        go: u64,
        answer: u64,
        heard: u64,
    }

    fn moved(at: Stamps) -> Account {
        let line = |line: &str| serde_json::from_str(line).expect("an event");
        let mut account = Account::default();
        let requested = at.requested;
        account.helper_said(line(&format!(
            r#"{{"type":"suspended","requested_at_ms":1,"stopped_at_ms":2,"dirty_pages":3,"predicted":{{}},"requested_monotonic_ns":{requested}}}"#
        )));
        let complete = at.complete;
        account.helper_said(line(&format!(
            r#"{{"type":"ended","at_ms":9,"how":"stream-complete","reason":"","advice":"","observed":{{}},"pages_sent":3,"bytes_sent":4,"monotonic_ns":{complete},"helper_cpu_ms":1,"helper_peak_bytes":1}}"#
        )));
        account.transport_said(Event::Ready(Ready {
            came_monotonic_ns: at.ready,
            passed_monotonic_ns: at.ready,
        }));
        account.transport_said(Event::Answered(Answered {
            go_monotonic_ns: at.go,
            answer_monotonic_ns: at.answer,
        }));
        account.target_started_ns = Some(at.heard);
        account
    }

    proptest! {
        /// Whatever the ways and the work at their other end took, and whatever
        /// the clock counts from: the report left between the estimate and the
        /// bound, and the estimate does not lie before GO.
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
                let heard = answer + reading;
                Stamps { requested: boot, complete, ready, go, answer, heard }
            };
            let at = seen(boot);
            let account = moved(at);
            let bound = account.observed_downtime_ms().expect("it moved");
            let estimate = account.observed_downtime_estimate_ms().expect("GO was answered");
            let reported_ms = span_ms(at.requested, at.answer - way_ns);
            prop_assert!(estimate <= reported_ms && reported_ms <= bound);
            prop_assert!(estimate >= span_ms(at.requested, at.go));
            let other = moved(seen(other_boot));
            prop_assert_eq!(other.observed_downtime_ms(), Some(bound));
            prop_assert_eq!(other.observed_downtime_estimate_ms(), Some(estimate));
        }
    }
}
