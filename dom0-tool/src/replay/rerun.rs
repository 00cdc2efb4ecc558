//! Runs the events of a trace through a machine and compares its decisions with the
//! recorded ones.

use std::fmt;
use std::io::Read;

use lull_base::fmt::{Bytes, Count, Limit, Millis, or_dash};
use lull_base::risk::Risk;
use lull_core::limits::Limits;
use lull_core::machine::{Config, Event, Machine};
use lull_core::units::Micros;
use lull_wire::trace::{Decision, End, EventLine, Header, Line};

use super::reader::{NoTrace, Reader};

/// A trace that is ready to be replayed.
pub struct Rerun<R> {
    reader: Reader<R>,
    header: Header,
    machine: Machine,
    /// The limits given by the operator, which override those of the trace.
    wanted: Limits,
    limits: Compared,
}

/// The limits and the estimate under which the trace is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// As recorded: every decision must be the same.
    Same,
    /// Under other limits or another estimate: the figures may differ.
    Others,
}

/// The result of a replay.
#[derive(Debug)]
pub enum Outcome {
    /// All decisions are the same as recorded.
    Same {
        /// The trace's first line.
        header: Box<Header>,
        /// The number of decisions compared.
        decisions: u64,
        /// The trace's last line.
        end: End,
    },
    /// A decision differs under the recorded limits.
    Different {
        /// The line of the trace.
        line: u64,
        /// The recorded decision, if any.
        recorded: Option<Box<Decision>>,
        /// The replayed decision, if any.
        replayed: Option<Box<Decision>>,
    },
    /// Other limits would have made no difference.
    NoMatter {
        /// The limits of the replay.
        limits: Limits,
        /// The trace's last line.
        end: End,
    },
    /// Other limits would have led to another decision. From there on the trace says
    /// nothing about what would have followed.
    Instead {
        /// The limits of the replay.
        limits: Limits,
        /// The recorded decision, if any.
        recorded: Option<Box<Decision>>,
        /// The decision under the other limits, if any.
        instead: Option<Box<Decision>>,
    },
}

impl<R: Read> Rerun<R> {
    /// Reads the header. A `None` in `wanted` keeps the recorded limit.
    ///
    /// # Errors
    /// If there is no valid header.
    pub fn new(mut reader: Reader<R>, wanted: Limits, risk: Option<Risk>) -> Result<Self, NoTrace> {
        let header = reader.header()?;
        let recorded = Config::from(header.config);
        let limits = instead(wanted, recorded.limits);
        let same_estimate = header.config.risk_per_mille.is_some();
        let compared = match wanted == Limits::default() && risk.is_none() && same_estimate {
            true => Compared::Same,
            false => Compared::Others,
        };
        let risk = risk.map_or(recorded.risk, |risk| risk.0);
        Ok(Self {
            reader,
            header,
            machine: Machine::new(Config {
                limits,
                risk,
                ..recorded
            }),
            wanted,
            limits: compared,
        })
    }

    /// Replays to the end, or to the first difference.
    ///
    /// # Errors
    /// If the lines after the header are not a trace.
    pub fn run(mut self) -> Result<Outcome, NoTrace> {
        let mut decisions = 0;
        let mut events = 0;
        let mut next = self.reader.next()?;
        loop {
            let event_line = match next {
                Some(Line::Event(event_line)) => event_line,
                Some(Line::End(end)) => return self.ended(end, events, decisions),
                Some(_) => return Err(NoTrace::OutOfPlace(self.reader.line())),
                None => return Err(NoTrace::Truncated(self.reader.line())),
            };
            events += 1;
            let replayed = self.step(&event_line)?;
            next = self.reader.next()?;
            let recorded = match next {
                Some(Line::Decision(decision)) => {
                    next = self.reader.next()?;
                    Some(decision)
                }
                _ => None,
            };
            if !self.agree(recorded.as_deref(), replayed.as_deref()) {
                return Ok(self.differs(recorded, replayed));
            }
            decisions += u64::from(recorded.is_some());
        }
    }

    fn step(&mut self, event_line: &EventLine) -> Result<Option<Box<Decision>>, NoTrace> {
        let at = Micros(event_line.at_us);
        let event = match Event::from(event_line.event) {
            Event::Limits(recorded) => Event::Limits(instead(self.wanted, recorded)),
            event => event,
        };
        let action = self.machine.step(at, event);
        let action = action.map_err(|error| NoTrace::Impossible {
            line: self.reader.line(),
            why: error.to_string(),
        })?;
        Ok(Decision::of(at, &action, &self.machine).map(Box::new))
    }

    fn agree(&self, recorded: Option<&Decision>, replayed: Option<&Decision>) -> bool {
        match (self.limits, recorded, replayed) {
            (Compared::Same, recorded, replayed) => recorded == replayed,
            (Compared::Others, Some(recorded), Some(replayed)) => {
                (&recorded.action, recorded.pages, &recorded.reason)
                    == (&replayed.action, replayed.pages, &replayed.reason)
            }
            (Compared::Others, None, None) => true,
            (Compared::Others, _, _) => false,
        }
    }

