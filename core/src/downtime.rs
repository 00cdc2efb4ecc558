//! What downtime consists of; every estimate uses these parts.

use crate::{
    dirty::DirtyCurve,
    limits::{DowntimeLimit, Risk},
    service::ServiceCurve,
    units::{ByteRate, Micros, PageRate},
};

/// The guest's downtime: from the suspend request at the source to the guest's
/// first instruction at the destination, in the parts it is spent on.
///
/// The guest really stops a little after the request, so this is at least what
/// the guest sees. Packets lost while switches learn the guest's new place are
/// not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Downtime {
    /// From the request until the guest has stopped.
    pub suspend: Micros,
    /// Taking the final bitmap.
    pub final_bitmap: Micros,
    /// Sending the pages in it.
    pub pages: Micros,
    /// Saving and sending the vCPUs and the domain's parameters.
    pub cpu_state: Micros,
    /// At the destination, from the last byte to the first instruction.
    pub landing: Micros,
}

impl Downtime {
    /// The sum of all parts; saturates.
    pub const fn total(&self) -> Micros {
        self.suspend
            .saturating_add(self.final_bitmap)
            .saturating_add(self.pages)
            .saturating_add(self.cpu_state)
            .saturating_add(self.landing)
    }
}

/// How a downtime compares to the limit; see [`FixedCosts::fit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fit {
    /// At most the limit.
    Within,
    /// Longer than the limit.
    Beyond,
}

/// What a pause costs however few pages are left: upper bounds, calibrated for
/// the pair of hosts and known before the attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FixedCosts {
    /// See [`Downtime::suspend`].
    pub suspend: Micros,
    /// See [`Downtime::final_bitmap`].
    pub final_bitmap: Micros,
    /// See [`Downtime::cpu_state`].
    pub cpu_state: Micros,
    /// See [`Downtime::landing`].
    pub landing: Micros,
    /// From the decision to give up until a suspended guest runs again at the
    /// source. No part of a downtime that ends at the destination.
    pub resume: Micros,
}

/// One of the [`FixedCosts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FixedPart {
    /// [`FixedCosts::suspend`]
    Suspend,
    /// [`FixedCosts::final_bitmap`]
    FinalBitmap,
    /// [`FixedCosts::cpu_state`]
    CpuState,
    /// [`FixedCosts::landing`]
    Landing,
    /// [`FixedCosts::resume`]
    Resume,
}

impl FixedCosts {
    /// The pause of a guest that has no dirty page.
    pub const fn downtime(&self) -> Downtime {
        Downtime {
            suspend: self.suspend,
            final_bitmap: self.final_bitmap,
            pages: Micros::ZERO,
            cpu_state: self.cpu_state,
            landing: self.landing,
        }
    }

    /// What of the limit must be left when the stream is complete: for the
    /// landing, or, should the attempt be given up in that very moment, for the
    /// resume. The guest notices either. All gates keep this reserve, dom0's
    /// own deadline too.
    pub fn reserve(&self) -> Micros {
        self.landing.max(self.resume)
    }

    /// What may become of `downtime`, predicted with these costs: it ends at the
    /// destination, or is given up with all of it spent but the
    /// [`reserve`](Self::reserve).
    pub fn at_worst(&self, downtime: &Downtime) -> Downtime {
        Downtime {
            landing: downtime.landing.max(self.reserve()),
            ..*downtime
        }
    }

    /// Whether `downtime` is within `limit`, however it ends.
    pub fn fit(&self, downtime: &Downtime, limit: DowntimeLimit) -> Fit {
        if self.at_worst(downtime).total() <= limit.micros() {
            Fit::Within
        } else {
            Fit::Beyond
        }
    }

    /// The least limit under which an attempt may start: that of a guest with
    /// nothing to send.
    pub fn floor(&self) -> Micros {
        self.at_worst(&self.downtime()).total()
    }

    /// The slowest part of the [`floor`](Self::floor).
    pub fn slowest(&self) -> FixedPart {
        let last = if self.resume > self.landing {
            (FixedPart::Resume, self.resume)
        } else {
            (FixedPart::Landing, self.landing)
        };
        [
            (FixedPart::FinalBitmap, self.final_bitmap),
            (FixedPart::CpuState, self.cpu_state),
            last,
        ]
        .into_iter()
        .fold((FixedPart::Suspend, self.suspend), |slowest, part| {
            if part.1 > slowest.1 { part } else { slowest }
        })
        .0
    }
}

