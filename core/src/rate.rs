//! How fast the link carries pages and how fast the guest dirties them.
//!
//! A pause is predicted from the worst that is likely, so both estimators give
//! bounds: neither the mean, which is wrong half of the time, nor the last
//! sample, which a burst makes meaningless.

use heapless::Deque;

use crate::{
    batch::BATCH_PAGES,
    history::push_latest,
    units::{Bounds, Micros, PageRate},
};

/// Pages over the time they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Window {
    pages: u64,
    span: Micros,
}

impl Window {
    const EMPTY: Self = Self {
        pages: 0,
        span: Micros::ZERO,
    };

    const fn add(&mut self, pages: u64, span: Micros) {
        self.pages = self.pages.saturating_add(pages);
        self.span = self.span.saturating_add(span);
    }

    const fn floor(self) -> PageRate {
        PageRate::floor(self.pages, self.span)
    }

    const fn ceil(self) -> PageRate {
        PageRate::ceil(self.pages, self.span)
    }

    /// Of a window under way, what it must come to at least.
    fn at_least(self) -> PageRate {
        PageRate::ceil(self.pages, self.span.max(DirtyRate::WINDOW_SPAN))
    }
}

/// Bounds of what the link carries, from batches as they go to the stream.
///
/// Only busy time counts: what lies between two rounds says nothing about the
/// link. It is cut into windows of at least [`WINDOW_PAGES`](Self::WINDOW_PAGES)
/// and [`WINDOW_SPAN`](Self::WINDOW_SPAN), because a pipe or socket buffer
/// swallows a shorter burst at the speed of memory.
///
/// - lower: the slowest of the last [`WINDOWS`](Self::WINDOWS) windows, less a
///   sixteenth, since those seen are a sample and the next may be slower. The
///   window under way counts as soon as it is known to be slower, so a stall
///   lowers the bound while it lasts.
/// - upper: the fastest of them.
///
/// Until the first window is complete all there is so far stands for the
/// lower bound, and the upper bound is unknown.
///
/// While the operator [caps](Self::cap_at) what is sent, a window in which
/// sending was held back says neither that the link is as slow, nor, since
/// buffers run empty meanwhile, how fast it is: only that it carries that much,
/// and the cap at most. That stands for the lower bound where nothing better
/// was seen. A window that nothing held back is the link's own, slower than the
/// cap. Once the cap is gone, what the empty buffers swallow,
/// [`UNSETTLED`](Self::UNSETTLED) windows, is left out.
#[derive(Debug, Clone, Default)]
pub struct TransferRate {
    /// Of each window its rate, rounded either way: a bound is asked for more
    /// often than a window closes.
    windows: Deque<Bounds<PageRate>, { TransferRate::WINDOWS }>,
    open: Window,
    /// Up to when busy time is accounted for; `None` while nothing is sent.
    busy_until: Option<Micros>,
    cap: Option<PageRate>,
    /// Whether sending was held back in the open window.
    held: bool,
    /// What it carried at least, by the last window that was held back.
    at_least: PageRate,
    /// Windows still to be left out.
    unsettled: u32,
}

impl TransferRate {
    /// Pages of a window at least: a full batch, 4 MiB.
    pub const WINDOW_PAGES: u64 = BATCH_PAGES as u64;
    /// Busy time of a window at least.
    pub const WINDOW_SPAN: Micros = Micros::from_millis(20);
    /// Windows remembered.
    pub const WINDOWS: usize = 32;
    /// Windows left out once a cap is gone: 16 MiB, more than pipes, ssh and
    /// sockets hold together.
    pub const UNSETTLED: u32 = 4;

    /// Nothing sent yet.
    pub const fn new() -> Self {
        Self {
            windows: Deque::new(),
            open: Window::EMPTY,
            busy_until: None,
            cap: None,
            held: false,
            at_least: PageRate::ZERO,
            unsettled: 0,
        }
    }

    /// Not more than that is sent from now on; `None`: as much as goes.
    pub const fn cap_at(&mut self, cap: Option<PageRate>) {
        if self.cap.is_some() && cap.is_none() {
            self.unsettled = Self::UNSETTLED;
        }
        self.cap = cap;
        self.open = Window::EMPTY;
        self.held = false;
    }

    /// The cap in force.
    pub const fn cap(&self) -> Option<PageRate> {
        self.cap
    }

    /// Sending was held back since the batch before.
    pub const fn held_back(&mut self) {
        self.held = true;
    }

    /// Sending starts at `at`.
    pub const fn start(&mut self, at: Micros) {
        self.busy_until = Some(at);
    }

    /// It is `at` now; if something is being sent, it still is.
    pub const fn advance(&mut self, at: Micros) {
        if let Some(until) = self.busy_until {
            self.open.add(0, at.since(until));
            self.busy_until = Some(at);
        }
    }

    /// A batch of `pages` populated pages was written by `at`.
    pub fn sent(&mut self, at: Micros, pages: u64) {
        self.advance(at);
        self.open.add(pages, Micros::ZERO);
        if self.open.pages >= Self::WINDOW_PAGES && self.open.span >= Self::WINDOW_SPAN {
            let rate = Bounds {
                lower: self.open.floor(),
                upper: self.open.ceil(),
            };
            self.open = Window::EMPTY;
            let held = core::mem::take(&mut self.held);
            match self.cap {
                Some(cap) if held || rate.upper > cap => self.at_least = rate.lower.min(cap),
                None if self.unsettled > 0 => self.unsettled = self.unsettled.saturating_sub(1),
                _ => push_latest(&mut self.windows, rate),
            }
        }
    }

