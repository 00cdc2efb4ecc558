//! What was observed of an attempt.

use std::collections::VecDeque;

use lull_base::connections::Connections;
use lull_wire::events::{
    Answered, ConnectionLost, Ended, Event, HandedOver, How, HungUp, InForce, Landing, Progress,
    RanOn, Ready, Round, Started, Suspended,
};

use super::outcome::{HelperSeen, Passed, XlEnd};
use super::printed::Printed;
use lull_wire::xl::handshake::{Handshake, Step};

/// Number of rounds kept from the beginning and from the end. A guest that is refused after
/// an hour has thousands of rounds.
const FIRST: usize = 6;
const LAST: usize = 14;

/// Number of abandoned pauses that are kept; it is larger than the number of tries.
const GIVEN_UP_KEPT: usize = 7;

/// The rounds. Those in the middle are only counted.
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

    /// Total number of rounds.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The rounds kept from the beginning.
    pub fn first(&self) -> &[Round] {
        &self.first
    }

    /// Number of rounds in between that were not kept.
    pub fn left_out(&self) -> usize {
        self.count as usize - self.first.len() - self.last.len()
    }

    /// The rounds kept from the end.
    pub fn last(&self) -> impl Iterator<Item = &Round> {
        self.last.iter()
    }

    /// The last round that ended with this decision, as far as it is kept.
    pub(super) fn last_with(&self, decision: &str) -> Option<&Round> {
        let mut newest_first = self.last.iter().rev().chain(self.first.iter().rev());
        newest_first.find(|round| round.decision == decision)
    }

    pub(super) fn latest(&self) -> Option<&Round> {
        self.last.back().or(self.first.last())
    }
}

/// A pause that was longer than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverLimit {
    /// The pause, in microseconds.
    pub pause_us: u64,
    /// The limit that was in force when the guest was asked to suspend, in microseconds.
    pub limit_us: u64,
    /// The time that the guest itself took to stop, in milliseconds.
    pub suspend_ms: u64,
}

/// What was observed of an attempt.
#[derive(Debug, Default)]
pub struct ObservedAttempt {
    /// Set when copying began.
    pub started: Option<Started>,
    /// The limits that were set since then.
    pub limits: Option<InForce>,
    /// The last progress that was reported.
    pub progress: Option<Progress>,
    /// The rounds of the copy.
    pub rounds: Rounds,
    /// Set when the guest stopped.
    pub suspended: Option<Suspended>,
    /// Pauses that were abandoned and tried again.
    pub given_up: Vec<RanOn>,
    /// The longest of them that was longer than its limit.
    pub given_up_over_limit: Option<OverLimit>,
    /// The helper's final event.
    pub ended: Option<Ended>,
    /// The landing that the guest was to use.
    pub landing: Landing,
    /// The connections of a fast landing that were lost, and those that were left.
    pub connections_lost: Vec<ConnectionLost>,
    /// Set when READY was passed on to xl, or the engine was permitted to have the copy
    /// started.
    pub ready: Option<Ready>,
    /// Set when xl's handshake was over before the guest stopped.
    pub handed_over: Option<HandedOver>,
    /// Set when the destination answered GO.
    pub answered: Option<Answered>,
    /// Set when the transport hung up instead.
    pub hung_up: Option<HungUp>,
    /// Nothing more will arrive from the transport.
    pub transport_gone: bool,
    /// Whether a helper has reported.
    pub helper: HelperSeen,
    /// How far xl got.
    pub handshake: Handshake,
    /// When the destination reported that the guest runs, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub target_started_ns: Option<u64>,
    /// The last lines that xl, ssh and the destination printed.
    pub printed: Printed,
    /// How xl ended, once it has.
    pub xl: Option<XlEnd>,
}

