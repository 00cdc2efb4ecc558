//! How a guest dirties its pages: curves, built from counts of the pages dirty since the
//! last bitmap was taken.
//!
//! A page counts once however often it is written, so the count flattens as it approaches
//! the guest's working set. A single rate would lose that shape; a curve over several
//! lengths of time keeps it.

use heapless::Deque;

use crate::{
    history::push_latest,
    units::{Bounds, Micros, PageRate},
};

/// The number of rounds remembered.
const ROUNDS: usize = 4;

/// The number of window lengths, each twice the one before: 50 ms to 51 s.
const LENGTHS: usize = 11;

/// Newly dirtied pages, and the time in which they were dirtied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Window {
    pages: u64,
    span: Micros,
}

impl Window {
    const EMPTY: Self = Self {
        pages: 0,
        span: Micros::ZERO,
    };

    const fn ceil(self) -> PageRate {
        PageRate::ceil(self.pages, self.span)
    }
}

/// The busiest windows of one length.
///
/// Rounds shorter than a window share one. The rest of a longer round, after its last full
/// window, is discarded at the round's end: the guest's writes are saturated by then, and
/// the rest would hide the burst at the start of the next round.
#[derive(Debug, Clone, Default)]
struct Busiest {
    length: Micros,
    /// The peak of each of the last rounds that completed a window.
    peaks: Deque<PageRate, ROUNDS>,
    /// The peak of the current round.
    peak: Option<PageRate>,
    open: Window,
    /// Whether the last round completed a window; what follows in it is discarded at its
    /// end.
    ended: bool,
}

impl Busiest {
    const fn of(length: Micros) -> Self {
        Self {
            length,
            peaks: Deque::new(),
            peak: None,
            open: Window::EMPTY,
            ended: false,
        }
    }

    /// The rate that the open window has already reached.
    fn at_least(&self) -> PageRate {
        PageRate::ceil(self.open.pages, self.open.span.max(self.length))
    }

    fn restart(&mut self) {
        if core::mem::take(&mut self.ended) {
            let rest = self.at_least();
            self.open = Window::EMPTY;
            let rest = self.peak.take().map_or(rest, |peak| peak.max(rest));
            if let Some(latest) = self.peaks.back_mut() {
                *latest = rest.max(*latest);
            }
        }
    }

    fn add(&mut self, pages: u64, span: Micros) {
        self.open.pages = self.open.pages.saturating_add(pages);
        self.open.span = self.open.span.saturating_add(span);
        if self.open.span >= self.length {
            self.peak = self.peak.max(Some(self.open.ceil()));
            self.open = Window::EMPTY;
        }
    }

    fn round_ended(&mut self) {
        if let Some(peak) = self.peak.take() {
            push_latest(&mut self.peaks, peak);
            self.ended = true;
        }
    }

    /// The busiest rate remembered. `None` before the first window.
    fn rate(&self) -> Option<PageRate> {
        let peak = self.peaks.iter().copied().max().max(self.peak)?;
        Some(peak.max(self.at_least()))
    }

    /// Upper bound of the pages dirtied in any `span`, from the number of windows of this
    /// length that the span can touch.
    fn pages_in(&self, span: Micros) -> Option<u64> {
        let each = self.rate()?.pages_in(self.length);
        let times = span.0.div_ceil(self.length.0.max(1)).saturating_add(1);
        Some(each.saturating_mul(times))
    }
}

/// One round: the number of pages dirty at given times after its bitmap.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// The count at each of the lengths, as far as the round lasted.
    pages: [u64; LENGTHS],
    reached: usize,
    end: Window,
}

impl Round {
    const EMPTY: Self = Self {
        pages: [0; LENGTHS],
        reached: 0,
        end: Window::EMPTY,
    };

    fn counted(&mut self, span: Micros, pages: u64) {
        for (place, slot) in self.pages.iter_mut().enumerate().skip(self.reached) {
            if length(place) > span {
                break;
            }
            // Between two counts, assume that it grew evenly.
            let (from, before) = (self.end.span, self.end.pages);
            *slot = between((from, before), (span, pages), length(place));
            self.reached = place.saturating_add(1);
        }
        self.end = Window { pages, span };
    }