/// Pages that a guest's kernel dirties on its way to the stop: it freezes its tasks and
/// detaches its devices. Each guest has its own number, and it changes little from one
/// stop to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SuspendPages {
    /// As many as it mostly is.
    pub expected: u64,
    /// An upper bound, for decisions.
    pub most: u64,
}

impl SuspendPages {
    /// For a guest of which no stop was observed. Measured with Linux 6.1 as a PVH guest
    /// with one vCPU and one network interface: 300 to 410.
    pub const DEFAULT: Self = Self {
        expected: 350,
        most: 450,
    };
}

/// How long the last pages of earlier pauses took, without the round trip, compared with the
/// time by the path's curve.
///
/// The curve is measured while the guest runs. Once it has stopped, dom0 has its processor
/// to itself, and pipes and sockets take in much of what little is left: the same pages then
/// take a share of the curve's time. But the curve is mostly that of long rounds, and where
/// round trips are not measured a short one costs a fixed time besides: they then take longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LastPages {
    /// As it mostly is, per mille of the curve's time.
    pub usual: u64,
    /// The time that is mostly added to that, however many pages there are.
    pub longer: Micros,
    /// Upper bound, per mille of the curve's time.
    pub most: u64,
    /// How many pages such a pause sent. For more pages only the curve is used.
    pub pages: u64,
}

impl LastPages {
    /// For a path on which no pause was observed.
    pub const DEFAULT: Self = Self {
        usual: 1_000,
        longer: Micros::ZERO,
        most: 1_000,
        pages: 0,
    };

    /// The usual time of pages that take `whole` by the curve, the known number of them
    /// `known`.
    pub const fn usually(&self, whole: Micros, known: Micros) -> Micros {
        if whole.0 == 0 {
            return whole;
        }
        match known.0.checked_mul(self.usual) {
            Some(product) => whole
                .since(known)
                .saturating_add(Micros(product / 1_000))
                .saturating_add(self.longer),
            None => whole,
        }
    }

    /// What they take less than that at least.
    pub const fn saves(&self, known: Micros) -> Micros {
        match known.0.checked_mul(self.most) {
            Some(product) => known.since(Micros(product.div_ceil(1_000))),
            None => Micros::ZERO,
        }
    }
}

/// The forecast of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Forecast {
    /// Upper bound, at the risk stated.
    pub at_most: Downtime,
    /// The pause to expect. Its pages may take longer than the bound's: the risk leaves out
    /// stretches that the average includes, and the bound knows nothing of
    /// [`LastPages::longer`].
    pub expected: Downtime,
}

impl Forecast {
    /// The pause to expect, as it is shown: no longer than the bound.
    pub fn shown(&self) -> Downtime {
        Downtime {
            pages: self.expected.pages.min(self.at_most.pages),
            ..self.expected
        }
    }
}

/// What is known when a pause is predicted.
#[derive(Debug, Clone)]
pub struct DowntimeModel<'a> {
    /// Upper bounds; see [`FixedCosts`].
    pub costs: FixedCosts,
    /// The usual values of the same costs.
    pub expected_costs: FixedCosts,
    /// What the guest's kernel dirties in order to stop.
    pub suspend_pages: SuspendPages,
    /// How long the last pages of earlier pauses took.
    pub last_pages: LastPages,
    /// Pages the guest has at most.
    pub guest_pages: u64,
    /// The share of pauses that may be longer than their upper bound.
    pub risk: Risk,
    /// How the guest dirties pages.
    pub dirty: &'a DirtyCurve,
    /// How fast the path carries pages.
    pub service: &'a ServiceCurve,
    /// The path's present rate, [`ServiceCurve::expected_rate`]. Stored because it is used
    /// often.
    pub expected_rate: PageRate,
    /// The path's usual round trip, [`ServiceCurve::usual_round_trip`]. Stored for the same
    /// reason.
    pub round_trip: Micros,
    /// Upper bound of the pages that the guest dirties from the request to suspend until
    /// the final bitmap: [`DirtyCurve::at_most_more`], with a risk of 0
    /// [`DirtyCurve::at_most`]. Stored for the same reason.
    pub dirtied_at_most: u64,
    /// The bandwidth cap while the guest runs.
    pub cap: Option<PageRate>,
    /// The guest has stopped, and dirties nothing more.
    pub stopped: bool,
}

