//! How fast the path to the destination carries pages: a service curve, built from what
//! was sent.
//!
//! A rate cannot tell a slow link from one that stalls now and then. Sent pages are
//! therefore remembered in windows, and the question is not "how fast?" but "how long do so
//! many consecutive pages take?". A stall delays the pages that it hits, once, and no
//! others. (Service curves: Cruz 1991; Le Boudec and Thiran, Network Calculus, 2001.)

use heapless::{Deque, Vec};

use crate::{
    batch::BATCH_PAGES,
    history::push_latest,
    limits::Risk,
    units::{Bounds, Micros, PageRate},
};

/// Consecutive pages, and the time they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Stretch {
    /// The number of pages.
    pub pages: u64,
    /// The time for which the path was busy with them.
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

    /// The time that `pages` take if this stretch repeats as often as needed.
    fn repeated(self, pages: u64) -> Micros {
        let whole = self.pages.max(1);
        let times = pages.checked_div(whole).unwrap_or(0);
        let rest = pages.checked_rem(whole).unwrap_or(0);
        Micros(self.span.0.saturating_mul(times)).saturating_add(self.share(rest))
    }

    /// The time for so many of its pages at its own average rate. A stretch without pages
    /// counts with its whole time, whatever follows.
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

/// The capacity of the path, from batches as they are handed to it.
///
/// Only busy time counts: the time between two rounds says nothing about the path. It is
/// cut into windows of at least [`WINDOW_PAGES`](Self::WINDOW_PAGES) and
/// [`WINDOW_SPAN`](Self::WINDOW_SPAN), because a pipe or socket buffer absorbs a shorter
/// burst at the speed of memory. The last [`WINDOWS`](Self::WINDOWS) are remembered, so an
/// early stretch loses its influence.
///
/// While the operator [caps](Self::cap_at) the bandwidth, a window in which sending was
/// held back does not show how slow the path is. Nor does it show how fast the path is,
/// because buffers drain meanwhile. It shows only that the path carries at least that rate,
/// which is at most the cap. That figure is used where no better one was seen. A window in
/// which nothing was held back measures the path itself. After the cap is removed,
/// [`UNSETTLED`](Self::UNSETTLED) windows are left out, because the drained buffers absorb
/// them.
///
/// Pages that are all zero are not carried, and batches that are mostly zero are left out
/// too.
///
/// Where the destination answers, each round begins with a round trip, in which no page is
/// answered. It takes the same time however few pages follow, so it is measured by itself
/// ([`round_trip`](Self::round_trip)), is part of no window, and is added once to the time of
/// any number of pages.
#[derive(Debug, Clone, Default)]
pub struct ServiceCurve {
    windows: Deque<Stretch, { ServiceCurve::WINDOWS }>,
    open: Stretch,
    /// The round trips of the last rounds.
    round_trips: Deque<Micros, { ServiceCurve::ROUND_TRIPS }>,
    /// The time at which the round began, as long as nothing of it was answered.
    begun: Option<Micros>,
    /// The round trip of the current round, or of the last one.
    latest_round_trip: Micros,
    /// The part of the open window's time that has passed since the last batch.
    waiting: Micros,
    round: u32,
    /// The time up to which busy time is accounted for; `None` while nothing is sent.
    busy_until: Option<Micros>,
    cap: Option<PageRate>,
    /// Whether sending was held back in the open window.
    held: bool,
    /// A rate that the path carries at least, from the last window that was held back.
    at_least: PageRate,
    /// The number of windows still to be left out.
    unsettled: u32,
}

impl ServiceCurve {
    /// The fewest pages in a window: a full batch, 4 MiB.
    pub const WINDOW_PAGES: u64 = BATCH_PAGES as u64;
    /// The shortest busy time of a window.
    pub const WINDOW_SPAN: Micros = Micros::from_millis(20);
    /// The number of windows remembered: 256 MiB at least.
    pub const WINDOWS: usize = 64;
    /// The number of newest windows from which the expectation is computed.
    pub const RECENT: usize = 16;
    /// The number of round trips remembered.
    pub const ROUND_TRIPS: usize = 8;
    /// The number of windows left out after a cap is removed: 16 MiB, more than pipes, ssh
    /// and sockets hold together.
    pub const UNSETTLED: u32 = 4;

    /// A curve from which nothing has been learned yet.
    pub const fn new() -> Self {
        Self {
            windows: Deque::new(),
            open: Stretch {
                pages: 0,
                span: Micros::ZERO,
                round: 0,
            },
            round_trips: Deque::new(),
            begun: None,
            latest_round_trip: Micros::ZERO,
            waiting: Micros::ZERO,
            round: 0,
            busy_until: None,
            cap: None,
            held: false,
            at_least: PageRate::ZERO,
            unsettled: 0,
        }
    }

    /// Caps the sending rate from now on; `None` removes the cap.
    pub const fn cap_at(&mut self, cap: Option<PageRate>) {
        if self.cap.is_some() && cap.is_none() {
            self.unsettled = Self::UNSETTLED;
        }
        self.cap = cap;
        self.begun = None;
        self.clear_open();
    }

