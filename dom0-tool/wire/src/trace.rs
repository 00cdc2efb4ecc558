//! The lines of a trace. Times are microseconds, on the machine's clock (zero
//! when the attempt starts) or as spans; rates are pages a second.
//!
//! ```text
//! {"type":"header","schema":1,"lull":"0.1.0","domain":7,"started":"2026-…Z","config":{…}}
//! {"type":"event","at_us":310250,"event":"begin","pages":65536,"took_bitmap_us":410}
//! {"type":"decision","at_us":310250,"action":"copy","round":0,"pages":65536,…}
//! {"type":"event","at_us":312891,"event":"sent","requested":1024,"pages":1024}
//! …
//! {"type":"end","events":1234,"left_out":0,"outcome":"stream-complete","reason":""}
//! ```
//! A decision follows the event that led to it. The first line is the header,
//! the last the end.

use lull_core::downtime::{Downtime, FixedCosts, FixedPart};
use lull_core::limits::{DowntimeLimit, Limits, Risk, Timeout};
use lull_core::machine::{Action, Config, Event, Machine};
use lull_core::refusal::{Hopeless, Reason, Refusal};
use lull_core::units::{Bounds, Micros, PageRate};
use serde::{Deserialize, Serialize};

use crate::events::How;

/// Version of these lines; raised when one changes its meaning.
pub const SCHEMA: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Line {
    /// The first.
    Header(Header),
    /// The machine was told something.
    Event(Told),
    /// And said something.
    Decision(Box<Decision>),
    /// The last.
    End(End),
}

/// See [`Line::Header`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Version that wrote it.
    pub lull: String,
    /// The guest, at the source.
    pub domain: u16,
    /// By dom0's wall clock, for people.
    pub started: String,
    /// What the machine was given.
    pub config: Given,
}

/// What a [`Machine`] is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The longest pause.
    pub max_suspend_us: Option<u64>,
    /// The longest time to the suspend.
    pub timeout_us: Option<u64>,
    /// The costs of a pause: upper bounds.
    pub costs_us: CostsUs,
    /// The same as expected; absent where the first edition of the estimate wrote the
    /// trace.
    #[serde(default)]
    pub expected_costs_us: Option<CostsUs>,
    /// The share of pauses that may be given up.
    #[serde(default)]
    pub risk_per_mille: Option<u16>,
    /// Pages the guest has at most.
    pub guest_pages: u64,
}

/// See [`FixedCosts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostsUs {
    /// See [`Downtime::suspend`], µs.
    pub suspend: u64,
    /// See [`Downtime::final_bitmap`], µs.
    pub final_bitmap: u64,
    /// See [`Downtime::cpu_state`], µs.
    pub cpu_state: u64,
    /// See [`Downtime::landing`], µs.
    pub landing: u64,
    /// See [`FixedCosts::resume`], µs.
    pub resume: u64,
}

/// See [`Line::Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub event: What,
}

/// See [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// See [`Event::Begin`].
    Begin {
        /// Pages of the round.
        pages: u64,
        /// How long the bitmap took, µs.
        #[serde(default)]
        took_bitmap_us: u64,
    },
    /// See [`Event::Sent`].
    Sent {
        /// Frames of the batch.
        requested: u32,
        /// Pages of it that were populated, and sent.
        pages: u32,
    },
    /// See [`Event::Tick`].
    Tick {
        /// Pages dirty.
        dirty: Option<u64>,
    },
    /// See [`Event::Counted`].
    Counted {
        /// Pages dirty.
        dirty: u64,
    },
    /// See [`Event::Bitmap`].
    Bitmap {
        /// Pages dirty.
        dirty: u64,
        /// How long it took, µs.
        took_us: u64,
    },
    /// See [`Event::Suspended`].
    Suspended {
        /// Pages dirty.
        dirty: u64,
        /// How long the bitmap took, µs.
        took_bitmap_us: u64,
    },
    /// See [`Event::SuspendFailed`].
    SuspendFailed,
    /// See [`Event::OutOfTime`].
    OutOfTime,
    /// See [`Event::RunsOn`].
    RunsOn,
    /// See [`Event::Cancel`].
    Cancel,
    /// See [`Event::Limits`].
    Limits {
        /// The longest pause, µs; absent where there is no limit.
        max_suspend_us: Option<u64>,
        /// The longest time to the suspend, µs; absent where there is no limit.
        timeout_us: Option<u64>,
    },
    /// See [`Event::Bandwidth`].
    Bandwidth {
        /// Pages a second; absent: as many as go.
        cap: Option<u64>,
    },
    /// See [`Event::HeldBack`].
    HeldBack,
    /// See [`Event::PathChanged`].
    PathChanged,
    /// See [`Event::Unsettled`].
    Unsettled,
    /// See [`Event::SwitchNow`].
    SwitchNow,
}

