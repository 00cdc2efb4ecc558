//! The lines of a trace. Times are in microseconds, either on the machine's clock (zero
//! when the attempt starts) or as durations. Rates are in pages a second.
//!
//! ```text
//! {"type":"header","schema":1,"lull":"0.1.0","domain":7,"started":"2026-…Z","config":{…}}
//! {"type":"event","at_us":310250,"event":"begin","pages":65536,"took_bitmap_us":410}
//! {"type":"decision","at_us":310250,"action":"copy","round":0,"pages":65536,…}
//! {"type":"event","at_us":312891,"event":"sent","requested":1024,"pages":1024}
//! …
//! {"type":"end","events":1234,"left_out":0,"outcome":"stream-complete","reason":""}
//! ```
//! A decision follows the event that led to it. The first line is the header; the last
//! is the end.

use lull_core::downtime::{Downtime, FixedCosts, FixedPart, LastPages, SuspendPages};
use lull_core::limits::{DowntimeLimit, Limits, Risk, Timeout};
use lull_core::machine::{Action, Config, Event, Machine};
use lull_core::refusal::{NotConverging, Reason, Refusal};
use lull_core::units::{Bounds, Micros, PageRate};
use serde::{Deserialize, Serialize};

use crate::events::How;

/// A record of dom0's machine: its input events and its actions.
pub trait Recorder {
    /// Records that the machine received `event` at `at` and decided `action`. Must not
    /// block: the guest may be stopped.
    fn record(&mut self, at: Micros, event: Event, action: &Action, machine: &Machine);
}

/// Version of these lines; raised when the meaning of one changes.
pub const SCHEMA: u32 = 1;

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Line {
    /// The first line of the trace.
    Header(Box<Header>),
    /// An event that the machine received.
    Event(EventLine),
    /// A decision that the machine returned.
    Decision(Box<Decision>),
    /// The last line of the trace.
    End(End),
}

/// See [`Line::Header`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Schema version of the trace; see [`SCHEMA`].
    pub schema: u32,
    /// Version of lull that wrote the trace.
    pub lull: String,
    /// The guest's domain id at the source.
    pub domain: u16,
    /// Start time by dom0's wall clock, for people to read.
    pub started: String,
    /// The configuration that the machine was given.
    pub config: Given,
}

/// The configuration of a [`Machine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The limit on the pause in µs, if there is one.
    pub max_suspend_us: Option<u64>,
    /// The limit on the time until the suspend in µs, if there is one.
    pub timeout_us: Option<u64>,
    /// Upper bounds of the fixed costs of a pause.
    pub costs_us: CostsUs,
    /// The expected fixed costs of a pause; absent in traces written by the first
    /// edition of the estimate.
    #[serde(default)]
    pub expected_costs_us: Option<CostsUs>,
    /// The accepted risk: the share of pauses that may be given up, in tenths of a per
    /// cent.
    #[serde(default)]
    pub risk_per_mille: Option<u16>,
    /// The pages that the guest's kernel dirties in order to stop; absent where the same
    /// was assumed of every guest.
    #[serde(default)]
    pub suspend_pages: Option<StopPages>,
    /// How long the last pages of earlier pauses took; absent where the path's curve alone
    /// was asked.
    #[serde(default)]
    pub last_pages: Option<LastPagesTook>,
    /// The largest number of pages the guest can have.
    pub guest_pages: u64,
    /// Whether the destination is handed the guest before it stops.
    #[serde(default)]
    pub hands_over: bool,
}

/// See [`FixedCosts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// See [`SuspendPages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopPages {
    /// See [`SuspendPages::expected`].
    pub expected: u64,
    /// See [`SuspendPages::most`].
    pub most: u64,
}

/// See [`LastPages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPagesTook {
    /// See [`LastPages::usual`].
    pub usual_per_mille: u64,
    /// See [`LastPages::longer`]; absent in older traces.
    #[serde(default)]
    pub longer_us: u64,
    /// See [`LastPages::most`].
    pub most_per_mille: u64,
    /// See [`LastPages::pages`].
    pub pages: u64,
}

/// See [`Line::Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// When the machine received the event, in µs on its clock.
    pub at_us: u64,
    /// The event that the machine received.
    #[serde(flatten)]
    pub event: What,
}