impl ObservedAttempt {
    /// Records an event of the helper.
    pub fn helper_said(&mut self, event: Event) {
        self.helper = HelperSeen::Begun;
        match event {
            Event::Started(started) => {
                self.landing = started.landing;
                self.started = Some(started);
            }
            Event::ConnectionLost(lost) => {
                // An engine that keeps to its rules loses no more than it has.
                self.connections_lost.truncate(Connections::MAX.into());
                self.connections_lost.push(lost);
            }
            Event::Limits(limits) => self.limits = Some(limits),
            Event::Progress(progress) => self.progress = Some(progress),
            Event::Round(round) => self.rounds.push(round),
            Event::Suspended(suspended) => self.suspended = Some(suspended),
            Event::RanOn(ran_on) => {
                if let Some(over) = self.over_limit(&ran_on) {
                    let worst = self.given_up_over_limit;
                    self.given_up_over_limit = worst
                        .filter(|worst| worst.pause_us >= over.pause_us)
                        .or(Some(over));
                }
                self.suspended = None;
                // A helper that keeps to its rules sends no more than a few.
                self.given_up.truncate(GIVEN_UP_KEPT);
                self.given_up.push(ran_on);
            }
            Event::Ended(ended) => self.ended = Some(ended),
            // The transport and the front end report these themselves. The helper's log is
            // only displayed.
            Event::Begun(_)
            | Event::LeftToStock(_)
            | Event::TargetReady(_)
            | Event::Ready(_)
            | Event::HandedOver(_)
            | Event::Answered(_)
            | Event::HungUp(_)
            | Event::CancelAsked
            | Event::Log(_)
            | Event::Rehearsed(_)
            | Event::Result(_) => {}
        }
    }

    /// Records an event of the transport.
    pub fn transport_said(&mut self, event: Event) {
        match event {
            Event::Ready(ready) => self.ready = Some(ready),
            Event::HandedOver(handed_over) => self.handed_over = Some(handed_over),
            Event::Answered(answered) => self.answered = Some(answered),
            Event::HungUp(hung_up) => {
                // The engine was permitted to have the copy started, and did not.
                if self.landing.is_handshake_first() {
                    self.ready = None;
                }
                self.hung_up = Some(hung_up);
            }
            _ => {}
        }
    }

    /// Records a line that xl printed.
    pub fn xl_said(&mut self, line: &str) {
        self.handshake.line(line);
        self.printed.push(line);
    }

    /// Records a line from the destination, or from the program that connects to it.
    pub fn there_said(&mut self, line: &str) {
        self.handshake.there(line);
        self.printed.push_there(line);
    }

    /// The pause that is given up, if it was longer than the limit under which it began: the
    /// operator may set another before the next try. It is known in whole milliseconds only,
    /// rounded up, and counts as longer only if it was longer for certain.
    fn over_limit(&self, ran_on: &RanOn) -> Option<OverLimit> {
        let suspended = self.suspended.as_ref()?;
        let limit_us = suspended.limit_us?;
        (ran_on.pause_ms > limit_us.div_ceil(1_000)).then(|| OverLimit {
            pause_us: ran_on.pause_ms.saturating_mul(1_000),
            limit_us,
            suspend_ms: suspended
                .stopped_at_ms
                .saturating_sub(suspended.requested_at_ms),
        })
    }

    /// The permission to start the guest at the destination, unless it was not used. In a fast
    /// landing only the engine uses it, and an engine that reports any end but a complete
    /// stream has not. The transport reports the same, but may be killed before it does.
    fn permission(&self) -> Option<&Ready> {
        let ended = self.ended.as_ref();
        let refused = ended.is_some_and(|ended| ended.how != How::StreamComplete);
        let unused = self.landing.is_handshake_first() && refused;
        self.ready.as_ref().filter(|_| !unused)
    }

    /// Whether the destination was permitted to start the guest, as far as lull itself
    /// knows. Where the handshake precedes that, the transport reports it before it gives
    /// the permission.
    pub fn gate(&self) -> Passed {
        match (self.permission(), &self.hung_up) {
            (Some(_), _) => Passed::Yes,
            (None, _) if self.landing.is_handshake_first() => Passed::No,
            (None, None) if self.transport_gone => Passed::Unknown,
            (None, _) => Passed::No,
        }
    }

    /// Whether this attempt asked the guest to suspend, or was about to.
    pub fn asked_to_suspend(&self) -> bool {
        let decided = self.rounds.latest().map(|round| round.decision.as_str());
        self.suspended.is_some() || !self.given_up.is_empty() || decided == Some("suspend")
    }

    /// Whether the helper has sent the whole guest.
    pub fn stream_is_complete(&self) -> bool {
        let ended = self.ended.as_ref();
        ended.is_some_and(|ended| ended.how == How::StreamComplete)
    }

