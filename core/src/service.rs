//! What the path to the destination carries: a service curve, from what was sent.
//!
//! A rate cannot tell a link that is slow from one that stalls now and then. So what
//! was sent is remembered in windows, and the question is not "how fast?" but "how
//! long do so many pages in a row take?". A stall costs those pages that it hits what
//! it cost, once, and no others. (Service curves: Cruz 1991; Le Boudec and Thiran,
//! Network Calculus, 2001.)

use heapless::{Deque, Vec};

use crate::{
    batch::BATCH_PAGES,
    history::push_latest,
    limits::Risk,
    units::{Bounds, Micros, PageRate},
};

/// Pages in a row, and the time they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Stretch {
    /// Pages.
    pub pages: u64,
    /// Time that the path was busy with them.
    pub span: Micros,
    /// The round in which they began; 0 is the full pass.
    pub round: u32,
}

impl Stretch {
    const fn add(&mut self, pages: u64, span: Micros) {
        self.pages = self.pages.saturating_add(pages);
        self.span = self.span.saturating_add(span);
    }

    fn is_slower_than(self, other: Self) -> bool {
        let product = |a: Self, b: Self| u128::from(a.span.0).saturating_mul(b.pages.into());
        other.pages == 0 || product(self, other) > product(other, self)
    }

    /// How long `pages` take, as many of these in a row as are needed.
    fn repeated(self, pages: u64) -> Micros {
        let whole = self.pages.max(1);
        let times = pages.checked_div(whole).unwrap_or(0);
        let rest = pages.checked_rem(whole).unwrap_or(0);
        Micros(self.span.0.saturating_mul(times)).saturating_add(self.share(rest))
    }

    /// What so many of its pages took, at its own average. A stretch of no pages has
    /// taken its whole time for whatever comes.
    fn share(self, pages: u64) -> Micros {
        if pages >= self.pages {
            return self.span;
        }
        match self.span.0.checked_mul(pages) {
            Some(product) => Micros(product.div_ceil(self.pages)),
            None => self.span,
        }
    }
}

/// What the path carries, from batches as they are handed to it.
///
/// Only busy time counts: what lies between two rounds says nothing about the path.
/// It is cut into windows of at least [`WINDOW_PAGES`](Self::WINDOW_PAGES) and
/// [`WINDOW_SPAN`](Self::WINDOW_SPAN), because a pipe or socket buffer swallows a
/// shorter burst at the speed of memory. The last [`WINDOWS`](Self::WINDOWS) are
/// remembered, so that what an early stretch says fades.
///
/// While the operator [caps](Self::cap_at) what is sent, a window in which sending
/// was held back says neither that the path is as slow, nor, since buffers run empty
/// meanwhile, how fast it is: only that it carries that much, and the cap at most.
/// That stands for the path where nothing better was seen. A window that nothing held
/// back is the path's own. Once the cap is gone, what the empty buffers swallow,
/// [`UNSETTLED`](Self::UNSETTLED) windows, is left out.
#[derive(Debug, Clone, Default)]
pub struct ServiceCurve {
    windows: Deque<Stretch, { ServiceCurve::WINDOWS }>,
    open: Stretch,
    /// Of the open window's time, what has gone by since the last batch.
    waiting: Micros,
    round: u32,
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

impl ServiceCurve {
    /// Pages of a window at least: a full batch, 4 MiB.
    pub const WINDOW_PAGES: u64 = BATCH_PAGES as u64;
    /// Busy time of a window at least.
    pub const WINDOW_SPAN: Micros = Micros::from_millis(20);
    /// Windows remembered: 256 MiB at least.
    pub const WINDOWS: usize = 64;
    /// Of those, the newest so many are what is expected.
    pub const RECENT: usize = 16;
    /// Windows left out once a cap is gone: 16 MiB, more than pipes, ssh and
    /// sockets hold together.
    pub const UNSETTLED: u32 = 4;

