//! What was seen of an attempt.

use std::collections::VecDeque;

use crate::events::{
    Ended, Event, How, HungUp, PauseParts, Progress, Ready, Refused, Round, Started, Suspended,
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
            Event::Ready(_) | Event::HungUp(_) | Event::Log(_) | Event::Result(_) => {}
        }
    }

    /// Takes an event of the transport's.
    pub fn transport_said(&mut self, event: Event) {
        match event {
            Event::Ready(ready) => self.ready = Some(ready),
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

    /// The pause, at most: until the report was read, which is a little after
    /// the guest ran; or, of an attempt given up, as the helper measured it.
    pub fn observed_downtime_ms(&self) -> Option<u64> {
        if let Some(pause) = self.refused_pause_ms() {
            return Some(pause);
        }
        let begun = self.suspended.as_ref()?.requested_monotonic_ns;
        Some(span_ms(begun, self.target_started_ns?))
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
            .target_started_ns
            .map(|started| span_ms(ended.monotonic_ns, started));
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
        let after = self.target_started_ns.map(|started| span_ms(came, started));
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
}
