//! Explains a refusal to the operator.

use lull_base::bandwidth::Bandwidth;
use lull_base::fmt::{Bytes, Count, Limit, Millis, beside_limit, or_dash};
use lull_core::downtime::FixedPart;
use lull_core::limits::Limits;
use lull_core::refusal::{NotConverging, Reason, Refusal};
use lull_core::service::Stretch;
use lull_core::units::{Micros, PAGE_SIZE};
use lull_wire::events::{DID_NOT_SUSPEND, How};

/// How an attempt ended, and the explanation for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How the attempt ended.
    pub how: How,
    /// The reason, in one sentence.
    pub reason: String,
    /// What to do next. May be empty.
    pub advice: String,
    /// The smallest limit that would have fitted, milliseconds.
    pub smallest_limit_ms: Option<u64>,
    /// The transfer rate that would have been needed, bytes a second.
    pub needed_rate: Option<u64>,
}

impl Verdict {
    /// An outcome without figures.
    pub fn plain(how: How, reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            how,
            reason: reason.into(),
            advice: advice.into(),
            smallest_limit_ms: None,
            needed_rate: None,
        }
    }

    /// Adds a sentence to the advice.
    pub fn advise(&mut self, sentence: &str) {
        if !self.advice.is_empty() {
            self.advice.push(' ');
        }
        self.advice.push_str(sentence);
    }

    /// Reason, figures and advice in one line, for a log.
    pub fn in_a_line(&self) -> String {
        let limit = self
            .smallest_limit_ms
            .map(|limit| format!("a limit of {}", Millis(limit)));
        let rate = self
            .needed_rate
            .map(|rate| format!("a link of {}/s", Bytes(rate)));
        let fitting = [limit, rate].into_iter().flatten().collect::<Vec<_>>();
        let mut line = self.reason.clone();
        if !fitting.is_empty() {
            line = format!("{line}; {} would have fitted", fitting.join(" or "));
        }
        if !self.advice.is_empty() {
            line = format!("{line}. {}", self.advice.trim_end_matches('.'));
        }
        line
    }
}

impl From<&Refusal> for Verdict {
    fn from(refusal: &Refusal) -> Self {
        let figures = &refusal.figures;
        let (how, reason) = sentence(refusal);
        let suits = !matches!(refusal.reason, Reason::Cancelled | Reason::SuspendFailed);
        let smallest = figures.smallest_limit.filter(|_| suits);
        let needed = figures.bandwidth_needed.filter(|_| suits);
        let advice = match refusal.reason {
            Reason::NotConverging(_) | Reason::Timeout if figures.cap.is_some() => {
                "No more was sent than `bandwidth` allows: allow more (`lull set --bandwidth`, `lull \
                 limits show`)."
            }
            Reason::FixedCosts { .. } => {
                "`lull ledger` shows what that rests on; a destination that has changed can be \
                 forgotten there."
            }
            Reason::SuspendFailed => {
                "Look at the guest's log for tasks that refuse to freeze, and at \
                 control/shutdown in its xenstore."
            }
            _ => "",
        };
        Self {
            smallest_limit_ms: smallest.map(Micros::as_millis_ceil),
            needed_rate: needed.map(|rate| rate.0),
            ..Self::plain(how, reason, advice)
        }
    }
}

/// ` (the slowest 24.0 MiB so far took 9,300 ms, in round 1)`.
fn rests_on(stretch: Stretch) -> String {
    let bytes = Bytes(stretch.pages.saturating_mul(PAGE_SIZE));
    let (took, round) = (millis(stretch.span), stretch.round);
    format!(" (the slowest {bytes} so far took {took}, in round {round})")
}

fn millis(time: Micros) -> Millis {
    Millis(time.as_millis_ceil())
}

