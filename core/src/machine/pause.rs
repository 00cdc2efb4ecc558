//! From the request to suspend to the end of the pause: gates 2 and 3, and what follows a pause
//! that is given up.

use super::{Action, CancelIntent, Machine, Phase};
use crate::{
    downtime::{Downtime, Fit},
    policy::WithinLimit,
    refusal::Reason,
    units::Micros,
};

impl Machine {
    pub(super) fn suspend(&mut self) -> Action {
        self.cap = self.service.cap();
        if self.cap.is_some() {
            self.service.cap_at(None);
        }
        self.phase = Phase::Suspending {
            since: self.now,
            intent: CancelIntent::Move,
        };
        Action::Suspend
    }

    /// Checks gate 2. It uses the expected time for the pages, not the upper bound: the
    /// guest has already stopped, and gate 3 and dom0's own deadline end the pause within
    /// the limit in any case. Giving up is right only if the move is more likely to fail
    /// than to succeed.
    pub(super) fn suspended(
        &mut self,
        since: Micros,
        intent: CancelIntent,
        dirty: u64,
        took: Micros,
    ) -> Action {
        let elapsed = self.now.since(since);
        let spent = Downtime {
            suspend: elapsed.since(took),
            final_bitmap: took.min(elapsed),
            ..self.config.costs.downtime()
        };
        // The curve's own word, if earlier pauses took longer: gate 1 did not know better.
        let carried = self.service.expected_rate().time_for(dirty);
        let by_curve = self.service.expected(dirty);
        let usual = self.usual_time(dirty, carried);
        let left = Downtime {
            pages: usual.min(by_curve),
            ..spent
        };
        self.last_pages_by_curve = Some(carried).filter(|_| self.cap.is_none());
        self.dirty_count = Some(dirty);
        self.prediction = Some(Downtime {
            pages: self.service.worst(dirty, self.config.risk),
            ..spent
        });
        self.expected = Some(Downtime {
            cpu_state: self.config.expected_costs.cpu_state,
            landing: self.config.expected_costs.landing,
            pages: usual,
            ..spent
        });
        if intent == CancelIntent::Stay {
            return self.resume(Reason::Cancelled);
        }
        if self.is_beyond(&left) {
            return self.give_up_pause(Reason::DowntimeAfterSuspend, dirty, false);
        }
        self.round_pages = dirty;
        self.round_sent = 0;
        self.round_zeros = 0;
        if dirty == 0 {
            self.phase = Phase::Finished;
            return Action::Finish;
        }
        self.service.start(self.now, self.round);
        self.phase = Phase::CopyingFinal { since, left: dirty };
        Action::CopyFinal { pages: dirty }
    }

    /// The time to expect for `pages`, the last ones, that are `carried` within that time by
    /// the curve.
    fn usual_time(&self, pages: u64, carried: Micros) -> Micros {
        if pages == 0 {
            return Micros::ZERO;
        }
        let last_pages = &self.config.last_pages;
        let rate = self.service.expected_rate();
        let known = rate.time_for(pages.min(last_pages.pages));
        let usual = last_pages.usually(carried, known);
        usual.saturating_add(self.service.usual_round_trip())
    }

    /// The pause if its last page were sent at this moment. It was asked for at `since`.
    pub(super) fn sending(&self, since: Micros) -> Downtime {
        let spent = self.prediction.unwrap_or_default();
        let before = spent.suspend.saturating_add(spent.final_bitmap);
        Downtime {
            pages: self.now.since(since).since(before),
            ..spent
        }
    }

    /// The pause is given up with `left` pages to send.
    pub(super) fn behind_schedule(&mut self, sending: &Downtime, left: u64) -> Action {
        let rest = self.service.worst(left, self.config.risk);
        self.prediction = Some(Downtime {
            pages: sending.pages.saturating_add(rest),
            ..*sending
        });
        self.give_up_pause(Reason::BehindSchedule, left, true)
    }

    /// Checks gate 3: would the pause still fit if the rest were sent at this very moment?
    ///
    /// dom0's own deadline is stricter and does not depend on this gate, which keeps a
    /// simulated attempt as strict as a real one.
    pub(super) fn copy_final_on(&mut self, since: Micros, left: u64) -> Action {
        let sending = self.sending(since);
        if self.is_beyond(&sending) {
            return self.behind_schedule(&sending, left);
        }
        if left > 0 {
            self.phase = Phase::CopyingFinal { since, left };
            return Action::None;
        }
        self.phase = Phase::Finished;
        Action::Finish
    }

    /// Gate 2 or 3 has failed: the pause would exceed its limit. The attempt continues
    /// while its timeout leaves time. An attempt without a timeout ends here, because on a
    /// stalled link it would never end.
    fn give_up_pause(&mut self, reason: Reason, left: u64, scanned: bool) -> Action {
        let needed = self.service.expected(left);
        let needed = needed.saturating_add(needed);
        let in_time = self.time_left().is_some_and(|time| time > needed);
        if self.given_up >= Self::MAX_GIVEN_UP
            || !in_time
            || self.round >= WithinLimit::MAX_ROUNDS.saturating_sub(1)
        {
            return self.resume(reason);
        }
        let refusal = self.refusal(reason);
        self.given_up = self.given_up.saturating_add(1);
        // The prediction behind this figure was wrong.
        self.least_needed = None;
        self.phase = Phase::RunningOn {
            left,
            scanned,
            intent: CancelIntent::Move,
        };
        Action::RunOn(refusal)
    }

    /// The guest runs again. The round that was to be the final one becomes another live
    /// round.
    pub(super) fn run_on(&mut self, left: u64, scanned: bool, intent: CancelIntent) -> Action {
        if intent == CancelIntent::Stay {
            return self.refuse(Reason::Cancelled);
        }
        self.round = self.round.saturating_add(1);
        if let Some(cap) = self.cap.take() {
            self.service.cap_at(Some(cap));
        }
        if !scanned {
            return self.start_round(left);
        }
        self.round_start = self.now;
        self.dirty.restart(self.now);
        self.copy_on(left)
    }

    pub(super) fn is_beyond(&self, downtime: &Downtime) -> bool {
        self.config
            .limits
            .max_suspend
            .is_some_and(|limit| self.config.costs.fit(downtime, limit) == Fit::Beyond)
    }
}