    /// Nothing sent yet.
    pub const fn new() -> Self {
        Self {
            windows: Deque::new(),
            open: Stretch {
                pages: 0,
                span: Micros::ZERO,
                round: 0,
            },
            waiting: Micros::ZERO,
            round: 0,
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
        self.clear_open();
    }

    /// The cap in force.
    pub const fn cap(&self) -> Option<PageRate> {
        self.cap
    }

    /// Sending was held back since the batch before.
    pub const fn held_back(&mut self) {
        self.held = true;
    }

    /// From now on pages go another way. What the old one carried stands only until
    /// the new one has carried a window of its own.
    pub fn path_changed(&mut self) {
        let seen = self.expected_rate();
        self.windows.clear();
        self.clear_open();
        self.at_least = seen;
    }

    const fn clear_open(&mut self) {
        self.open = Stretch {
            pages: 0,
            span: Micros::ZERO,
            round: self.round,
        };
        self.waiting = Micros::ZERO;
        self.held = false;
    }

    /// Sending starts at `at`, for that round.
    pub const fn start(&mut self, at: Micros, round: u32) {
        self.busy_until = Some(at);
        self.round = round;
        if self.open.pages == 0 {
            self.open.round = round;
        }
    }

    /// It is `at` now; if something is being sent, it still is.
    pub const fn advance(&mut self, at: Micros) {
        if let Some(until) = self.busy_until {
            let span = at.since(until);
            self.open.add(0, span);
            self.waiting = self.waiting.saturating_add(span);
            self.busy_until = Some(at);
        }
    }

    /// A batch of `pages` populated pages was taken by the path by `at`.
    pub fn sent(&mut self, at: Micros, pages: u64) {
        self.advance(at);
        self.open.add(pages, Micros::ZERO);
        self.waiting = Micros::ZERO;
        if self.open.pages < Self::WINDOW_PAGES || self.open.span < Self::WINDOW_SPAN {
            return;
        }
        let window = self.open;
        let held = self.held;
        self.clear_open();
        let rate = PageRate::floor(window.pages, window.span);
        match self.cap {
            Some(cap) if held || rate > cap => self.at_least = rate.min(cap),
            None if self.unsettled > 0 => self.unsettled = self.unsettled.saturating_sub(1),
            _ => push_latest(&mut self.windows, window),
        }
    }

    /// Everything was sent by `at`.
    pub const fn stop(&mut self, at: Micros) {
        self.advance(at);
        self.busy_until = None;
    }

    /// How long `pages` will take at most: as long as that many took in a row, but for
    /// the `risk`'s share of the stretches remembered. What was sent last is never left out, so a path that
    /// has become slow, or stalls at this moment, is seen. [`Micros::MAX`] while
    /// nothing is known.
    pub fn worst(&self, pages: u64, risk: Risk) -> Micros {
        if pages == 0 {
            return Micros::ZERO;
        }
        let basis = self.basis(pages, risk);
        basis.map_or_else(
            || self.at_least.time_for(pages),
            |basis| basis.repeated(pages),
        )
    }

    /// How long `pages` take if the path goes on exactly as it does at this moment: as
    /// long as the last so many pages took. A path that has become slow, or stalls, is no
    /// risk but a fact. Zero while nothing is remembered.
    pub fn as_of_now(&self, pages: u64) -> Micros {
        let pages_known = pages.min(self.known().pages);
        match pages_known {
            0 => Micros::ZERO,
            known => self.latest(known).repeated(pages),
        }
    }

    /// What [`worst`](Self::worst) rests on: the stretch of that many pages, or of all
    /// that is remembered if that is less. `None` while nothing is.
    pub fn basis(&self, pages: u64, risk: Risk) -> Option<Stretch> {
        let known = self.known();
        let pages = pages.min(known.pages);
        if pages == 0 {
            return None;
        }
        // Two ends that move along the windows. `inside` has all whole windows between
        // them: the last may be needed in part only.
        let mut slowest = Slowest::of(risk.share_of(Self::WINDOWS as u64).saturating_add(1));
        let mut ends = self.stretches();
        let mut inside = Stretch::default();
        let mut last = Stretch::default();
        let mut latest = Stretch::default();
        let mut count = 0_u64;
        'starts: for start in self.stretches() {
            while inside.pages < pages {
                let Some(next) = ends.next() else {
                    break 'starts;
                };
                inside.add(next.pages, next.span);
                last = next;
            }
            let surplus = inside.pages.saturating_sub(pages);
            let left_out = last
                .span
                .since(last.share(last.pages.saturating_sub(surplus)));
            let stretch = Stretch {
                pages,
                span: inside.span.since(left_out),
                round: start.round,
            };
            count = count.saturating_add(1);
            slowest.add(stretch);
            latest = stretch;
            inside = Stretch {
                pages: inside.pages.saturating_sub(start.pages),
                span: inside.span.since(start.span),
                ..inside
            };
        }
        // The stretch that ends now: the last to start in time may end a little before.
        let now = self.latest(pages);
        if now.span > latest.span {
            latest = now;
        }
        let left_out = usize::try_from(risk.share_of(count)).unwrap_or(0);
        let at_risk = slowest.stretches.get(left_out).copied().unwrap_or(latest);
        Some(if latest.span > at_risk.span {
            latest
        } else {
            at_risk
        })
    }

