//! Draws millions of scenarios, each from a seed and a number.
//!
//! Parameters that the user gives are taken as they are. Everything else is drawn from wide
//! ranges: guests from 128 MiB to 16 TiB, links from 100 Mbit/s to 100 Gbit/s, writers from
//! a thousandth to twice of what the link carries, limits from 20 ms to a minute. Every
//! octave of these is equally likely.

use lull_core::downtime::{FixedCosts, LastPages, SuspendPages};
use lull_core::limits::{DowntimeLimit, Limits, Risk, Timeout};
use lull_core::units::{Micros, PAGE_SIZE};

use crate::guest::{Guest, Places, Rhythm, Writer};
use crate::link::{Dip, Link, Stalls, WithinPause};
use crate::random::Random;
use crate::scenario::{Actual, Mishap, Scenario};

/// How a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriterKind {
    /// The rate is constant.
    Steady,
    /// The guest is calm, with bursts of 20 to 200 ms.
    Bursty,
    /// Seconds of writing alternate with seconds of calm.
    Oscillating,
    /// Several writers follow one another, and sometimes another one starts the moment the
    /// guest is asked to stop.
    PhaseChanging,
}

impl WriterKind {
    /// All kinds of writers.
    pub const ALL: [Self; 4] = [
        Self::Steady,
        Self::Bursty,
        Self::Oscillating,
        Self::PhaseChanging,
    ];
}

/// How a link behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// The rate is constant.
    Constant,
    /// The rate stays within 5 to 60 % of its average.
    Jittery,
    /// The link is jittery, and its other end is 1 to 100 ms away and answers.
    Distant,
    /// The link is slow and jittery, its other end is 1 to 100 ms away and answers, and it
    /// stalls for 1 to 30 s now and then, as in real traces.
    Stalling,
    /// The link is slow and shares a processor or a wire with others, so it alternately
    /// carries more and less.
    Shared,
    /// The link is jittery. At some time, or because of the request to stop, its rate falls
    /// to a fraction or to zero.
    Collapsing,
}

impl LinkKind {
    /// All kinds of links.
    pub const ALL: [Self; 6] = [
        Self::Constant,
        Self::Jittery,
        Self::Distant,
        Self::Stalling,
        Self::Shared,
        Self::Collapsing,
    ];
}

/// Whether anything goes wrong apart from guest and link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishaps {
    /// Every cost is as assumed or less, no operator cancels, the stub works, and the path
    /// is the same within the pause.
    None,
    /// Something goes wrong in one attempt of nine; in half of them the path is faster or
    /// slower within the pause.
    Some,
}

/// The given parameters of the scenarios; `None` is drawn for each scenario.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// The seed that determines everything that is drawn.
    pub seed: u64,
    /// The guest's memory in pages.
    pub guest_pages: Option<u64>,
    /// The average number of pages written a second.
    pub dirty_rate: Option<u64>,
    /// The number of distinct pages that are written.
    pub working_set: Option<u64>,
    /// The number of pages that the link carries a second.
    pub link_rate: Option<u64>,
    /// How the guest writes.
    pub writer: Option<WriterKind>,
    /// How the link behaves.
    pub link: Option<LinkKind>,
    /// The longest pause allowed.
    pub max_suspend: Option<DowntimeLimit>,
    /// The longest time until the suspend.
    pub timeout: Option<Timeout>,
    /// Whether anything goes wrong.
    pub mishaps: Mishaps,
    /// The share of pauses that may be given up.
    pub risk: Risk,
}

/// A scenario, and the models from which it was drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The kind of writer.
    pub writer: WriterKind,
    /// The kind of link.
    pub link: LinkKind,
    /// What was drawn from these kinds.
    pub scenario: Scenario,
}

/// Sets the draws of the handover apart from all others.
const HANDOVER: u64 = u64::from_le_bytes(*b"handover");

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;

const fn pages(bytes: u64) -> u64 {
    bytes / PAGE_SIZE
}

impl Draw {
    /// A draw without any given parameters.
    pub const fn anything(seed: u64) -> Self {
        Self {
            seed,
            guest_pages: None,
            dirty_rate: None,
            working_set: None,
            link_rate: None,
            writer: None,
            link: None,
            max_suspend: None,
            timeout: None,
            mishaps: Mishaps::Some,
            risk: Risk::DEFAULT,
        }
    }

