//! Stop, go on, or give up: the decision at the end of every round.

use crate::{
    downtime::{Downtime, Fit, Outlook},
    history::History,
    limits::DowntimeLimit,
    refusal::Hopeless,
    units::{Bounds, Micros, PageRate},
};

/// Which rule decides. Not a choice of its own: a limit asks for
/// [`WithinLimit`], and without one there is nothing to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PolicyKind {
    /// [`WithinLimit`]
    WithinLimit,
    /// [`XenDefault`]
    XenDefault,
}

/// What is known at the end of a round.
#[derive(Debug, Clone, Copy)]
pub struct RoundView<'a> {
    /// The round that just ended; 0 is the full pass.
    pub round: u32,
    /// Pages dirty now.
    pub dirty_count: u64,
    /// Upper bound of the pause if the guest is asked to stop now.
    pub prediction: Downtime,
    /// What the prediction was made from.
    pub outlook: Outlook,
    /// How fast the guest dirties pages.
    pub dirty_rate: Bounds<PageRate>,
    /// How fast the link carries them.
    pub transfer_rate: Bounds<PageRate>,
    /// What more than which is not sent while the guest runs.
    pub cap: Option<PageRate>,
    /// All rounds, the one that just ended last.
    pub history: &'a History,
    /// Rounds started although the guest could have been stopped before them.
    pub bonus_rounds: u32,
    /// Until the suspend request must be made; `None` without a timeout.
    pub time_left: Option<Micros>,
}

