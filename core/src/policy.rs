//! The decision at the end of every round: stop, continue or give up.

use crate::{
    downtime::{Downtime, DowntimeModel, Fit, Forecast},
    history::History,
    holds::Held,
    limits::DowntimeLimit,
    refusal::NotConverging,
    units::Micros,
};

/// The rule that decides. It is not a separate setting: a downtime limit selects
/// [`WithinLimit`]; without one there is no limit to keep, and [`XenDefault`] applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PolicyKind {
    /// [`WithinLimit`]
    WithinLimit,
    /// [`XenDefault`]
    XenDefault,
}

/// The state of the attempt at the end of a round.
#[derive(Debug, Clone)]
pub struct RoundView<'a> {
    /// The round that just ended; 0 is the full pass.
    pub round: u32,
    /// The number of pages dirty now.
    pub dirty_count: u64,
    /// The pause if the guest is asked to stop now.
    pub forecast: Forecast,
    /// The expected length of another round, and the pause expected after it.
    pub another_round: (Micros, Downtime),
    /// The model from which all of these were computed.
    pub model: DowntimeModel<'a>,
    /// All rounds; the one that just ended comes last.
    pub history: &'a History,
    /// The number of pages sent so far, over all rounds.
    pub pages_sent: u64,
    /// The number of consecutive rounds, up to now, that achieved less than half of what
    /// was expected of them.
    pub disappointments: u32,
    /// Why the guest is better not stopped before another round.
    pub held: Held,
    /// The time left to make the suspend request; `None` without a timeout.
    pub time_left: Option<Micros>,
}

/// The decision at the end of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Verdict {
    /// Ask the guest to stop.
    Suspend,
    /// Send the dirty pages, then decide again.
    AnotherRound,
    /// Give up, because no further round will help.
    GiveUp(NotConverging),
}

/// A rule that decides when to stop a guest.
pub trait StopPolicy {
    /// Decides at the end of a round. Must not return [`Verdict::AnotherRound`] forever.
    fn decide(&self, view: &RoundView<'_>) -> Verdict;
}

/// Stops the guest only if the pause is predicted to stay within the limit, at the
/// risk stated; and not before its best moment.
///
/// Two questions, two answers. *May the guest be stopped?* is asked of the upper bound.
/// *Is another round worth it?* is asked of what is expected: a limit is no licence to
/// use it up.
///
/// 1. It may be stopped: suspend, unless another round is worth it. It is while
///    - no round has gone yet the way that the last pages will go, or the guest's memory
///      size has changed since the last bitmap; or
///    - Xen's own rule would go on, and the round is not expected to leave more; or
///    - it is expected to shorten the pause by a tenth and a millisecond or more, and
///      the last two rounds kept at least half of what they promised.
///
///    And only while there is time for it, twice over; within
///    [`MAX_ROUNDS`](Self::MAX_ROUNDS); and while no more than [`TRAFFIC`](Self::TRAFFIC)
///    times the guest's memory would have been sent.
/// 2. It may not: give up if in each of the last rounds, two at least, the
///    guest dirtied as fast as the link carries at best, or as is sent at most,
///    or within a twentieth of it.
/// 3. Give up after [`MAX_ROUNDS`](Self::MAX_ROUNDS).
/// 4. Give up if the least expectation of the last
///    [`STALL_WINDOW`](Self::STALL_WINDOW) rounds is not a twentieth below the least of
///    all before. Minima, so that an oscillating writer is judged by its quiet
///    moments; and if those expectations differ by half or more, so that it is
///    one, or if one of them kept the limit, so that only the bound is in the way,
///    which may fade, the last [`OSCILLATING_WINDOW`](Self::OSCILLATING_WINDOW) rounds are judged.
///    A guest that never came near the limit is judged by the last
///    [`OUT_OF_REACH_WINDOW`](Self::OUT_OF_REACH_WINDOW).
/// 5. Else another round.
///
/// Where criterion 3 or 4 would give up, a guest is tried all the same if only the last of
/// the bound is in the way: see [`is_worth_a_try`](Self::is_worth_a_try).
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
    /// The largest number of rounds, including the full pass.
    pub const MAX_ROUNDS: u32 = 30;
    /// The most traffic, in multiples of the guest's memory, that may be spent on a shorter
    /// pause once the guest may be stopped.
    pub const TRAFFIC: u64 = 4;
    /// The number of consecutive rounds that may disappoint.
    pub const MAX_DISAPPOINTMENTS: u32 = 2;
    /// The number of rounds within which the expected pause must have fallen.
    pub const STALL_WINDOW: usize = 3;
    /// The same for a guest whose expected pauses go up and down.
    pub const OSCILLATING_WINDOW: usize = 8;
    /// The same for a guest whose expected pauses never came within [`REACH`](Self::REACH)
    /// times the limit: no quiet moment of such a guest would help.
    pub const OUT_OF_REACH_WINDOW: usize = 2;
    /// See [`OUT_OF_REACH_WINDOW`](Self::OUT_OF_REACH_WINDOW).
    pub const REACH: u64 = 4;
    /// See [`is_worth_a_try`](Self::is_worth_a_try): per mille of the way from the bound to
    /// the expectation, at most.
    const MOST_CONCEDED: u64 = 600;
    /// See [`is_worth_a_try`](Self::is_worth_a_try): the share of that way, in risks.
    const CONCEDED: u64 = 12;
    /// A gain below this is not worth a round.
    const LEAST_GAIN: Micros = Micros::from_millis(1);