/// See [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// See [`Event::Begin`].
    Begin {
        /// Number of pages in the round.
        pages: u64,
        /// Time to read the dirty bitmap, in µs.
        #[serde(default)]
        took_bitmap_us: u64,
    },
    /// See [`Event::Sent`].
    Sent {
        /// Number of frames in the batch.
        requested: u32,
        /// Number of those frames whose contents were sent.
        pages: u32,
        /// Number of those frames that were all zero.
        #[serde(default)]
        zeros: u32,
    },
    /// See [`Event::Tick`].
    Tick {
        /// Number of dirty pages.
        dirty: Option<u64>,
    },
    /// See [`Event::Counted`].
    Counted {
        /// Number of dirty pages.
        dirty: u64,
    },
    /// See [`Event::Bitmap`].
    Bitmap {
        /// Number of dirty pages.
        dirty: u64,
        /// Time to read the dirty bitmap, in µs.
        took_us: u64,
    },
    /// See [`Event::Suspended`].
    Suspended {
        /// Number of dirty pages.
        dirty: u64,
        /// Time to read the dirty bitmap, in µs.
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
        /// The limit on the pause, in µs; absent if there is none.
        max_suspend_us: Option<u64>,
        /// The limit on the time until the suspend, in µs; absent if there is none.
        timeout_us: Option<u64>,
    },
    /// See [`Event::Bandwidth`].
    Bandwidth {
        /// The bandwidth cap in pages a second; absent if there is none.
        cap: Option<u64>,
    },
    /// See [`Event::HeldBack`].
    HeldBack,
    /// See [`Event::PathChanged`].
    PathChanged,
    /// See [`Event::RoundTrip`].
    RoundTrip,
    /// See [`Event::Unsettled`].
    Unsettled,
    /// See [`Event::HandedOver`].
    HandedOver,
    /// See [`Event::SwitchNow`].
    SwitchNow,
}

/// See [`Line::Decision`]: the action, and what the machine knew at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When the machine decided, in µs on its clock.
    pub at_us: u64,
    /// The action: `copy`, `count`, `take-bitmap`, `hand-over`, `suspend`, `copy-final`,
    /// `finish`, `refuse`, `resume` or `run-on`.
    pub action: String,
    /// Number of the current round, or of the last one.
    pub round: u32,
    /// Number of pages to copy.
    pub pages: Option<u64>,
    /// Why the machine refuses.
    pub reason: Option<String>,
    /// Number of dirty pages at the last count.
    pub dirty_pages: Option<u64>,
    /// The parts of the last predicted pause: upper bounds.
    pub predicted_us: Option<PartsUs>,
    /// The expected parts of that pause.
    #[serde(default)]
    pub expected_us: Option<PartsUs>,
    /// Bounds of the dirty rate, in pages a second.
    pub dirty_rate: Range,
    /// Bounds of the transfer rate, in pages a second.
    pub transfer_rate: Range,
    /// The smallest limit that would have fitted, in µs; only for a refusal.
    pub smallest_limit_us: Option<u64>,
    /// The transfer rate that would have been needed, in bytes a second; only for a
    /// refusal.
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

/// Bounds of a rate, in pages a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Lower bound in pages a second.
    pub lower: u64,
    /// Upper bound in pages a second; 2^64 - 1 if it is not known.
    pub upper: u64,
}

/// See [`Line::End`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Number of events in the trace.
    pub events: u64,
    /// Number of events that arrived after the trace was full.
    pub left_out: u64,
    /// How the helper's part ended.
    pub outcome: How,
    /// Why the helper's part ended so, as a sentence.
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
            suspend_pages: Some(config.suspend_pages.into()),
            last_pages: Some(config.last_pages.into()),
            guest_pages: config.guest_pages,
            hands_over: config.hands_over,
        }
    }
}

impl From<Given> for Config {
    /// A limit of zero, which lull never writes, is treated as no limit.
    fn from(given: Given) -> Self {
        let risk = given.risk_per_mille.and_then(Risk::per_mille);
        Self {
            limits: limits(given.max_suspend_us, given.timeout_us),
            costs: given.costs_us.into(),
            expected_costs: given.expected_costs_us.unwrap_or(given.costs_us).into(),
            suspend_pages: given
                .suspend_pages
                .map_or(SuspendPages::DEFAULT, SuspendPages::from),
            last_pages: given.last_pages.map_or(LastPages::DEFAULT, LastPages::from),
            risk: risk.unwrap_or_default(),
            guest_pages: given.guest_pages,
            hands_over: given.hands_over,
        }
    }
}