impl DowntimeModel<'_> {
    /// Two ticks. A page that is dirtied twice within one tick is counted once.
    const MOMENT: Micros = Micros::from_millis(200);

    /// Upper bound of the pages left to send once the guest has stopped, if it
    /// is asked to stop with `dirty_count` pages dirty.
    ///
    /// The guest may go on dirtying until the final bitmap is taken, and its
    /// kernel dirties pages in order to stop, but never more than it has. Either may be more
    /// than usual, for reasons of its own, so what is more is the root of the sum of both
    /// squares. With a risk of 0 it is the sum.
    pub fn final_pages(&self, dirty_count: u64) -> u64 {
        if self.stopped {
            return dirty_count;
        }
        let load = self.load_pages();
        let SuspendPages { expected, most } = self.suspend_pages;
        let kernels_more = most.saturating_sub(expected);
        let loads_more = self.dirtied_at_most.saturating_sub(load);
        let more = match self.risk.get() {
            0 => kernels_more.saturating_add(loads_more),
            _ => root_of_squares(kernels_more, loads_more),
        };
        dirty_count
            .saturating_add(expected)
            .saturating_add(load)
            .saturating_add(more)
            .min(self.guest_pages.max(dirty_count))
    }

    /// Pages that the guest is expected to dirty until the final bitmap, without its kernel's
    /// for the stop.
    fn load_pages(&self) -> u64 {
        let costs = &self.expected_costs;
        let window = costs.suspend.saturating_add(costs.final_bitmap);
        self.dirty.expected_more(window)
    }

    /// The pages left to send then, as they mostly are.
    pub fn likely_pages(&self, dirty_count: u64) -> u64 {
        self.likely_of(dirty_count, self.final_pages(dirty_count))
    }

    fn likely_of(&self, dirty_count: u64, most: u64) -> u64 {
        if self.stopped {
            return dirty_count;
        }
        dirty_count
            .saturating_add(self.suspend_pages.expected)
            .saturating_add(self.load_pages())
            .min(most)
    }

    /// The forecast of the pause if the guest is asked to stop with `dirty_count` pages
    /// dirty.
    ///
    /// The pages may take longer than expected for two reasons: the link is slow, or
    /// they are more. The reasons are independent, so the time lost to both is seldom
    /// the sum of what each costs at most. It is taken as the root of the sum of their
    /// squares. With a risk of 0 it is the sum. A link that is slow at this moment is no
    /// risk: the time of all pages is calculated at its present speed.
    ///
    /// If the last pages of earlier pauses took another time than their curve said, that is
    /// expected again. The bound is lowered by what the slowest of those pauses saved, but
    /// keeps the time lost to a slow link in full. With a risk of 0 the bound is not lowered.
    pub fn forecast(&self, dirty_count: u64) -> Forecast {
        let most = self.final_pages(dirty_count);
        let likely = self.likely_of(dirty_count, most);
        let carried = self.expected_rate.time_for(likely);
        let known = self.known_of(likely, carried);
        let trip = self.round_trip_of(likely);
        let expected = carried.saturating_add(trip);
        let longest_trip = match likely {
            0 => Micros::ZERO,
            _ => self.service.longest_round_trip(self.risk),
        };
        let worst = if self.risk.get() == 0 {
            self.service.worst(most, self.risk).max(expected)
        } else {
            let (worst, now) = self.service.worst_and_now(likely, most, self.risk);
            let slower = worst.since(carried);
            let later = longest_trip.since(trip);
            let slower = Micros(root_of_squares(slower.0, later.0));
            let of_most = self.expected_rate.time_for(most);
            let saved = self.last_pages.saves(known);
            let saved_of_most = self.last_pages.saves(self.known_of(most, of_most));
            let least = carried.since(saved);
            let more = of_most.since(saved_of_most).since(least);
            least
                .saturating_add(trip)
                .saturating_add(Micros(root_of_squares(slower.0, more.0)))
                .max(now.since(saved_of_most).saturating_add(longest_trip))
        };
        Forecast {
            at_most: Downtime {
                pages: worst,
                ..self.costs.downtime()
            },
            expected: Downtime {
                pages: self.last_pages.usually(carried, known).saturating_add(trip),
                ..self.expected_costs.downtime()
            },
        }
    }

    /// The round trip with which a round of `pages` begins.
    const fn round_trip_of(&self, pages: u64) -> Micros {
        match pages {
            0 => Micros::ZERO,
            _ => self.round_trip,
        }
    }

    /// `pages` take `time` by the curve. Returns the part of that time that falls to as many
    /// pages as earlier pauses sent.
    const fn known_of(&self, pages: u64, time: Micros) -> Micros {
        match self.last_pages.pages {
            0 => Micros::ZERO,
            known if known >= pages => time,
            known => self.expected_rate.time_for(known),
        }
    }

    /// Pages of the stretch that the bound's slow link is about: see
    /// [`forecast`](Self::forecast).
    pub fn bound_rests_on(&self, dirty_count: u64) -> u64 {
        match self.risk.get() {
            0 => self.final_pages(dirty_count),
            _ => self.likely_pages(dirty_count),
        }
    }

    /// The expected length of another round, and the pause expected after it.
    pub fn another_round(&self, dirty_count: u64) -> (Micros, Downtime) {
        let trip = self.round_trip_of(dirty_count);
        let free = self
            .expected_rate
            .time_for(dirty_count)
            .saturating_add(trip);
        let capped = self
            .cap
            .map_or(Micros::ZERO, |cap| cap.time_for(dirty_count));
        let length = free.max(capped).saturating_add(self.costs.final_bitmap);
        let dirty_then = self
            .dirty
            .expected_after_bitmap(length)
            .min(self.guest_pages);
        let likely = self.likely_pages(dirty_then);
        let carried = self.expected_rate.time_for(likely);
        let known = self.known_of(likely, carried);
        let pause = Downtime {
            pages: self
                .last_pages
                .usually(carried, known)
                .saturating_add(self.round_trip_of(likely)),
            ..self.expected_costs.downtime()
        };
        (length, pause)
    }

    /// Bandwidth at which this guest would have met `limit`, with as many pages left as
    /// there can be; `None` when the fixed costs leave nothing of it.
    ///
    /// The lesser of two ways to get there: sending all that is dirty now
    /// within the limit, or outrunning the guest by a quarter, so that every
    /// round leaves at most four fifths of the one before. The second way is
    /// no advice where the link outruns the guest already, or where all that is
    /// dirty is dirtied in a moment: its true rate is then not known.
    pub fn bandwidth_for(&self, dirty_count: u64, limit: DowntimeLimit) -> Option<ByteRate> {
        let fixed = self.costs.floor().saturating_add(self.round_trip);
        let room = limit.micros().since(fixed);
        if room == Micros::ZERO {
            return None;
        }
        let at_once = PageRate::ceil(self.final_pages(dirty_count), room);
        let unavoidable = PageRate::ceil(self.final_pages(0), room);
        let dirty_rate = self.dirty.bounds().upper;
        let quarter_more = dirty_rate.0.saturating_add(dirty_rate.0.div_ceil(4));
        let outrun = PageRate(quarter_more).max(unavoidable);
        let rate_is_known = self.dirty.at_most(Self::MOMENT) < dirty_count;
        let needed = if rate_is_known && outrun > self.expected_rate {
            at_once.min(outrun)
        } else {
            at_once
        };
        Some(needed.bytes())
    }
}

/// The root of the sum of both squares, or up to a sixteenth more: the greater, and the
/// lesser's square divided by twice the greater.
fn root_of_squares(one: u64, other: u64) -> u64 {
    let (greater, lesser) = (one.max(other), one.min(other));
    let twice = greater.saturating_mul(2).max(1);
    let more = match lesser.checked_mul(lesser) {
        Some(square) => square.div_ceil(twice),
        None => lesser / 2,
    };
    greater.saturating_add(more)
}