    /// Everything was sent by `at`.
    pub const fn stop(&mut self, at: Micros) {
        self.advance(at);
        self.busy_until = None;
    }

    /// What the link carries; see the type.
    pub fn bounds(&self) -> Bounds<PageRate> {
        let slowest = self.windows.iter().map(|rate| rate.lower).min();
        let fastest = self.windows.iter().map(|rate| rate.upper).max();
        let at_least = Some(self.at_least).filter(|rate| *rate > PageRate::ZERO);
        let lower = match (slowest.or(at_least), self.open_at_most()) {
            (Some(slowest), Some(open)) => slowest.min(open),
            (Some(slowest), None) => slowest,
            (None, _) => self.open.floor().min(self.cap.unwrap_or(PageRate::MAX)),
        };
        let lower = PageRate(lower.0.saturating_sub(lower.0.div_ceil(16)));
        Bounds {
            lower,
            upper: fastest.unwrap_or(PageRate::MAX).max(lower),
        }
    }

    /// What the open window can still come to, once it is long enough to tell.
    fn open_at_most(&self) -> Option<PageRate> {
        if self.open.span < Self::WINDOW_SPAN || self.held {
            return None;
        }
        // At best, the batch being written is complete this very moment.
        let under_way = match self.busy_until {
            Some(_) => Self::WINDOW_PAGES,
            None => 0,
        };
        let pages = self.open.pages.saturating_add(under_way);
        Some(PageRate::floor(pages, self.open.span))
    }
}

/// Bounds of how fast the guest dirties pages, from counts of the pages dirty
/// since the last bitmap was taken.
///
/// A page counts once however often it is written, so over a long round the
/// count saturates at the guest's working set and hides the true rate. Windows
/// of [`WINDOW_SPAN`](Self::WINDOW_SPAN) see it best while they are few pages
/// into that set; shorter ones see little but the guest's scheduling.
///
/// - upper: the busiest window of the last [`ROUNDS`](Self::ROUNDS) rounds that
///   had one. Rounds too short for a window share one; what a longer round has
///   left of one ends with it.
/// - lower: the least average of the last [`ROUNDS`](Self::ROUNDS) rounds.
#[derive(Debug, Clone, Default)]
pub struct DirtyRate {
    /// The busiest window of each of the last rounds that had one.
    peaks: Deque<PageRate, { DirtyRate::ROUNDS }>,
    /// The busiest of the round under way.
    peak: Option<PageRate>,
    averages: Deque<PageRate, { DirtyRate::ROUNDS }>,
    open: Window,
    /// The last round had a window of its own; what follows it is its rest.
    ended: bool,
    round_start: Micros,
    counted_at: Micros,
    count: u64,
}

impl DirtyRate {
    /// Length of a window at least.
    pub const WINDOW_SPAN: Micros = Micros::from_millis(50);
    /// Rounds remembered.
    pub const ROUNDS: usize = 4;

    /// Nothing counted yet.
    pub const fn new() -> Self {
        Self {
            peaks: Deque::new(),
            peak: None,
            averages: Deque::new(),
            open: Window::EMPTY,
            ended: false,
            round_start: Micros::ZERO,
            counted_at: Micros::ZERO,
            count: 0,
        }
    }

    /// A bitmap was taken by `at`: the hypervisor counts from zero again.
    pub fn restart(&mut self, at: Micros) {
        self.round_start = at;
        self.counted_at = at;
        self.count = 0;
        if core::mem::take(&mut self.ended) {
            // Saturated by now, it would hide what this round begins with.
            let rest = core::mem::replace(&mut self.open, Window::EMPTY).at_least();
            let rest = self.peak.take().map_or(rest, |peak| peak.max(rest));
            if let Some(latest) = self.peaks.back_mut() {
                *latest = rest.max(*latest);
            }
        }
    }

    /// `count` pages are dirty at `at`.
    pub fn counted(&mut self, at: Micros, count: u64) {
        let new = count.saturating_sub(self.count);
        self.open.add(new, at.since(self.counted_at));
        self.counted_at = at;
        self.count = count;
        if self.open.span >= Self::WINDOW_SPAN {
            self.peak = self.peak.max(Some(self.open.ceil()));
            self.open = Window::EMPTY;
        }
    }

    /// The round ends at `at` with `count` pages dirty.
    pub fn round_ended(&mut self, at: Micros, count: u64) {
        self.counted(at, count);
        let average = PageRate::floor(count, at.since(self.round_start));
        push_latest(&mut self.averages, average);
        if let Some(peak) = self.peak.take() {
            push_latest(&mut self.peaks, peak);
            self.ended = true;
        }
    }

    /// How fast the guest dirties pages; see the type.
    pub fn bounds(&self) -> Bounds<PageRate> {
        let lower = self.averages.iter().copied().min().unwrap_or_default();
        let upper = match self.peaks.iter().copied().max().max(self.peak) {
            Some(peak) => peak.max(self.open.at_least()),
            None if self.open.span > Micros::ZERO => self.open.ceil(),
            None => PageRate::MAX,
        };
        Bounds {
            lower,
            upper: upper.max(lower),
        }
    }
}