/// See [`Line::Decision`]: the action, and what was known at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at_us: u64,
    /// `copy`, `count`, `take-bitmap`, `suspend`, `copy-final`, `finish`,
    /// `refuse`, `resume` or `run-on`.
    pub action: String,
    /// The round under way, or the last one.
    pub round: u32,
    /// Pages to copy.
    pub pages: Option<u64>,
    /// Why it refuses.
    pub reason: Option<String>,
    /// Pages dirty when last counted.
    pub dirty_pages: Option<u64>,
    /// The pause predicted last.
    pub predicted_us: Option<PartsUs>,
    /// And what was expected of it.
    #[serde(default)]
    pub expected_us: Option<PartsUs>,
    /// How fast the guest dirties pages.
    pub dirty_rate: Range,
    /// How fast the link carries them.
    pub transfer_rate: Range,
    /// Of a refusal: the smallest limit that would have fitted.
    pub smallest_limit_us: Option<u64>,
    /// Of a refusal: bytes a second that would have been needed.
    pub bandwidth_needed: Option<u64>,
}

/// See [`Downtime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsUs {
    /// See [`Downtime::suspend`], µs.
    pub suspend: u64,
    /// See [`Downtime::final_bitmap`], µs.
    pub final_bitmap: u64,
    /// See [`Downtime::pages`], µs.
    pub pages: u64,
    /// See [`Downtime::cpu_state`], µs.
    pub cpu_state: u64,
    /// See [`Downtime::landing`], µs.
    pub landing: u64,
}

/// Pages a second, at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// At least.
    pub lower: u64,
    /// At most; 2^64 - 1 is not known.
    pub upper: u64,
}

/// See [`Line::End`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Events in the trace.
    pub events: u64,
    /// Events that came after the trace was full.
    pub left_out: u64,
    /// How the helper's part ended.
    pub outcome: How,
    /// Why.
    pub reason: String,
}

impl From<Config> for Given {
    fn from(config: Config) -> Self {
        Self {
            max_suspend_us: config.limits.max_suspend.map(|limit| limit.micros().0),
            timeout_us: config.limits.timeout.map(|timeout| timeout.micros().0),
            costs_us: config.costs.into(),
            expected_costs_us: Some(config.expected_costs.into()),
            risk_per_mille: Some(config.risk.get()),
            guest_pages: config.guest_pages,
        }
    }
}

impl From<Given> for Config {
    /// A limit of zero, which lull never writes, counts as none.
    fn from(given: Given) -> Self {
        let risk = given.risk_per_mille.and_then(Risk::per_mille);
        Self {
            limits: limits(given.max_suspend_us, given.timeout_us),
            costs: given.costs_us.into(),
            expected_costs: given.expected_costs_us.unwrap_or(given.costs_us).into(),
            risk: risk.unwrap_or_default(),
            guest_pages: given.guest_pages,
        }
    }
}

impl From<FixedCosts> for CostsUs {
    fn from(costs: FixedCosts) -> Self {
        Self {
            suspend: costs.suspend.0,
            final_bitmap: costs.final_bitmap.0,
            cpu_state: costs.cpu_state.0,
            landing: costs.landing.0,
            resume: costs.resume.0,
        }
    }
}

impl From<CostsUs> for FixedCosts {
    fn from(costs: CostsUs) -> Self {
        Self {
            suspend: Micros(costs.suspend),
            final_bitmap: Micros(costs.final_bitmap),
            cpu_state: Micros(costs.cpu_state),
            landing: Micros(costs.landing),
            resume: Micros(costs.resume),
        }
    }
}

fn limits(max_suspend_us: Option<u64>, timeout_us: Option<u64>) -> Limits {
    Limits {
        max_suspend: max_suspend_us.and_then(|us| DowntimeLimit::new(Micros(us))),
        timeout: timeout_us.and_then(|us| Timeout::new(Micros(us))),
    }
}

impl From<Event> for What {
    fn from(event: Event) -> Self {
        match event {
            Event::Begin { pages, took_bitmap } => Self::Begin {
                pages,
                took_bitmap_us: took_bitmap.0,
            },
            Event::Sent { requested, pages } => Self::Sent { requested, pages },
            Event::Tick { dirty } => Self::Tick { dirty },
            Event::Counted { dirty } => Self::Counted { dirty },
            Event::Bitmap { dirty, took } => Self::Bitmap {
                dirty,
                took_us: took.0,
            },
            Event::Suspended { dirty, took_bitmap } => Self::Suspended {
                dirty,
                took_bitmap_us: took_bitmap.0,
            },
            Event::SuspendFailed => Self::SuspendFailed,
            Event::OutOfTime => Self::OutOfTime,
            Event::RunsOn => Self::RunsOn,
            Event::Cancel => Self::Cancel,
            Event::Limits(limits) => Self::Limits {
                max_suspend_us: limits.max_suspend.map(|limit| limit.micros().0),
                timeout_us: limits.timeout.map(|timeout| timeout.micros().0),
            },
            Event::Bandwidth(cap) => Self::Bandwidth {
                cap: cap.map(|cap| cap.0),
            },
            Event::HeldBack => Self::HeldBack,
            Event::PathChanged => Self::PathChanged,
            Event::Unsettled => Self::Unsettled,
            Event::SwitchNow => Self::SwitchNow,
        }
    }
}