    /// Whether the destination has been told to start the guest.
    pub fn past_permission(&self) -> bool {
        self.gate().step(&self.handshake) >= Step::PermissionGiven
    }

    /// Whether it can no longer be prevented that the destination starts the guest. xl may
    /// not have reported GO yet, but nothing keeps it from sending GO.
    pub fn is_past_point_of_no_return(&self) -> bool {
        self.past_permission() || self.permission().is_some()
    }

    /// Whether xl may have renamed a guest that the destination was never permitted to
    /// start.
    pub fn may_be_renamed(&self) -> bool {
        self.landing.is_handshake_first() && self.permission().is_none()
    }

    /// The last downtime limit in force, in milliseconds, if one was reported.
    pub fn limit_ms(&self) -> Option<u64> {
        match (&self.limits, &self.started) {
            (Some(limits), _) => limits.limit_ms,
            (None, started) => started.as_ref()?.limit_ms,
        }
    }

    /// The exact limit on the pause when the guest was asked to suspend, in microseconds,
    /// if the engine reported it.
    pub fn exact_limit_us(&self) -> Option<u64> {
        self.suspended.as_ref()?.limit_us
    }

    /// The number of connections with which a fast landing began.
    pub fn begun_with(&self) -> Option<u8> {
        self.started.as_ref()?.connections
    }

    /// The number of connections of a fast landing that are left.
    pub fn connections(&self) -> Option<u8> {
        let lost = self.connections_lost.last();
        lost.map(|lost| lost.left).or_else(|| self.begun_with())
    }

    /// Total number of pages sent.
    pub fn pages_sent(&self) -> u64 {
        let ended = self.ended.as_ref().map(|ended| ended.pages_sent);
        let progress = self.progress.as_ref().map(|progress| progress.pages_sent);
        ended.or(progress).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::outcome::{Evidence, Intent, Outcome, judge};

    fn judged(observed: &ObservedAttempt) -> Outcome {
        let judgement = judge(Evidence {
            helper: observed.helper,
            ended: observed.ended.as_ref(),
            hung_up: None,
            ready: observed.gate(),
            handshake_first: observed.landing.is_handshake_first(),
            handshake: &observed.handshake,
            xl: XlEnd::Exited(1),
            intent: Intent::Move,
        });
        judgement.outcome
    }

    /// The permission crossed the engine's own deadline, and the transport was killed before
    /// it could report that. xl saw the guest given back, or does not know where it is.
    #[test]
    fn a_permission_that_the_engine_has_not_used_is_a_refusal() {
        for last in [
            "migration sender: Trying to resume at our end.",
            "** Migration failed during final handshake **",
        ] {
            let mut observed = ObservedAttempt {
                landing: Landing::Fast,
                ..ObservedAttempt::default()
            };
            observed.transport_said(Event::Ready(Ready {
                came_monotonic_ns: 1,
                passed_monotonic_ns: 2,
            }));
            observed.xl_said("migration sender: Giving target permission to start.");
            assert!(observed.is_past_point_of_no_return() && !observed.may_be_renamed());
            observed.helper_said(Event::Ended(Ended::so(How::RefusedDowntime)));
            observed.xl_said(last);
            assert!(!observed.is_past_point_of_no_return() && observed.may_be_renamed());
            assert_eq!(judged(&observed), Outcome::RefusedDowntime, "{last}");
            // An engine that has used it says that its stream is complete.
            observed.helper_said(Event::Ended(Ended::so(How::StreamComplete)));
            assert!(observed.is_past_point_of_no_return() && !observed.may_be_renamed());
        }
    }

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
        let mut observed = ObservedAttempt::default();
        for number in 0..10_000 {
            observed.helper_said(Event::Round(round(number)));
        }
        let rounds = &observed.rounds;
        assert_eq!(rounds.count(), 10_000);
        assert_eq!(rounds.left_out(), 10_000 - FIRST - LAST);
        assert_eq!(rounds.first()[0].round, 0);
        assert_eq!(rounds.last().last().unwrap().round, 9_999);
        assert_eq!(observed.predicted_downtime_ms(), Some(9_999));
    }
}