impl RoundView<'_> {
    /// What is sent in a round over a link of that rate.
    fn while_it_runs(&self, rate: PageRate) -> PageRate {
        self.cap.map_or(rate, |cap| rate.min(cap))
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Verdict {
    /// Ask the guest to stop.
    Suspend,
    /// Send what is dirty and look again.
    AnotherRound,
    /// No round will help.
    GiveUp(Hopeless),
}

/// A rule for when to stop a guest.
pub trait StopPolicy {
    /// Decides at the end of a round. Must not answer
    /// [`Verdict::AnotherRound`] for ever.
    fn decide(&self, view: &RoundView<'_>) -> Verdict;
}

/// Stops the guest only if the pause is predicted to stay within the limit.
///
/// 1. The prediction is within the limit: suspend, unless another round is
///    expected to take a tenth and a millisecond or more off the only part of
///    the pause it can shorten, sending the pages, there is time for it, and
///    fewer than [`BONUS_ROUNDS`](Self::BONUS_ROUNDS) were granted so. A limit
///    is no licence to use it up, nor is a long landing. What another round
///    brings is expected at the guest's worst, so a writer caught at a quiet
///    moment is not let go for a gain that its next burst takes back.
/// 2. It is beyond: give up if in each of the last rounds, two at least, the
///    guest dirtied as fast as the link carries at best, or as is sent at most,
///    or within a twentieth of it.
/// 3. Give up after [`MAX_ROUNDS`](Self::MAX_ROUNDS).
/// 4. Give up if the least prediction of the last
///    [`PATIENCE`](Self::PATIENCE) rounds is not a twentieth below the least of
///    all before. Minima, so that an oscillating writer is judged by its quiet
///    moments; and if those predictions differ by half or more, so that it is
///    one, the last [`LONG_PATIENCE`](Self::LONG_PATIENCE) rounds are judged. A
///    guest that never came near the limit is judged by the last
///    [`SHORT_PATIENCE`](Self::SHORT_PATIENCE).
/// 5. Else another round.
///
/// Left out: how long the guest's quiet moments last. One is used only if a
/// round happens to end in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct WithinLimit {
    /// The longest pause allowed.
    pub limit: DowntimeLimit,
}

impl WithinLimit {
    /// Rounds granted at most to a guest that could be stopped.
    pub const BONUS_ROUNDS: u32 = 3;
    /// Rounds at most, the full pass among them.
    pub const MAX_ROUNDS: u32 = 30;
    /// Rounds in which the prediction must have fallen.
    pub const PATIENCE: usize = 3;
    /// The same for a guest whose predictions go up and down.
    pub const LONG_PATIENCE: usize = 8;
    /// The same for a guest none of whose predictions came within
    /// [`REACH`](Self::REACH) times the limit: no quiet moment of it would help.
    pub const SHORT_PATIENCE: usize = 2;
    /// See [`SHORT_PATIENCE`](Self::SHORT_PATIENCE).
    pub const REACH: u64 = 4;
    /// A gain below this is not worth a round.
    const LEAST_GAIN: Micros = Micros::from_millis(1);

    /// Criterion 1: whether the guest, which could be stopped now, had better
    /// be stopped later.
    fn worth_another(view: &RoundView<'_>) -> bool {
        if view.bonus_rounds >= Self::BONUS_ROUNDS {
            return false;
        }
        let outlook = &view.outlook;
        let round_time = view
            .while_it_runs(outlook.transfer_rate)
            .time_for(view.dirty_count)
            .saturating_add(outlook.costs.final_bitmap);
        // Twice, so that a round slower than expected costs no timeout.
        let needed = round_time.saturating_add(round_time);
        if view.time_left.is_some_and(|left| left < needed) {
            return false;
        }
        let dirty_then = outlook
            .dirty_rate
            .pages_in(round_time)
            .min(outlook.guest_pages);
        let now = view.prediction.pages;
        let gain = now.since(outlook.predict(dirty_then).pages);
        gain >= Self::LEAST_GAIN.max(Micros(now.0 / 10))
    }

    /// Criterion 2: whether the guest dirties pages as fast as they are sent.
    fn is_outpaced(view: &RoundView<'_>) -> bool {
        let carried = view.while_it_runs(view.transfer_rate.upper).0;
        let nearly = carried.saturating_sub(carried / 20);
        view.history.len() >= 2 && view.dirty_rate.lower.0 >= nearly
    }

    /// Criterion 4: whether the predictions have stopped falling.
    fn has_stalled(&self, history: &History) -> bool {
        let predictions = || {
            history
                .iter()
                .rev()
                .map(|record| record.predicted_downtime.0)
        };
        let recent = || predictions().take(Self::PATIENCE);
        let (Some(least), Some(most)) = (recent().min(), recent().max()) else {
            return false;
        };
        let within_reach = self.limit.micros().0.saturating_mul(Self::REACH);
        let patience = if predictions().all(|predicted| predicted > within_reach) {
            Self::SHORT_PATIENCE
        } else if most.saturating_sub(least) >= least / 2 {
            Self::LONG_PATIENCE
        } else {
            Self::PATIENCE
        };
        let recent = predictions().take(patience).min();
        let before = predictions().skip(patience).min();
        match (recent, before) {
            (Some(recent), Some(before)) => recent > before.saturating_sub(before.div_ceil(20)),
            _ => false,
        }
    }
}

impl StopPolicy for WithinLimit {
    fn decide(&self, view: &RoundView<'_>) -> Verdict {
        if view.outlook.costs.fit(&view.prediction, self.limit) == Fit::Within {
            return if Self::worth_another(view) && view.round < Self::MAX_ROUNDS - 1 {
                Verdict::AnotherRound
            } else {
                Verdict::Suspend
            };
        }
        if Self::is_outpaced(view) {
            return Verdict::GiveUp(Hopeless::Outpaced);
        }
        if view.round >= Self::MAX_ROUNDS - 1 {
            return Verdict::GiveUp(Hopeless::TooManyRounds);
        }
        if self.has_stalled(view.history) {
            return Verdict::GiveUp(Hopeless::NoProgress);
        }
        Verdict::AnotherRound
    }
}

/// Stock Xen's rule, for attempts without a downtime limit: stop below 50
/// dirty pages or after 5 rounds (`simple_precopy_policy`,
/// `SPP_TARGET_DIRTY_COUNT` and `SPP_MAX_ITERATIONS` in
/// `tools/libs/guest/xg_sr_save.c`, 4.17).
///
/// Xen sends the last few pages in one more live pass before it suspends; here
/// they are part of the final round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct XenDefault;

impl XenDefault {
    /// Fewer dirty pages than this are left for the final round.
    pub const TARGET_DIRTY_COUNT: u64 = 50;
    /// Rounds at most, the full pass among them.
    pub const MAX_ROUNDS: u32 = 5;
}

impl StopPolicy for XenDefault {
    fn decide(&self, view: &RoundView<'_>) -> Verdict {
        if view.dirty_count < Self::TARGET_DIRTY_COUNT || view.round >= Self::MAX_ROUNDS - 1 {
            Verdict::Suspend
        } else {
            Verdict::AnotherRound
        }
    }
}