    /// The cap in force.
    pub const fn cap(&self) -> Option<PageRate> {
        self.cap
    }

    /// Records that sending was held back since the previous batch.
    pub const fn held_back(&mut self) {
        self.held = true;
    }

    /// Pages use another path from now on. The figures of the old path apply only until the
    /// new one has completed a window of its own.
    pub fn path_changed(&mut self) {
        let seen = self.expected_rate();
        self.windows.clear();
        self.round_trips.clear();
        self.begun = None;
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
        self.begun = Some(at);
        self.latest_round_trip = Micros::ZERO;
        self.round = round;
        if self.open.pages == 0 {
            self.open.round = round;
        }
    }

    /// Advances the time to `at`. If pages were being sent, they still are.
    pub const fn advance(&mut self, at: Micros) {
        if let Some(until) = self.busy_until {
            let span = at.since(until);
            self.open.add(0, span);
            self.waiting = self.waiting.saturating_add(span);
            self.busy_until = Some(at);
        }
    }

    /// The answer to a ping that was sent ahead of the round's first batch arrived at `at`. The
    /// time since the round began is no time of its pages.
    ///
    /// The first round is left out: a path that was never used takes longer. So is a round under
    /// a cap, which may have held back the ping.
    pub fn round_trip(&mut self, at: Micros) {
        self.advance(at);
        let Some(begun) = self.begun.take() else {
            return;
        };
        if self.round == 0 || self.cap.is_some() {
            return;
        }
        let trip = at.since(begun);
        self.open.span = self.open.span.since(trip);
        self.waiting = self.waiting.since(trip);
        self.latest_round_trip = trip;
        push_latest(&mut self.round_trips, trip);
    }

    /// The round trip of the current round, or of the last one. Zero if it was not measured.
    pub const fn latest_round_trip(&self) -> Micros {
        self.latest_round_trip
    }

    /// Upper bound of the round trip: the longest remembered. With a risk, the longest quarter
    /// of them is left out, which may be stalls, but never the latest. Zero if none is
    /// remembered.
    pub fn longest_round_trip(&self, risk: Risk) -> Micros {
        let trips = || self.round_trips.iter().copied();
        let left_out = match risk.get() {
            0 => 0,
            _ => self.round_trips.len() / 4,
        };
        let counts = |trip: &Micros| trips().filter(|other| other > trip).count() <= left_out;
        let longest = trips().filter(counts).min();
        let latest = trips().next_back();
        longest.max(latest).unwrap_or(Micros::ZERO)
    }

    /// The median of the round trips remembered, the greater one of two. Zero if none is.
    pub fn usual_round_trip(&self) -> Micros {
        let trips = || self.round_trips.iter().copied();
        let is_more_than_half = |trip: &Micros| {
            let within = trips().filter(|other| other <= trip).count();
            within > self.round_trips.len() / 2
        };
        let median = trips().filter(is_more_than_half).min();
        median.unwrap_or(Micros::ZERO)
    }