    /// Pages dirty after `span` if the round is like this one. Beyond the round's end the
    /// growth of its second half continues.
    fn at(&self, span: Micros) -> u64 {
        let end = (self.end.span, self.end.pages);
        if span >= self.end.span {
            let half = Micros(self.end.span.0 / 2);
            let before = (half, self.within(half));
            return between(before, end, span);
        }
        self.within(span)
    }

    /// Pages that this round adds in another `span` if it goes on like the other one: as many
    /// as that one added then, and, if this one is ahead of it, at most as many again.
    fn grows_like(&self, other: &Self, span: Micros) -> u64 {
        let now = self.end;
        let before = other.at(now.span);
        let then = now.span.saturating_add(span);
        let grown = other.at(then).saturating_sub(before);
        let ahead = now.pages.saturating_sub(before);
        grown.saturating_add(ahead.min(grown))
    }

    fn within(&self, span: Micros) -> u64 {
        let mut below = (Micros::ZERO, 0);
        for (place, pages) in self.pages.iter().enumerate().take(self.reached) {
            let point = (length(place), *pages);
            if point.0 > span {
                return between(below, point, span);
            }
            below = point;
        }
        between(below, (self.end.span, self.end.pages), span)
    }
}

/// Interpolates on the straight line through two points, or extrapolates beyond them.
fn between(from: (Micros, u64), to: (Micros, u64), at: Micros) -> u64 {
    let run = to.0.since(from.0);
    if run == Micros::ZERO {
        return to.1;
    }
    let rise = PageRate::ceil(to.1.saturating_sub(from.1), run);
    from.1.saturating_add(rise.pages_in(at.since(from.0)))
}

const fn length(place: usize) -> Micros {
    let shift = if place < LENGTHS { place } else { LENGTHS };
    // At most 2^11 times 50 ms, so this does not overflow.
    Micros(
        DirtyCurve::WINDOW_SPAN
            .0
            .saturating_mul(1_u64.wrapping_shl(shift as u32)),
    )
}

/// How the guest dirties pages, from the last [`ROUNDS`](Self::ROUNDS) rounds.
#[derive(Debug, Clone)]
pub struct DirtyCurve {
    busiest: [Busiest; LENGTHS],
    averages: Deque<PageRate, ROUNDS>,
    rounds: Deque<Round, ROUNDS>,
    /// The newest round of at least [`LONG`](Self::LONG).
    long: Round,
    round: Round,
    round_start: Micros,
    counted_at: Micros,
    count: u64,
}

impl Default for DirtyCurve {
    fn default() -> Self {
        Self::new()
    }
}

impl DirtyCurve {
    /// The shortest window. A shorter one would mostly measure the guest's scheduling.
    pub const WINDOW_SPAN: Micros = Micros::from_millis(50);
    /// The number of rounds remembered.
    pub const ROUNDS: usize = ROUNDS;

    /// A round that lasts so long is remembered until another one does: the guest takes less
    /// time to stop.
    const LONG: Micros = Micros::from_millis(800);

    /// A curve without any counts.
    pub const fn new() -> Self {
        Self {
            busiest: [
                Busiest::of(length(0)),
                Busiest::of(length(1)),
                Busiest::of(length(2)),
                Busiest::of(length(3)),
                Busiest::of(length(4)),
                Busiest::of(length(5)),
                Busiest::of(length(6)),
                Busiest::of(length(7)),
                Busiest::of(length(8)),
                Busiest::of(length(9)),
                Busiest::of(length(10)),
            ],
            averages: Deque::new(),
            rounds: Deque::new(),
            long: Round::EMPTY,
            round: Round::EMPTY,
            round_start: Micros::ZERO,
            counted_at: Micros::ZERO,
            count: 0,
        }
    }

    /// A bitmap was taken by `at`, and the hypervisor counts from zero again.
    pub fn restart(&mut self, at: Micros) {
        self.round_start = at;
        self.counted_at = at;
        self.count = 0;
        self.round = Round::EMPTY;
        for busiest in &mut self.busiest {
            busiest.restart();
        }
    }

    /// `count` pages are dirty at `at`.
    pub fn counted(&mut self, at: Micros, count: u64) {
        let new = count.saturating_sub(self.count);
        let span = at.since(self.counted_at);
        for busiest in &mut self.busiest {
            busiest.add(new, span);
        }
        self.round.counted(at.since(self.round_start), count);
        self.counted_at = at;
        self.count = count;
    }

