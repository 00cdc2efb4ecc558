//! The end of an attempt that is refused, with the figures that explain it.

use super::{Action, Machine, Phase};
use crate::{
    downtime::{DowntimeModel, FixedCosts},
    limits::DowntimeLimit,
    refusal::{Figures, Reason, Refusal},
};

impl Machine {
    pub(super) fn refuse(&mut self, reason: Reason) -> Action {
        let refusal = self.refusal(reason);
        self.phase = Phase::Refused;
        Action::Refuse(refusal)
    }

    pub(super) fn resume(&mut self, reason: Reason) -> Action {
        let refusal = self.refusal(reason);
        self.phase = Phase::Resumed;
        Action::Resume(refusal)
    }

    pub(super) fn refusal(&self, reason: Reason) -> Refusal {
        let costs = self.costs();
        let prediction = self
            .prediction
            .map(|prediction| costs.at_worst(&prediction));
        let smallest_limit = match reason {
            Reason::FixedCosts { .. } => Some(costs.floor()),
            // The earlier prediction did not hold.
            Reason::DowntimeAfterSuspend | Reason::BehindSchedule => {
                prediction.map(|prediction| prediction.total())
            }
            _ => self.least_needed.map(|least| least.max(costs.floor())),
        };
        let needed = |limit: DowntimeLimit| {
            let dirty_count = self.dirty_count?;
            self.measured_model(reason)
                .bandwidth_for(dirty_count, limit)
        };
        Refusal {
            reason,
            figures: Figures {
                round: self.round,
                elapsed: self.now,
                limits: self.config.limits,
                dirty_count: self.dirty_count,
                predicted_downtime: prediction,
                smallest_limit,
                bandwidth_needed: self.config.limits.max_suspend.and_then(needed),
                expected_downtime: self.expected,
                rests_on: self.rests_on(),
                dirty_rate: self.dirty.bounds(),
                transfer_rate: self.service.bounds(),
                expected_rate: self.service.expected_rate(),
                cap: self.service.cap(),
            },
        }
    }

    /// The model, with bounds replaced by what is certain by now: a stopped guest dirties
    /// nothing.
    fn measured_model(&self, reason: Reason) -> DowntimeModel<'_> {
        let model = self.model();
        match (reason, self.prediction) {
            (Reason::DowntimeAfterSuspend | Reason::BehindSchedule, Some(spent)) => DowntimeModel {
                costs: FixedCosts {
                    suspend: spent.suspend,
                    final_bitmap: spent.final_bitmap,
                    ..model.costs
                },
                stopped: true,
                ..model
            },
            _ => model,
        }
    }
}