/// A pause, and the limit that it is compared with.
fn beside(pause: Option<Micros>, limits: Limits) -> (String, String) {
    let limit = limits.max_suspend.map(|limit| limit.micros().0);
    match (pause, limit) {
        (Some(pause), Some(limit)) => beside_limit(pause.0, limit),
        (pause, limit) => (or_dash(pause.map(millis)), or_dash(limit.map(Limit))),
    }
}

fn sentence(refusal: &Refusal) -> (How, String) {
    let figures = &refusal.figures;
    let predicted = figures.predicted_downtime.map(|pause| pause.total());
    let (predicted, limit) = beside(predicted, figures.limits);
    let expected = figures.expected_downtime.map(|pause| millis(pause.total()));
    let expected = expected.map_or_else(String::new, |expected| format!("{expected} expected, "));
    let dirty = or_dash(figures.dirty_count.map(Count));
    let dirty_rate = Bytes(figures.dirty_rate.upper.0.saturating_mul(PAGE_SIZE));
    let rate = Bytes(figures.expected_rate.bytes().0);
    match refusal.reason {
        Reason::FixedCosts { part } => {
            let (least, limit) = beside(figures.smallest_limit, figures.limits);
            let text = format!(
                "a pause costs at least {least} before a single page is sent, and the limit is \
                 {limit}; the slowest part is {}",
                part_name(part)
            );
            (How::RefusedDowntime, text)
        }
        Reason::NotConverging(why) => {
            let why = match why {
                NotConverging::DirtyRateTooHigh => match figures.cap {
                    Some(cap) => format!(
                        "the guest writes faster ({dirty_rate}/s) than the bandwidth that is \
                         allowed ({})",
                        Bandwidth(Some(cap))
                    ),
                    None => format!(
                        "the guest writes faster ({dirty_rate}/s) than the link carries ({rate}/s)"
                    ),
                },
                NotConverging::Stalled => format!(
                    "the predicted pause has stopped falling, with {dirty} pages dirty at \
                     {dirty_rate}/s over a link of {rate}/s"
                ),
                NotConverging::TooManyRounds => format!(
                    "after {} rounds the predicted pause still falls too slowly",
                    figures.round + 1
                ),
            };
            let basis = figures.rests_on.map_or_else(String::new, rests_on);
            let text = format!(
                "{why}: the pause would be {expected}{predicted} at most{basis}, and the limit is \
                 {limit}"
            );
            (How::RefusedTimeout, text)
        }
        Reason::DowntimeAfterSuspend => {
            let text = format!(
                "once the guest had stopped, {dirty} pages were left to send: the pause would \
                 have been {predicted}, and the limit is {limit}"
            );
            (How::RefusedDowntime, text)
        }
        Reason::BehindSchedule => {
            let text = format!(
                "the last pages were sent too slowly: the pause would have been {predicted} or \
                 more, and the limit is {limit}"
            );
            (How::RefusedDowntime, text)
        }
        Reason::Timeout => {
            let timeout = or_dash(
                figures
                    .limits
                    .timeout
                    .map(|timeout| millis(timeout.micros())),
            );
            let text = match figures.limits.max_suspend {
                Some(_) => format!(
                    "the timeout of {timeout} was reached before the pause would fit: predicted \
                     {predicted}, limit {limit}"
                ),
                None => format!(
                    "the timeout of {timeout} was reached before the guest could be suspended"
                ),
            };
            (How::RefusedTimeout, text)
        }
        Reason::Cancelled => (How::Cancelled, "the attempt was cancelled".into()),
        Reason::SuspendFailed => (How::SourceFailed, DID_NOT_SUSPEND.into()),
    }
}

fn part_name(part: FixedPart) -> &'static str {
    match part {
        FixedPart::Suspend => "the guest's own suspend",
        FixedPart::FinalBitmap => "reading the final dirty bitmap",
        FixedPart::CpuState => "sending the CPU state",
        FixedPart::Landing => "the landing: the destination sets up the guest and its devices",
        FixedPart::Resume => "resuming the guest after a late refusal",
    }
}