    /// The path had taken a batch of `pages` pages by `at`, and the numbers of `zeros` more,
    /// which are all zero and whose contents therefore did not travel.
    pub fn sent(&mut self, at: Micros, pages: u64, zeros: u64) {
        self.advance(at);
        self.begun = None;
        let counted = self.counted(pages, zeros);
        self.open.add(counted, Micros::ZERO);
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

    /// The pages that count of a batch that has just been sent.
    ///
    /// A batch that is mostly zero shows how fast frames are listed and mapped, not what
    /// the path carries. Neither its pages nor its time count, or a round of zero pages
    /// would make the path look slow, and its zero pages would make it look fast. If it
    /// takes longer than a batch that is not zero, the path has stalled: that time counts.
    /// While nothing is known, a batch with any pages counts.
    fn counted(&mut self, pages: u64, zeros: u64) -> u64 {
        let waited = core::mem::take(&mut self.waiting);
        if zeros <= pages {
            return pages;
        }
        self.open.span = self.open.span.since(waited);
        let rate = self.expected_rate();
        let left_out = match (rate, pages) {
            (PageRate::ZERO, 0) => waited,
            (PageRate::ZERO, _) => Micros::ZERO,
            _ => rate.time_for(pages.saturating_add(zeros)),
        };
        let counted = waited.since(left_out);
        self.open.add(0, counted);
        if pages == 0 {
            self.waiting = counted;
        }
        match counted {
            Micros::ZERO => 0,
            _ => pages,
        }
    }

    /// Everything had been sent by `at`.
    pub const fn stop(&mut self, at: Micros) {
        self.advance(at);
        self.busy_until = None;
    }

    /// Upper bound of the time for a round of `pages`: the longest round trip, and the
    /// longest time that so many consecutive pages took, apart from the `risk`'s share of
    /// the stretches remembered. The most recent stretch is never left out, so a path that
    /// has become slow, or is stalled at this moment, is seen. [`Micros::MAX`] while nothing
    /// is known.
    pub fn worst(&self, pages: u64, risk: Risk) -> Micros {
        if pages == 0 {
            return Micros::ZERO;
        }
        let basis = self.basis(pages, risk);
        let carried = basis.map_or_else(
            || self.at_least.time_for(pages),
            |basis| basis.repeated(pages),
        );
        carried.saturating_add(self.longest_round_trip(risk))
    }

    /// [`worst`](Self::worst) of `likely` pages without the round trip; and how long `most`
    /// take if the path goes on exactly as it does at this moment, as over the last `likely`
    /// pages. A path that has become slow, or stalls, is no risk but a fact.
    pub fn worst_and_now(&self, likely: u64, most: u64, risk: Risk) -> (Micros, Micros) {
        match self.basis_and_latest(likely, risk) {
            Some((basis, latest)) => (basis.repeated(likely), latest.repeated(most)),
            None => (self.at_least.time_for(likely), Micros::ZERO),
        }
    }

    /// The stretch behind [`worst`](Self::worst): of that many pages, or of everything
    /// remembered if that is less. `None` while nothing is remembered.
    pub fn basis(&self, pages: u64, risk: Risk) -> Option<Stretch> {
        let both = self.basis_and_latest(pages, risk);
        both.map(|(basis, _)| basis)
    }

    /// [`basis`](Self::basis), and the latest stretch of that many pages.
    fn basis_and_latest(&self, pages: u64, risk: Risk) -> Option<(Stretch, Stretch)> {
        let known = self.known();
        let pages = pages.min(known.pages);
        if pages == 0 {
            return None;
        }
        // Two ends move along the windows. `inside` holds the whole windows between them;
        // the last one may be needed only in part.
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
        // The stretch that ends now. The last one to start in time may end a little
        // earlier.
        let now = self.latest(pages);
        if now.span > latest.span {
            latest = now;
        }
        let left_out = usize::try_from(risk.share_of(count)).unwrap_or(0);
        let at_risk = slowest.stretches.get(left_out).copied().unwrap_or(latest);
        let basis = match latest.span > at_risk.span {
            true => latest,
            false => at_risk,
        };
        Some((basis, now))
    }

    /// The last `pages` pages sent, including the time since the last batch.
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

    /// All windows, oldest first, and then the open one, which includes the duration of a
    /// current stall.
    fn stretches(&self) -> impl DoubleEndedIterator<Item = Stretch> + '_ {
        let open = Some(self.open).filter(|open| self.counts(open));
        self.windows.iter().copied().chain(open)
    }

    /// Whether an incomplete window carries information. Buffers absorb a short one, and
    /// one that was held back says nothing about the path.
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

    /// The time for a round of `pages` if the path continues as it has recently: the usual
    /// round trip, and the pages at the average of the newest windows without the slowest of
    /// them, which may be a stall.
    pub fn expected(&self, pages: u64) -> Micros {
        match pages {
            0 => Micros::ZERO,
            _ => self
                .expected_rate()
                .time_for(pages)
                .saturating_add(self.usual_round_trip()),
        }
    }

    /// The rate behind [`expected`](Self::expected), without the round trip. Without any
    /// windows, the rate of what little was sent.
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

    /// The rates of the slowest and the fastest window remembered. An open window counts as
    /// soon as it is known to be slower.
    pub fn bounds(&self) -> Bounds<PageRate> {
        if self.windows.is_empty() {
            let lower = self.expected_rate().min(self.cap.unwrap_or(PageRate::MAX));
            return Bounds {
                lower,
                upper: PageRate::MAX,
            };
        }
        // The windows are compared before the two rates are computed: a division takes long.
        let mut windows = self.windows.iter().copied();
        let first = windows.next().unwrap_or_default();
        let (slowest, fastest) =
            windows.fold((first, first), |(slowest, fastest), window| {
                match (
                    window.is_slower_than(slowest),
                    fastest.is_slower_than(window),
                ) {
                    (true, _) => (window, fastest),
                    (_, true) => (slowest, window),
                    _ => (slowest, fastest),
                }
            });
        let slowest = PageRate::floor(slowest.pages, slowest.span);
        let lower = self
            .open_at_most()
            .map_or(slowest, |open| open.min(slowest));
        let fastest = PageRate::ceil(fastest.pages, fastest.span);
        Bounds {
            lower,
            upper: fastest.max(lower),
        }
    }

    /// The highest rate that the open window can still reach, once it is long enough to
    /// tell.
    fn open_at_most(&self) -> Option<PageRate> {
        if self.open.span < Self::WINDOW_SPAN || self.held {
            return None;
        }
        // At best, the batch being written completes at this very moment.
        let under_way = match self.busy_until {
            Some(_) => Self::WINDOW_PAGES,
            None => 0,
        };
        let pages = self.open.pages.saturating_add(under_way);
        Some(PageRate::floor(pages, self.open.span))
    }
}

/// The slowest stretches, slowest first.
struct Slowest {
    stretches: Vec<Stretch, { ServiceCurve::WINDOWS }>,
    /// The number of stretches to keep.
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
            // The list is full only if this stretch would be the fastest of all.
            let _fastest = self.stretches.push(faster);
        }
    }
}