    fn differs(&self, recorded: Option<Box<Decision>>, replayed: Option<Box<Decision>>) -> Outcome {
        match self.limits {
            Compared::Same => Outcome::Different {
                line: self.reader.line(),
                recorded,
                replayed,
            },
            Compared::Others => Outcome::Instead {
                limits: self.machine.config().limits,
                recorded,
                instead: replayed,
            },
        }
    }

    fn ended(mut self, end: End, events: u64, decisions: u64) -> Result<Outcome, NoTrace> {
        if end.events != events || self.reader.next()?.is_some() {
            return Err(NoTrace::OutOfPlace(self.reader.line()));
        }
        Ok(match self.limits {
            Compared::Same => Outcome::Same {
                header: Box::new(self.header),
                decisions,
                end,
            },
            Compared::Others => Outcome::NoMatter {
                limits: self.machine.config().limits,
                end,
            },
        })
    }
}

/// The wanted limits, completed from the recorded ones.
fn instead(wanted: Limits, recorded: Limits) -> Limits {
    Limits {
        max_suspend: wanted.max_suspend.or(recorded.max_suspend),
        timeout: wanted.timeout.or(recorded.timeout),
    }
}

fn in_words(limits: &Limits) -> String {
    format!(
        "limit {}, timeout {}",
        or_dash(limits.max_suspend.map(|limit| Limit(limit.micros().0))),
        or_dash(limits.timeout.map(|timeout| Limit(timeout.micros().0)))
    )
}

/// `suspend after round 3, at 5,230 ms, with 1,200 pages dirty: predicted pause 210 ms`.
fn described(decision: Option<&Decision>) -> String {
    let Some(decision) = decision else {
        return "nothing".into();
    };
    let what = match (decision.action.as_str(), &decision.reason) {
        ("copy", _) => format!("copy round {}", decision.round),
        ("count", _) => format!("count at the end of round {}", decision.round),
        ("take-bitmap", _) => format!("another round after round {}", decision.round),
        ("hand-over", _) => format!("hand over after round {}", decision.round),
        ("suspend", _) => format!("suspend after round {}", decision.round),
        ("refuse", Some(reason)) => format!("refuse ({reason}) in round {}", decision.round),
        ("run-on", Some(reason)) => format!("resume the guest ({reason}) and try again"),
        ("resume", Some(reason)) => format!("resume the guest ({reason})"),
        (other, _) => other.to_owned(),
    };
    let predicted = decision
        .predicted_us
        .map(|parts| Millis(parts.total().div_ceil(1_000)));
    let mut text = format!(
        "{what}, at {}, with {} pages dirty: predicted pause {}",
        Millis(decision.at_us / 1_000),
        or_dash(decision.dirty_pages.map(Count)),
        or_dash(predicted)
    );
    if let Some(limit) = decision.smallest_limit_us {
        text += &format!("; a limit of {} would do", Millis(limit.div_ceil(1_000)));
    }
    if let Some(rate) = decision.bandwidth_needed {
        text += &format!("; a link of {}/s would do", Bytes(rate));
    }
    text
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same {
                header,
                decisions,
                end,
            } => {
                let limits = Config::from(header.config).limits;
                writeln!(
                    f,
                    "domain {}, {}, lull {}: {}",
                    header.domain,
                    header.started,
                    header.lull,
                    in_words(&limits)
                )?;
                writeln!(
                    f,
                    "the same: {} events led to the same {} decisions",
                    Count(end.events),
                    Count(*decisions)
                )?;
                ending(f, end)
            }
            Self::Different {
                line,
                recorded,
                replayed,
            } => {
                writeln!(f, "different, before line {line}:")?;
                writeln!(f, "  recorded: {}", described(recorded.as_deref()))?;
                writeln!(f, "  replayed: {}", described(replayed.as_deref()))?;
                let difference = recorded
                    .as_deref()
                    .zip(replayed.as_deref())
                    .and_then(|(recorded, replayed)| recorded.first_difference(replayed));
                match difference {
                    Some((name, recorded, replayed)) => {
                        writeln!(f, "  {name}: {recorded} recorded, {replayed} replayed")
                    }
                    None => Ok(()),
                }
            }
            Self::NoMatter { limits, end } => {
                writeln!(f, "under {}: the same decisions", in_words(limits))?;
                ending(f, end)
            }
            Self::Instead {
                limits,
                recorded,
                instead,
            } => {
                writeln!(f, "under {}:", in_words(limits))?;
                writeln!(f, "  recorded: {}", described(recorded.as_deref()))?;
                writeln!(f, "  instead:  {}", described(instead.as_deref()))?;
                writeln!(f, "the trace does not show what would have come after that")
            }
        }
    }
}

fn ending(f: &mut fmt::Formatter<'_>, end: &End) -> fmt::Result {
    if end.left_out > 0 {
        writeln!(
            f,
            "the trace was full: {} more events are not in it",
            Count(end.left_out)
        )?;
    }
    let outcome = serde_json::to_value(end.outcome).unwrap_or_default();
    let outcome = outcome.as_str().unwrap_or("unknown").to_owned();
    match end.reason.as_str() {
        "" => writeln!(f, "it ended: {outcome}"),
        // The reason may come from an untrusted file, so it is escaped.
        reason => writeln!(f, "it ended: {outcome}: {}", reason.escape_debug()),
    }
}