    /// The round ends at `at` with `count` pages dirty.
    pub fn round_ended(&mut self, at: Micros, count: u64) {
        self.counted(at, count);
        let average = PageRate::floor(count, at.since(self.round_start));
        push_latest(&mut self.averages, average);
        push_latest(&mut self.rounds, self.round);
        if self.round.end.span >= Self::LONG {
            self.long = self.round;
        }
        for busiest in &mut self.busiest {
            busiest.round_ended();
        }
    }

    /// Upper bound of the pages dirtied in any `span`: from the busiest of the shortest
    /// windows or from consecutive longer windows, whichever gives less. The bound
    /// therefore flattens as the counts did. [`u64::MAX`] while nothing is known.
    pub fn at_most(&self, span: Micros) -> u64 {
        let straight = self.bounds().upper.pages_in(span);
        let longer = self.busiest.iter().skip(1);
        let longer = longer.filter_map(|busiest| busiest.pages_in(span)).min();
        longer.map_or(straight, |pages| pages.min(straight))
    }

    /// Pages expected to be dirty `span` after a bitmap, as in the last rounds.
    pub fn expected_after_bitmap(&self, span: Micros) -> u64 {
        let last = self.rounds.iter().rev().take(2);
        let (mut sum, mut count) = (0_u64, 0_u64);
        for round in last {
            sum = sum.saturating_add(round.at(span));
            count = count.saturating_add(1);
        }
        match sum.checked_div(count) {
            Some(pages) => pages,
            None => self.round.at(span),
        }
    }

    /// Pages that this round is expected to add in another `span`: as many as the newest
    /// round [like](Self::like) this one added at that time after its bitmap. If this round is
    /// ahead of that one, it is expected to gain as much again, but no more than twice as much
    /// as that one. If there is none, this round goes on as in its second half.
    pub fn expected_more(&self, span: Micros) -> u64 {
        let round = self.under_way();
        let like = self.like(&round, span).unwrap_or(round);
        // A very short round that goes on as it began would exceed all that was seen.
        round.grows_like(&like, span).min(self.at_most(span))
    }

    /// Upper bound of the pages that this round adds in another `span`, at a risk.
    ///
    /// Each bitmap is followed by a burst: what is written all the time becomes dirty again.
    /// [`at_most`](Self::at_most) includes it, once for each short round in a window. But the
    /// burst of this round is over. If this round is a short one and a longer one was
    /// [like](Self::like) it, the bound is twice what is expected, unless
    /// [`at_most`](Self::at_most) is less.
    pub fn at_most_more(&self, span: Micros) -> u64 {
        let at_most = self.at_most(span);
        let round = self.under_way();
        let is_short = round.end.span <= span.saturating_add(span);
        match self.like(&round, span) {
            Some(like) if is_short => at_most.min(round.grows_like(&like, span).saturating_mul(2)),
            _ => at_most,
        }
    }

    /// The current round or, if nothing was counted in it yet, the one before.
    fn under_way(&self) -> Round {
        match self.round.end.span {
            Micros::ZERO => self.rounds.back().copied().unwrap_or_default(),
            _ => self.round,
        }
    }

    /// The newest round that lasted for another `span` and in which the guest was about as busy
    /// as in `round`: it had dirtied half as many pages at least. The first 50 ms show only that
    /// there was a burst.
    fn like(&self, round: &Round, span: Micros) -> Option<Round> {
        let now = round.end;
        let then = now.span.saturating_add(span);
        let seen = now.span.max(Self::WINDOW_SPAN);
        let is_like = |other: &&Round| {
            other.end.span >= then && other.at(seen).saturating_mul(2) >= now.pages
        };
        let older = self.rounds.iter().rev().chain(Some(&self.long));
        older.into_iter().find(is_like).copied()
    }

    /// Bounds of the dirty rate: the lowest average of the last rounds, and the busiest
    /// window of [`WINDOW_SPAN`](Self::WINDOW_SPAN).
    pub fn bounds(&self) -> Bounds<PageRate> {
        let lower = self.averages.iter().copied().min().unwrap_or_default();
        let [shortest, ..] = &self.busiest;
        let upper = match shortest.rate() {
            Some(rate) => rate,
            None if shortest.open.span > Micros::ZERO => shortest.open.ceil(),
            None => PageRate::MAX,
        };
        Bounds {
            lower,
            upper: upper.max(lower),
        }
    }
}