impl From<What> for Event {
    fn from(what: What) -> Self {
        match what {
            What::Begin {
                pages,
                took_bitmap_us,
            } => Self::Begin {
                pages,
                took_bitmap: Micros(took_bitmap_us),
            },
            What::Sent { requested, pages } => Self::Sent { requested, pages },
            What::Tick { dirty } => Self::Tick { dirty },
            What::Counted { dirty } => Self::Counted { dirty },
            What::Bitmap { dirty, took_us } => Self::Bitmap {
                dirty,
                took: Micros(took_us),
            },
            What::Suspended {
                dirty,
                took_bitmap_us,
            } => Self::Suspended {
                dirty,
                took_bitmap: Micros(took_bitmap_us),
            },
            What::SuspendFailed => Self::SuspendFailed,
            What::OutOfTime => Self::OutOfTime,
            What::RunsOn => Self::RunsOn,
            What::Cancel => Self::Cancel,
            What::Limits {
                max_suspend_us,
                timeout_us,
            } => Self::Limits(limits(max_suspend_us, timeout_us)),
            What::Bandwidth { cap } => Self::Bandwidth(cap.map(PageRate)),
            What::HeldBack => Self::HeldBack,
            What::PathChanged => Self::PathChanged,
            What::Unsettled => Self::Unsettled,
            What::SwitchNow => Self::SwitchNow,
        }
    }
}

impl From<Bounds<PageRate>> for Range {
    fn from(bounds: Bounds<PageRate>) -> Self {
        Self {
            lower: bounds.lower.0,
            upper: bounds.upper.0,
        }
    }
}

impl From<Downtime> for PartsUs {
    fn from(downtime: Downtime) -> Self {
        Self {
            suspend: downtime.suspend.0,
            final_bitmap: downtime.final_bitmap.0,
            pages: downtime.pages.0,
            cpu_state: downtime.cpu_state.0,
            landing: downtime.landing.0,
        }
    }
}

impl PartsUs {
    /// All of it; saturates.
    pub fn total(&self) -> u64 {
        [self.final_bitmap, self.pages, self.cpu_state, self.landing]
            .iter()
            .fold(self.suspend, |sum, part| sum.saturating_add(*part))
    }
}

impl Decision {
    /// What the machine said at `at`, unless it said nothing.
    pub fn of(at: Micros, action: &Action, machine: &Machine) -> Option<Self> {
        let (name, pages, refusal): (_, _, Option<&Refusal>) = match action {
            Action::None => return None,
            Action::Copy { pages, .. } => ("copy", Some(*pages), None),
            Action::Count => ("count", None, None),
            Action::TakeBitmap => ("take-bitmap", None, None),
            Action::Suspend => ("suspend", None, None),
            Action::CopyFinal { pages } => ("copy-final", Some(*pages), None),
            Action::Finish => ("finish", None, None),
            Action::Refuse(refusal) => ("refuse", None, Some(refusal)),
            Action::Resume(refusal) => ("resume", None, Some(refusal)),
            Action::RunOn(refusal) => ("run-on", None, Some(refusal)),
        };
        let figures = refusal.map(|refusal| &refusal.figures);
        Some(Self {
            at_us: at.0,
            action: name.into(),
            round: machine.round(),
            pages,
            reason: refusal.map(|refusal| reason(refusal.reason).into()),
            dirty_pages: machine.dirty_count(),
            predicted_us: machine.prediction().map(PartsUs::from),
            expected_us: machine.expected().map(PartsUs::from),
            dirty_rate: machine.dirty_rate().into(),
            transfer_rate: machine.transfer_rate().into(),
            smallest_limit_us: figures
                .and_then(|figures| figures.smallest_limit)
                .map(|limit| limit.0),
            bandwidth_needed: figures
                .and_then(|figures| figures.bandwidth_needed)
                .map(|rate| rate.0),
        })
    }

    /// The first field in which two decisions differ: its name, and both
    /// values.
    pub fn first_difference(&self, other: &Self) -> Option<(String, String, String)> {
        let fields = |decision: &Self| match serde_json::to_value(decision) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let theirs = fields(other);
        fields(self).into_iter().find_map(|(name, mine)| {
            let theirs = theirs.get(&name)?;
            (mine != *theirs).then(|| (name, mine.to_string(), theirs.to_string()))
        })
    }
}

/// The name of a reason.
fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::FixedCosts { part } => match part {
            FixedPart::Suspend => "fixed-costs-suspend",
            FixedPart::FinalBitmap => "fixed-costs-final-bitmap",
            FixedPart::CpuState => "fixed-costs-cpu-state",
            FixedPart::Landing => "fixed-costs-landing",
            FixedPart::Resume => "fixed-costs-resume",
        },
        Reason::Hopeless(Hopeless::Outpaced) => "outpaced",
        Reason::Hopeless(Hopeless::NoProgress) => "no-progress",
        Reason::Hopeless(Hopeless::TooManyRounds) => "too-many-rounds",
        Reason::DowntimeAfterSuspend => "downtime-after-suspend",
        Reason::BehindSchedule => "behind-schedule",
        Reason::Timeout => "timeout",
        Reason::Cancelled => "cancelled",
        Reason::SuspendFailed => "suspend-failed",
    }
}