    /// The last `pages` pages sent, and how long the next has been waited for.
    fn latest(&self, pages: u64) -> Stretch {
        let mut sum = Stretch {
            span: self.waiting,
            ..Stretch::default()
        };
        let open = Stretch {
            span: self.open.span.since(self.waiting),
            ..self.open
        };
        let open = Some(open).filter(|open| self.counts(open) && open.pages > 0);
        let windows = self.windows.iter().rev().copied();
        for stretch in open.into_iter().chain(windows) {
            let wanted = pages.saturating_sub(sum.pages);
            if wanted == 0 {
                break;
            }
            sum.add(wanted.min(stretch.pages), stretch.share(wanted));
            sum.round = stretch.round;
        }
        sum
    }

    /// All windows, oldest first, and what is sent since: of a stall, its time so far.
    fn stretches(&self) -> impl DoubleEndedIterator<Item = Stretch> + '_ {
        let open = Some(self.open).filter(|open| self.counts(open));
        self.windows.iter().copied().chain(open)
    }

    /// Whether a window that is not complete says something. A short one is swallowed
    /// by buffers, and one that was held back says nothing.
    fn counts(&self, open: &Stretch) -> bool {
        let long_enough = open.span >= Self::WINDOW_SPAN || self.windows.is_empty();
        let free = !self.held && self.unsettled == 0 && self.cap.is_none();
        let under_cap = self.cap.is_some() && !self.held && self.windows.is_empty();
        long_enough && (free || under_cap) && open.span > Micros::ZERO
    }

    fn known(&self) -> Stretch {
        let mut sum = Stretch::default();
        for stretch in self.stretches() {
            sum.add(stretch.pages, stretch.span);
        }
        sum
    }

    /// How long `pages` will take if everything goes on as of late: at the average of the
    /// newest windows, but for the slowest of them, which may be a stall.
    pub fn expected(&self, pages: u64) -> Micros {
        self.expected_rate().time_for(pages)
    }

    /// The rate of that; of what little was sent, if there are no windows.
    pub fn expected_rate(&self) -> PageRate {
        let mut recent = Stretch::default();
        let mut slowest = Stretch::default();
        let mut count = 0_usize;
        for stretch in self.stretches().rev().take(Self::RECENT) {
            recent.add(stretch.pages, stretch.span);
            count = count.saturating_add(1);
            if stretch.is_slower_than(slowest) {
                slowest = stretch;
            }
        }
        if count > Self::RECENT / 2 {
            recent = Stretch {
                pages: recent.pages.saturating_sub(slowest.pages),
                span: recent.span.since(slowest.span),
                ..recent
            };
        }
        match recent.pages {
            0 => self.at_least,
            pages => PageRate::floor(pages, recent.span),
        }
    }

    /// The slowest and the fastest window remembered. A window under way counts as
    /// soon as it is known to be slower.
    pub fn bounds(&self) -> Bounds<PageRate> {
        if self.windows.is_empty() {
            let lower = self.expected_rate().min(self.cap.unwrap_or(PageRate::MAX));
            return Bounds {
                lower,
                upper: PageRate::MAX,
            };
        }
        let rates = || self.windows.iter();
        let slowest = rates().map(|w| PageRate::floor(w.pages, w.span)).min();
        let fastest = rates().map(|w| PageRate::ceil(w.pages, w.span)).max();
        let slowest = slowest.unwrap_or_default();
        let lower = self
            .open_at_most()
            .map_or(slowest, |open| open.min(slowest));
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

/// The slowest stretches, the very slowest first.
struct Slowest {
    stretches: Vec<Stretch, { ServiceCurve::WINDOWS }>,
    /// So many are of interest.
    wanted: usize,
}

impl Slowest {
    fn of(wanted: u64) -> Self {
        Self {
            stretches: Vec::new(),
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
        }
    }

    fn add(&mut self, stretch: Stretch) {
        let mut faster = stretch;
        for slower in &mut self.stretches {
            if slower.span < faster.span {
                core::mem::swap(slower, &mut faster);
            }
        }
        if self.stretches.len() < self.wanted {
            // Full only where it would be the fastest of all that there are.
            let _fastest = self.stretches.push(faster);
        }
    }
}