    /// Criterion 1: whether a guest that could be stopped now is better stopped later.
    fn worth_another(view: &RoundView<'_>) -> bool {
        let model = &view.model;
        let (length, then) = view.another_round;
        // Twice, so that a round slower than expected does not run into the timeout.
        let needed = length.saturating_add(length);
        let in_time = view.time_left.is_none_or(|left| left >= needed);
        if !in_time || view.round >= Self::MAX_ROUNDS.saturating_sub(1) {
            return false;
        }
        if view.held.any() {
            return true;
        }
        let most = model.guest_pages.saturating_mul(Self::TRAFFIC);
        if view.pages_sent.saturating_add(view.dirty_count) > most {
            return false;
        }
        let (now, then) = (view.forecast.expected.total(), then.total());
        let gain = now.since(then);
        let by_xens_rule = !XenDefault::stops(view) && then <= now;
        let keeps_promises = view.disappointments < Self::MAX_DISAPPOINTMENTS;
        by_xens_rule || keeps_promises && gain >= Self::LEAST_GAIN.max(Micros(now.0 / 10))
    }

    /// Whether a guest that no further round helps is asked to stop although the pause's
    /// bound does not fit.
    ///
    /// Most guests are stopped with far more room than the risk asks for, so fewer pauses
    /// are given up than may be. What is left of the risk is spent here, on guests that
    /// would be refused. The bound may be in the way by twelve risks of its distance from what
    /// is expected, by three fifths of it at most. Without a risk it may not be in the way.
    pub fn is_worth_a_try(self, view: &RoundView<'_>) -> bool {
        if view.held.any() {
            return false;
        }
        let Forecast { at_most, expected } = &view.forecast;
        let unlikely = at_most.pages.since(expected.pages);
        let risk = u64::from(view.model.risk.get());
        let conceded = Self::MOST_CONCEDED.min(risk.saturating_mul(Self::CONCEDED));
        let conceded = Micros(unlikely.0.saturating_mul(conceded) / 1_000);
        let likely = Downtime {
            pages: at_most.pages.since(conceded),
            ..*at_most
        };
        view.model.costs.fit(&likely, self.limit) == Fit::Within
    }

    /// What to do if no further round helps. Xen's own rule comes first: the guest is not
    /// tried with more pages left than Xen would leave.
    fn give_up(self, view: &RoundView<'_>, why: NotConverging) -> Verdict {
        match self.is_worth_a_try(view) {
            true if XenDefault::stops(view) => Verdict::Suspend,
            true => Verdict::AnotherRound,
            false => Verdict::GiveUp(why),
        }
    }

    /// Criterion 2: whether the guest dirties pages as fast as they are sent.
    fn is_dirty_rate_too_high(view: &RoundView<'_>) -> bool {
        let model = &view.model;
        let carried = model.service.bounds().upper;
        let carried = model.cap.map_or(carried, |cap| carried.min(cap)).0;
        let nearly = carried.saturating_sub(carried / 20);
        view.history.len() >= 2 && model.dirty.bounds().lower.0 >= nearly
    }

    /// Criterion 4: whether the expected pauses have stopped falling.
    fn has_stalled(&self, history: &History) -> bool {
        let expected = || {
            history
                .iter()
                .rev()
                .map(|record| record.expected_downtime.0)
        };
        let recent = || expected().take(Self::STALL_WINDOW);
        let (Some(least), Some(most)) = (recent().min(), recent().max()) else {
            return false;
        };
        let limit = self.limit.micros().0;
        let within_reach = limit.saturating_mul(Self::REACH);
        let patience = if expected().all(|expected| expected > within_reach) {
            Self::OUT_OF_REACH_WINDOW
        } else if most.saturating_sub(least) >= least / 2 || least <= limit {
            Self::OSCILLATING_WINDOW
        } else {
            Self::STALL_WINDOW
        };
        let recent = expected().take(patience).min();
        let before = expected().skip(patience).min();
        match (recent, before) {
            (Some(recent), Some(before)) => recent > before.saturating_sub(before.div_ceil(20)),
            _ => false,
        }
    }
}

impl StopPolicy for WithinLimit {
    fn decide(&self, view: &RoundView<'_>) -> Verdict {
        if view.model.costs.fit(&view.forecast.at_most, self.limit) == Fit::Within {
            return match Self::worth_another(view) {
                true => Verdict::AnotherRound,
                false => Verdict::Suspend,
            };
        }
        if Self::is_dirty_rate_too_high(view) {
            return Verdict::GiveUp(NotConverging::DirtyRateTooHigh);
        }
        if view.round >= Self::MAX_ROUNDS - 1 {
            return self.give_up(view, NotConverging::TooManyRounds);
        }
        if self.has_stalled(view.history) {
            return self.give_up(view, NotConverging::Stalled);
        }
        Verdict::AnotherRound
    }
}

/// Stock Xen's rule, for attempts without a downtime limit: stop below 50 dirty pages or
/// after 5 rounds (`simple_precopy_policy`, `SPP_TARGET_DIRTY_COUNT` and
/// `SPP_MAX_ITERATIONS` in `tools/libs/guest/xg_sr_save.c`, 4.17).
///
/// Xen sends the last few pages in one more live pass before it suspends. Here they are
/// part of the final round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct XenDefault;

impl XenDefault {
    /// Fewer dirty pages than this are left to the final round.
    pub const TARGET_DIRTY_COUNT: u64 = 50;
    /// The largest number of rounds, including the full pass.
    pub const MAX_ROUNDS: u32 = 5;

    const fn stops(view: &RoundView<'_>) -> bool {
        view.dirty_count < Self::TARGET_DIRTY_COUNT || view.round >= Self::MAX_ROUNDS - 1
    }
}

impl StopPolicy for XenDefault {
    fn decide(&self, view: &RoundView<'_>) -> Verdict {
        match Self::stops(view) {
            true => Verdict::Suspend,
            false => Verdict::AnotherRound,
        }
    }
}
