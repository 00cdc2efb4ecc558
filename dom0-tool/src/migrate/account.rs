//! What was seen of an attempt.

use std::collections::VecDeque;

use lull_wire::events::{
    Answered, Ended, Event, How, HungUp, InForce, Landing, Progress, RanOn, Ready, Round, Started,
    Suspended,
};

use super::outcome::{HelperSeen, Passed, XlEnd};
use super::words::Words;
use lull_wire::xl::handshake::{Handshake, Step};

/// Rounds kept from the beginning and from the end; a guest that is refused
/// after an hour has thousands.
const FIRST: usize = 6;
const LAST: usize = 14;

/// Pauses given up that are kept; more than there are tries.
const GIVEN_UP_KEPT: usize = 7;

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

    pub(super) fn latest(&self) -> Option<&Round> {
        self.last.back().or(self.first.last())
    }
}

/// What was seen of an attempt.
#[derive(Debug, Default)]
pub struct Account {
    /// Copying began.
    pub started: Option<Started>,
    /// Limits set since.
    pub limits: Option<InForce>,
    /// The last progress.
    pub progress: Option<Progress>,
    /// The rounds.
    pub rounds: Rounds,
    /// The guest stopped.
    pub suspended: Option<Suspended>,
    /// Pauses that were given up, and tried again.
    pub given_up: Vec<RanOn>,
    /// The helper's last word.
    pub ended: Option<Ended>,
    /// In which order the guest was to land.
    pub landing: Landing,
    /// READY was passed on to xl.
    pub ready: Option<Ready>,
    /// The destination answered GO.
    pub answered: Option<Answered>,
    /// The transport hung up instead.
    pub hung_up: Option<HungUp>,
    /// Nothing more will be heard of the transport.
    pub transport_gone: bool,
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
            Event::Started(started) => {
                self.landing = started.landing;
                self.started = Some(started);
            }
            Event::Limits(limits) => self.limits = Some(limits),
            Event::Progress(progress) => self.progress = Some(progress),
            Event::Round(round) => self.rounds.push(round),
            Event::Suspended(suspended) => self.suspended = Some(suspended),
            Event::RanOn(ran_on) => {
                self.suspended = None;
                // No more than a few come from a helper that keeps to its rules.
                self.given_up.truncate(GIVEN_UP_KEPT);
                self.given_up.push(ran_on);
            }
            Event::Ended(ended) => self.ended = Some(ended),
            // The transport's and the front end's own; the helper's log is for
            // show.
            Event::Begun(_)
            | Event::LeftToStock(_)
            | Event::TargetReady(_)
            | Event::Ready(_)
            | Event::Answered(_)
            | Event::HungUp(_)
            | Event::CancelAsked
            | Event::Log(_)
            | Event::Rehearsed(_)
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

    /// Takes a line from the destination, or from what leads there.
    pub fn there_said(&mut self, line: &str) {
        self.handshake.there(line);
        self.words.push_there(line);
    }

    /// What lull itself knows of READY.
    pub fn gate(&self) -> Passed {
        match (&self.ready, &self.hung_up) {
            (Some(_), _) => Passed::Yes,
            (None, None) if self.transport_gone => Passed::Unknown,
            (None, _) => Passed::No,
        }
    }

    /// Whether this attempt asked the guest to suspend itself, or was about to.
    pub fn asked_to_suspend(&self) -> bool {
        let decided = self.rounds.latest().map(|round| round.decision.as_str());
        self.suspended.is_some() || !self.given_up.is_empty() || decided == Some("suspend")
    }

    /// Has the helper sent the whole guest?
    pub fn stream_is_complete(&self) -> bool {
        let ended = self.ended.as_ref();
        ended.is_some_and(|ended| ended.how == How::StreamComplete)
    }

    /// Has the destination been told to start the guest?
    pub fn past_permission(&self) -> bool {
        self.gate().step(&self.handshake) >= Step::PermissionGiven
    }

    /// Can it no longer be stopped that the destination starts the guest? xl
    /// may not have said so yet, but nothing keeps it from doing it.
    pub fn is_past_return(&self) -> bool {
        self.past_permission() || self.ready.is_some()
    }

    /// The limit on the pause that was in force last, if one was told.
    pub fn limit_ms(&self) -> Option<u64> {
        match (&self.limits, &self.started) {
            (Some(limits), _) => limits.limit_ms,
            (None, started) => started.as_ref()?.limit_ms,
        }
    }

    /// Pages sent in all.
    pub fn pages_sent(&self) -> u64 {
        let ended = self.ended.as_ref().map(|ended| ended.pages_sent);
        let progress = self.progress.as_ref().map(|progress| progress.pages_sent);
        ended.or(progress).unwrap_or(0)
    }
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
            expected_downtime_ms: Some(150),
            rests_on: None,
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
}