    /// Draws the scenario of this number.
    pub fn scenario(&self, number: u64) -> Drawn {
        let random = &mut Random::of(self.seed, number);
        let writer = random.one_of(&WriterKind::ALL);
        let writer = self.writer.unwrap_or(writer);
        let link = random.one_of(&LinkKind::ALL);
        let link = self.link.unwrap_or(link);
        // A terabyte over a slow link would take a week.
        let largest = match link {
            LinkKind::Stalling | LinkKind::Shared => pages(16 << 30),
            _ => pages(16 << 40),
        };
        let size = random.scaled(pages(128 << 20), largest);
        let size = self.guest_pages.unwrap_or(size);
        // From 1 to 100 MB/s, or from 100 Mbit/s to 100 Gbit/s.
        let (slowest, fastest) = match link {
            LinkKind::Stalling | LinkKind::Shared => (1_000_000, 100_000_000),
            _ => (12_500_000, 12_500_000_000),
        };
        let rate = random.scaled(pages(slowest), pages(fastest));
        let rate = self.link_rate.unwrap_or(rate);
        let costs = Costs::draw(random, size);
        let costs = costs.handed_over(&mut Random::of(self.seed ^ HANDOVER, number));
        let guest = self.guest(random, writer, size, rate);
        let (mishap, costs) = match self.mishaps {
            Mishaps::None => (Mishap::None, costs),
            Mishaps::Some => mishap(random, costs),
        };
        let mut link_model = draw_link(random, link, rate);
        let limits = self.limits(random, size, rate);
        let mut last_pages = LastPages::DEFAULT;
        if self.mishaps == Mishaps::Some {
            (link_model.within_pause, last_pages) = within_pause(random);
        }
        Drawn {
            writer,
            link,
            scenario: Scenario {
                guest,
                link: link_model,
                limits,
                risk: self.risk,
                assumed: costs.assumed,
                suspend_pages: SuspendPages::DEFAULT,
                last_pages,
                actual: costs.actual,
                mishap,
            },
        }
    }

    fn limits(&self, random: &mut Random, size: u64, rate: u64) -> Limits {
        // The operator's limit does not depend on the costs of a pause.
        let limit = random.scaled(20 * MS, 60 * SECOND);
        // One attempt in four has a timeout, from a part of the full pass to many passes.
        let pass = size * SECOND / rate + SECOND;
        let timeout = random
            .happens(25)
            .then(|| random.scaled(pass.div_ceil(2), pass * 20));
        Limits {
            max_suspend: self.max_suspend.or(DowntimeLimit::new(Micros(limit))),
            timeout: self
                .timeout
                .or(timeout.and_then(|timeout| Timeout::new(Micros(timeout)))),
        }
    }

    fn guest(&self, random: &mut Random, kind: WriterKind, size: u64, rate: u64) -> Guest {
        let writer = |random: &mut Random| self.writer(random, kind, size, rate);
        let mut phases = vec![(0, writer(random))];
        let mut after_request = None;
        if kind == WriterKind::PhaseChanging {
            let mut at = 0;
            for _ in 0..random.within(1, 5) {
                at += random.scaled(500 * MS, 120 * SECOND);
                phases.push((at, writer(random)));
            }
            if random.happens(30) {
                after_request = Some((random.below(100 * MS), writer(random)));
            }
        }
        Guest {
            pages: size,
            phases,
            after_request,
            stop_pages: random.within(250, 450).min(size),
            sampled: None,
        }
    }

    fn writer(&self, random: &mut Random, kind: WriterKind, size: u64, rate: u64) -> Writer {
        // From a thousandth of what the link carries to twice that.
        let average = random.scaled((rate / 1_000).max(1), rate * 2);
        let average = self.dirty_rate.unwrap_or(average);
        let set = random.scaled(256, size);
        let set = self.working_set.unwrap_or(set).clamp(1, size);
        let (period, busy_share) = match kind {
            // A phase is steady or bursty.
            WriterKind::Steady => (1, 1_000),
            WriterKind::PhaseChanging if random.happens(50) => (1, 1_000),
            WriterKind::Bursty | WriterKind::PhaseChanging => {
                let burst = random.scaled(20 * MS, 200 * MS);
                let share = random.within(20, 400);
                (burst * 1_000 / share, share)
            }
            WriterKind::Oscillating => (
                random.scaled(2 * SECOND, 20 * SECOND),
                random.within(250, 750),
            ),
        };
        let calm = match busy_share {
            1_000 => average,
            _ => average * random.within(0, 500) / 1_000,
        };
        let busy_for = (period * busy_share / 1_000).max(1);
        // Chosen so that the average is met.
        let busy = calm + (average - calm) * period / busy_for;
        let hot = random.scaled(16, 4_096).min(set);
        Writer {
            rhythm: Rhythm {
                busy,
                calm,
                busy_for,
                period,
                offset: random.below(period),
            },
            places: Places {
                cold: set - hot / 2,
                hot: hot / 2,
                hot_share: random.one_of(&[0, 500, 900]),
            },
        }
    }
}