impl From<SuspendPages> for StopPages {
    fn from(SuspendPages { expected, most }: SuspendPages) -> Self {
        Self { expected, most }
    }
}

impl From<StopPages> for SuspendPages {
    fn from(StopPages { expected, most }: StopPages) -> Self {
        Self { expected, most }
    }
}

impl From<LastPages> for LastPagesTook {
    fn from(last: LastPages) -> Self {
        Self {
            usual_per_mille: last.usual,
            longer_us: last.longer.0,
            most_per_mille: last.most,
            pages: last.pages,
        }
    }
}

impl From<LastPagesTook> for LastPages {
    fn from(took: LastPagesTook) -> Self {
        Self {
            usual: took.usual_per_mille,
            longer: Micros(took.longer_us),
            most: took.most_per_mille,
            pages: took.pages,
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
            Event::Sent {
                requested,
                pages,
                zeros,
            } => Self::Sent {
                requested,
                pages,
                zeros,
            },
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
            Event::RoundTrip => Self::RoundTrip,
            Event::Unsettled => Self::Unsettled,
            Event::HandedOver => Self::HandedOver,
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
            What::Sent {
                requested,
                pages,
                zeros,
            } => Self::Sent {
                requested,
                pages,
                zeros,
            },
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
            What::RoundTrip => Self::RoundTrip,
            What::Unsettled => Self::Unsettled,
            What::HandedOver => Self::HandedOver,
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
    /// The sum of all parts in µs; saturates.
    pub fn total(&self) -> u64 {
        [self.final_bitmap, self.pages, self.cpu_state, self.landing]
            .iter()
            .fold(self.suspend, |sum, part| sum.saturating_add(*part))
    }
}

impl Decision {
    /// The decision that `action`, returned at `at`, stands for; `None` for
    /// [`Action::None`].
    pub fn of(at: Micros, action: &Action, machine: &Machine) -> Option<Self> {
        let (name, pages, refusal): (_, _, Option<&Refusal>) = match action {
            Action::None => return None,
            Action::Copy { pages, .. } => ("copy", Some(*pages), None),
            Action::Count => ("count", None, None),
            Action::TakeBitmap => ("take-bitmap", None, None),
            Action::HandOver => ("hand-over", None, None),
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

    /// The first field in which two decisions differ, as its name and both values.
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

/// The name of a reason for a refusal, as the trace writes it.
fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::FixedCosts { part } => match part {
            FixedPart::Suspend => "fixed-costs-suspend",
            FixedPart::FinalBitmap => "fixed-costs-final-bitmap",
            FixedPart::CpuState => "fixed-costs-cpu-state",
            FixedPart::Landing => "fixed-costs-landing",
            FixedPart::Resume => "fixed-costs-resume",
        },
        Reason::NotConverging(NotConverging::DirtyRateTooHigh) => "outpaced",
        Reason::NotConverging(NotConverging::Stalled) => "no-progress",
        Reason::NotConverging(NotConverging::TooManyRounds) => "too-many-rounds",
        Reason::DowntimeAfterSuspend => "downtime-after-suspend",
        Reason::BehindSchedule => "behind-schedule",
        Reason::Timeout => "timeout",
        Reason::Cancelled => "cancelled",
        Reason::SuspendFailed => "suspend-failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_was_written_and_an_older_one_by_what_was_assumed() {
        let config = Config {
            limits: limits(Some(100_000), None),
            costs: FixedCosts::default(),
            expected_costs: FixedCosts::default(),
            suspend_pages: SuspendPages {
                expected: 420,
                most: 530,
            },
            last_pages: LastPages {
                usual: 300,
                longer: Micros(20_000),
                most: 450,
                pages: 400,
            },
            risk: Risk::DEFAULT,
            guest_pages: 49_152,
            hands_over: true,
        };
        let mut written = serde_json::to_value(Given::from(config)).unwrap();
        let read = |written: &serde_json::Value| {
            Config::from(serde_json::from_value::<Given>(written.clone()).unwrap())
        };
        assert_eq!(read(&written), config);
        for absent in ["suspend_pages", "last_pages", "hands_over"] {
            written.as_object_mut().unwrap().remove(absent);
        }
        let older = Config {
            suspend_pages: SuspendPages::DEFAULT,
            last_pages: LastPages::DEFAULT,
            hands_over: false,
            ..config
        };
        assert_eq!(read(&written), older);
    }
}
