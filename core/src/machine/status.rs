//! What a machine shows of itself.

use super::{Config, Machine, Phase, State};
use crate::{
    dirty::DirtyCurve,
    downtime::Downtime,
    history::History,
    service::ServiceCurve,
    units::{Bounds, Micros, PageRate},
};

impl Machine {
    /// Whether the operator's requests still have an effect: the guest has not been asked
    /// to stop, and still can be. Until then the limits can be changed.
    pub const fn accepts_changes(&self) -> bool {
        matches!(
            self.phase,
            Phase::Waiting
                | Phase::Copying { .. }
                | Phase::Counting
                | Phase::TakingBitmap
                | Phase::HandingOver
        )
    }

    /// The initial configuration, with the limits that apply now.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The state after the last event.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Copying { .. } => State::Copying,
            Phase::Counting => State::Counting,
            Phase::TakingBitmap => State::TakingBitmap,
            Phase::HandingOver => State::HandingOver,
            Phase::Suspending { .. } => State::Suspending,
            Phase::CopyingFinal { .. } => State::CopyingFinal,
            Phase::RunningOn { .. } => State::RunningOn,
            Phase::Finished => State::Finished,
            Phase::Refused => State::Refused,
            Phase::Resumed => State::Resumed,
            Phase::Failed => State::Failed,
        }
    }

    /// The number of the current or last round; 0 is the full pass. The final round has no
    /// number.
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// The number of frames in the current or last round.
    pub const fn round_pages(&self) -> u64 {
        self.round_pages
    }

    /// The number of that round's pages that have been carried.
    pub const fn round_sent(&self) -> u64 {
        self.round_sent
    }

    /// The number of that round's pages that were all zero, and were not carried.
    pub const fn round_zeros(&self) -> u64 {
        self.round_zeros
    }

    /// The rounds that have ended, without the final round.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The number of pages that have been carried, over all rounds and the final one. Pages
    /// that are all zero are not carried.
    pub const fn pages_sent(&self) -> u64 {
        self.pages_sent
    }

    /// The number of dirty pages at the last count.
    pub const fn dirty_count(&self) -> Option<u64> {
        self.dirty_count
    }

    /// The service curve of the path to the destination.
    pub const fn service(&self) -> &ServiceCurve {
        &self.service
    }

    /// The bounds of the rate at which the path carries pages.
    pub fn transfer_rate(&self) -> Bounds<PageRate> {
        self.service.bounds()
    }

    /// The curve of how the guest dirties pages.
    pub const fn dirty(&self) -> &DirtyCurve {
        &self.dirty
    }

    /// The bounds of the rate at which the guest dirties pages.
    pub fn dirty_rate(&self) -> Bounds<PageRate> {
        self.dirty.bounds()
    }

    /// Upper bound of the pause. Before the suspend it assumes a request to stop at the
    /// last count; afterwards it uses the final bitmap. `None` before the first count.
    pub const fn prediction(&self) -> Option<Downtime> {
        self.prediction
    }

    /// The expected pause under the same assumptions. `None` before the first count.
    pub const fn expected(&self) -> Option<Downtime> {
        self.expected
    }

    /// The time for the final bitmap's pages by the path's curve, without a round trip, as
    /// it was when the guest had stopped: what [`LastPages`](crate::downtime::LastPages) is
    /// relative to. `None` before that, and for a path that was known under a cap only,
    /// which does not apply to these pages.
    ///
    /// Pages that turned out to be all zero have no share in it: a pause in which they were
    /// many would otherwise make the next one look short.
    pub fn last_pages_by_curve(&self) -> Option<Micros> {
        let all = self.last_pages_by_curve?;
        if self.round_zeros == 0 {
            return Some(all);
        }
        let carried = self.round_pages.saturating_sub(self.round_zeros);
        let time = all.0.checked_mul(carried)?.checked_div(self.round_pages)?;
        Some(Micros(time))
    }
}