fn draw_link(random: &mut Random, kind: LinkKind, rate: u64) -> Link {
    let jitter = match kind {
        LinkKind::Constant => 0,
        LinkKind::Jittery | LinkKind::Distant => random.within(50, 600),
        LinkKind::Stalling => random.within(50, 300),
        LinkKind::Shared => random.within(200, 700),
        LinkKind::Collapsing => random.within(0, 300),
    };
    let mut link = Link {
        slot: random.one_of(&[10 * MS, 30 * MS, 100 * MS]),
        // The buffers of pipes and sockets. A socket's buffer grows with what the link can
        // hold, which is far less than 50 ms of it in a data centre.
        buffer: random.one_of(&[0, 16, 64, 256, 1_024]).min(rate / 20),
        ..Link::jittery(rate, jitter, random.any())
    };
    match kind {
        LinkKind::Stalling => {
            let longest = random.scaled(SECOND, 30 * SECOND);
            link.stalls = Some(Stalls {
                period: longest * random.within(3, 20),
                lasts: (longest / 3, longest),
            });
            answers(&mut link, random);
        }
        LinkKind::Shared => link.slot = random.scaled(200 * MS, 3 * SECOND),
        LinkKind::Distant => answers(&mut link, random),
        _ => {}
    }
    if kind == LinkKind::Collapsing {
        let left = random.one_of(&[0, 1, 10, 100, 300]);
        let lasts = random.scaled(20 * MS, 20 * SECOND);
        if random.happens(50) {
            // At the moment the guest is asked to stop, or a little later.
            let from = random.below(500 * MS);
            let until = match random.happens(50) {
                true => u64::MAX,
                false => from + lasts,
            };
            link.after_request = Some(Dip { from, until, left });
        } else {
            let from = random.scaled(100 * MS, 300 * SECOND);
            let until = from + lasts;
            link.dips.push(Dip { from, until, left });
        }
    }
    link
}

/// The other end is 1 to 100 ms away and answers, so that no buffer hides what is under way.
fn answers(link: &mut Link, random: &mut Random) {
    link.round_trip = random.scaled(MS, 100 * MS);
    link.buffer = 0;
}

/// What the path does within the pause, and what earlier pauses said of it. In half of the
/// attempts, nothing and nothing. In the others the path is up to ten times faster or three
/// times slower; in one of four of these the earlier pauses were of another kind.
fn within_pause(random: &mut Random) -> (WithinPause, LastPages) {
    if random.happens(50) {
        return (WithinPause::NONE, LastPages::DEFAULT);
    }
    let truly = WithinPause {
        per_mille: random.scaled(100, 3_000),
        pages: u64::MAX,
    };
    let seen = match random.happens(75) {
        true => truly.per_mille,
        false => random.scaled(100, 3_000),
    };
    (truly, seen_last_pages(random, seen))
}

/// What a few pauses say whose last pages took `per_mille` of the curve's time.
pub fn seen_last_pages(random: &mut Random, per_mille: u64) -> LastPages {
    let usual = per_mille * random.within(90, 110) / 100;
    LastPages {
        usual,
        // As the ledger does with an eighth to the double of what was seen.
        most: usual * random.within(113, 200) / 100,
        pages: random.scaled(256, 65_536),
        ..LastPages::DEFAULT
    }
}

struct Costs {
    assumed: FixedCosts,
    actual: Actual,
}

impl Costs {
    fn draw(random: &mut Random, size: u64) -> Self {
        let suspend = random.scaled(2 * MS, 200 * MS);
        // One bit per page at 4 GB/s, and the hypercalls.
        let bitmap = 200 + size / 8 / 4_000;
        let cpu_state = random.scaled(MS, 50 * MS);
        let landing = random.scaled(10 * MS, 3 * SECOND);
        let resume = random.scaled(MS, 50 * MS);
        let mut truly = |bound: u64| bound * random.within(65, 100) / 100;
        let landing_truly = truly(landing);
        // GO is one message and a hypercall, which is quicker than taking a guest back with
        // a message and more hypercalls.
        let after_ready = (landing_truly / 10).min(resume);
        let actual = Actual {
            prepare: 300 * MS,
            suspend: truly(suspend),
            bitmap,
            cpu_state: truly(cpu_state),
            until_ready: landing_truly - after_ready,
            after_ready,
            resume: truly(resume),
            handover: None,
        };
        let assumed = FixedCosts {
            suspend: Micros(suspend),
            final_bitmap: Micros(bitmap + bitmap / 4),
            cpu_state: Micros(cpu_state),
            landing: Micros(landing),
            resume: Micros(resume),
        };
        Self { assumed, actual }
    }

    /// In one attempt of two the handshake precedes the stop and is no part of the pause.
    fn handed_over(mut self, random: &mut Random) -> Self {
        if !random.happens(50) {
            return self;
        }
        self.actual.handover = Some(random.scaled(10 * MS, 3 * SECOND));
        self
    }
}

/// In one attempt of nine, something goes wrong or is worse than assumed.
///
/// This never affects taking a bitmap, reading the CPU state or resuming a guest: they are
/// a few calls that cannot be cut short, and no rule could compensate for them.
fn mishap(random: &mut Random, mut costs: Costs) -> (Mishap, Costs) {
    let worse = |cost: &mut u64, random: &mut Random| *cost = *cost * random.within(2, 20) + MS;
    let mishap = match random.below(54) {
        0 => Mishap::Cancelled(random.scaled(10 * MS, 600 * SECOND)),
        1 => Mishap::CancelledAfterRequest(random.below(400 * MS)),
        2 => Mishap::NeverStops,
        3 => Mishap::StubHangs(random.below(20_000)),
        4 => {
            worse(&mut costs.actual.suspend, random);
            Mishap::None
        }
        5 => {
            worse(&mut costs.actual.until_ready, random);
            Mishap::None
        }
        _ => Mishap::None,
    };
    (mishap, costs)
}
