//! A prediction in words, as tables, and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use lull_base::duration::Span;
use lull_base::fmt::{Bytes, Count, Limit, Millis};
use lull_base::table::table;
use lull_core::units::{Micros, PAGE_SIZE};
use serde_json::{Value, json};

use super::code_of;
use super::model::{Expected, Model};
use super::sample::{Calls, Sampled};

/// The version of the JSON object; it is raised when the meaning of a field changes.
const SCHEMA: u32 = 1;

/// The limits in the table, in µs, besides the one asked for.
const LIMITS: [u64; 5] = [300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000];

/// The bandwidths in the table, in quarters of the link's own.
const QUARTERS: [u64; 5] = [1, 2, 4, 8, 16];

/// All parts of the report.
pub struct Prediction<'a> {
    pub guest: &'a str,
    pub to: Option<&'a str>,
    /// Whether the ledger knows the destination.
    pub has_history: bool,
    /// The limit on the pause, in µs.
    pub limit: Option<u64>,
    pub timeout: Option<Span>,
    /// The link's rate in pages a second.
    pub rate: u64,
    pub rate_from: &'a str,
    pub sampled: &'a Sampled,
    pub expected: Expected,
    /// The smallest limit under which the guest would move, in µs.
    pub smallest: Option<u64>,
    pub model: &'a Model,
}

impl Prediction<'_> {
    /// The exit code that the migration itself would have.
    pub fn code(&self) -> u8 {
        let refused = self.expected.refused.as_ref();
        refused.map_or(0, |refused| code_of(refused.how))
    }

    /// The title: the guest and the destination.
    #[cfg(feature = "terminal")]
    pub fn title(&self) -> String {
        let to = self.to.map_or(String::new(), |to| format!(" to {to}"));
        format!("{}{to}, predicted", self.guest)
    }

    /// The smallest limit in µs over bandwidths around the link's own, in pages a second.
    #[cfg(feature = "terminal")]
    pub fn curve(&self) -> Vec<(u64, u64)> {
        let rates = (2..=32).map(|eighth| self.rate * eighth / 8);
        let rates = rates.filter(|rate| *rate > 0);
        rates
            .filter_map(|rate| Some((rate, self.model.smallest_limit(rate)?)))
            .collect()
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let guest = self.guest;
        let _ = writeln!(text, "{}", self.verdict());
        let _ = match self.smallest {
            Some(us) => writeln!(text, "The smallest limit that fits: {}.", Millis(up(us))),
            None => writeln!(text, "No limit up to an hour would fit."),
        };
        let _ = writeln!(
            text,
            "{guest} has {}, and goes on to dirty {}/s; the link carries {}/s ({}).",
            Bytes(self.sampled.pages.saturating_mul(PAGE_SIZE)),
            Bytes(self.model.dirty_rate().saturating_mul(PAGE_SIZE)),
            Bytes(self.rate.saturating_mul(PAGE_SIZE)),
            self.rate_from
        );
        let _ = writeln!(text, "{}", self.costs_from());
        if let Some(line) = self.last_pages() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\n{}\n", self.table());
        let sampled = self.sampled;
        let _ = write!(
            text,
            "What this cost {guest}: its dirty log was on for {}; Xen held it up {} times to clear \
             the log, {} ms in all, {} ms at most, and {} times to count, {} ms in all.",
            Millis(millis(sampled.log_on)),
            sampled.cleans.number,
            tenths(sampled.cleans.took),
            tenths(sampled.cleans.longest),
            sampled.peeks.number,
            tenths(sampled.peeks.took),
        );
        text
    }

    fn verdict(&self) -> String {
        let expected = &self.expected;
        let guest = self.guest;
        let mut asked = match self.limit {
            Some(us) => format!("a limit of {}", Limit(us)),
            None => "no limit on its pause".to_owned(),
        };
        if let Some(timeout) = self.timeout {
            asked.push_str(&format!(" and a timeout of {timeout}"));
        }
        let took = format!(
            "{} rounds, {}, {} over the link",
            expected.rounds,
            Millis(millis(expected.took)),
            Bytes(expected.traffic)
        );
        match (&expected.refused, expected.pause) {
            (None, Some(pause)) => {
                let bound = expected.predicted.map_or(String::new(), |bound| {
                    format!(" (at most {})", Millis(millis(bound)))
                });
                format!(
                    "{guest} would move, with {asked}: {took}, a pause of about {}{bound}.",
                    Millis(millis(pause))
                )
            }
            (None, None) => format!("{guest} would move, with {asked}: {took}."),
            (Some(refused), _) => format!(
                "{guest} would be refused, with {asked}: {}. After {took}.",
                refused.reason.trim_end_matches('.')
            ),
        }
    }

    fn costs_from(&self) -> String {
        match (self.has_history, self.to) {
            (true, Some(to)) => {
                format!("The rest of the pause is as the ledger knows it from {to}.")
            }
            (true, None) => {
                "The rest of the pause is the worst that the ledger knows from any destination."
                    .to_owned()
            }
            (false, Some(to)) => format!(
                "The ledger knows nothing of {to}: the rest of the pause is assumed; `lull rehearse` measures it."
            ),
            (false, None) => {
                "The ledger knows nothing yet: the rest of the pause is assumed.".to_owned()
            }
        }
    }

    fn last_pages(&self) -> Option<String> {
        let known = self.model.last_pages();
        (known.pages > 0).then(|| {
            let longer = match known.longer {
                Micros(..1_000) => String::new(),
                longer => format!(", and {} more", Millis(longer.0 / 1_000)),
            };
            format!(
                "In earlier pauses there the last pages, some {}, took {} % of the time that the \
                 link's rate means{longer}; so it is expected again.",
                Count(known.pages),
                known.usual.div_ceil(10)
            )
        })
    }

    /// The rates of the table in pages a second.
    fn rates(&self) -> impl Iterator<Item = u64> {
        let rate = self.rate;
        QUARTERS
            .into_iter()
            .map(move |quarters| (rate * quarters / 4).max(1))
    }

    /// The limits of the table in µs.
    fn limits(&self) -> Vec<u64> {
        let mut limits: Vec<u64> = LIMITS.into_iter().chain(self.limit).collect();
        limits.sort_unstable();
        limits.dedup();
        limits
    }

    fn table(&self) -> String {
        let limits = self.limits();
        let mut header = vec!["bandwidth".to_owned(), "smallest limit".to_owned()];
        header.extend(limits.iter().map(|us| format!("within {}", Limit(*us))));
        let words: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut table = table(&words, 0..words.len());
        for rate in self.rates() {
            let mut row = vec![format!("{}/s", Bytes(rate.saturating_mul(PAGE_SIZE)))];
            let smallest = self.model.smallest_limit(rate);
            row.push(smallest.map_or("none".to_owned(), |us| Millis(up(us)).to_string()));
            row.extend(limits.iter().map(|limit| {
                let expected = self.model.expect(rate, Some(*limit));
                match expected.refused {
                    None => format!("in {}", Millis(millis(expected.took))),
                    Some(_) => "no".to_owned(),
                }
            }));
            table.add_row(row);
        }
        table.to_string()
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        let expected = |expected: &Expected| {
            json!({
                "outcome": match &expected.refused {
                    None => "moved",
                    Some(refused) if code_of(refused.how) == 3 => "refused-downtime",
                    Some(_) => "refused-timeout",
                },
                "exit_code": expected.refused.as_ref().map_or(0, |refused| code_of(refused.how)),
                "reason": expected.refused.as_ref().map(|refused| &refused.reason),
                "duration_ms": millis(expected.took),
                "pause_ms": expected.pause.map(millis),
                "predicted_downtime_ms": expected.predicted.map(millis),
                "rounds": expected.rounds,
                "bytes": expected.traffic,
            })
        };
        let table: Vec<Value> = self
            .rates()
            .map(|rate| {
                let cells: Vec<Value> = self
                    .limits()
                    .into_iter()
                    .map(|limit| {
                        let mut cell = expected(&self.model.expect(rate, Some(limit)));
                        cell["limit_ms"] = json!(limit_millis(limit));
                        cell
                    })
                    .collect();
                json!({
                    "bandwidth": rate.saturating_mul(PAGE_SIZE),
                    "smallest_limit_ms": self.model.smallest_limit(rate).map(up),
                    "limits": cells,
                })
            })
            .collect();
        let calls = |calls: Calls| {
            json!({
                "number": calls.number,
                "took_us": calls.took.as_micros() as u64,
                "longest_us": calls.longest.as_micros() as u64,
            })
        };
        json!({
            "type": "prediction",
            "schema": SCHEMA,
            "guest": self.guest,
            "destination": self.to,
            "limit_ms": self.limit.map(limit_millis),
            "timeout_ms": self.timeout.map(Span::as_millis),
            "bandwidth": self.rate.saturating_mul(PAGE_SIZE),
            "bandwidth_from": self.rate_from,
            "costs_known": self.has_history,
            "pages": self.sampled.pages,
            "dirty_rate": self.model.dirty_rate(),
            "expected": expected(&self.expected),
            "smallest_limit_ms": self.smallest.map(up),
            "table": table,
            "cost": {
                "dirty_log_on_ms": millis(self.sampled.log_on),
                "cleans": calls(self.sampled.cleans),
                "counts": calls(self.sampled.peeks),
            },
            "samples": self.sampled.counts,
        })
        .to_string()
    }
}

/// The milliseconds of a limit that was asked for.
const fn limit_millis(us: u64) -> u64 {
    Micros(us).as_limit_millis()
}

/// The milliseconds of a limit, rounded up so that it suffices.
const fn up(us: u64) -> u64 {
    us.div_ceil(1_000)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds with one decimal.
fn tenths(span: Duration) -> String {
    let tenths = span.as_micros() / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_base::risk::Risk;
    use lull_core::downtime::LastPages;
    use lull_store::ledger::{Known, Ledger};

    #[test]
    fn a_prediction_says_verdict_limit_and_cost() {
        let sampled = Sampled {
            pages: 262_144,
            counts: vec![vec![(100_000, 400), (1_000_000, 500)]],
            ..Sampled::default()
        };
        let known = Ledger::at("/nonexistent/ledger").known(
            "host2",
            "web1",
            lull_wire::events::Landing::Classic,
            |_| {},
        );
        let model = Model::new(&sampled, known.clone(), None, Risk::default());
        let (rate, limit) = (30_517, Some(5_000_000));
        let prediction = Prediction {
            guest: "web1",
            to: Some("host2"),
            has_history: false,
            limit,
            timeout: None,
            rate,
            rate_from: "as given",
            sampled: &sampled,
            expected: model.expect(rate, limit),
            smallest: model.smallest_limit(rate),
            model: &model,
        };
        let text = prediction.text();
        for words in [
            "web1 would move, with a limit of 5,000 ms",
            "The smallest limit that fits: 3,",
            "within 300 ms",
            "What this cost web1",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(prediction.code(), 0);
        assert!(!text.contains("earlier pauses"), "{text}");
        let json: Value = serde_json::from_str(&prediction.json()).unwrap();
        assert_eq!(json["expected"]["outcome"], "moved");
        assert_eq!(json["table"].as_array().unwrap().len(), 5);
        let known = Known {
            last_pages: LastPages {
                usual: 312,
                longer: Micros(24_000),
                most: 468,
                pages: 1_400,
            },
            ..known
        };
        let model = Model::new(&sampled, known, None, Risk::default());
        let text = Prediction {
            model: &model,
            ..prediction
        }
        .text();
        assert!(text.contains("some 1,400, took 32 % of"), "{text}");
        assert!(text.contains("rate means, and 24 ms more; so"), "{text}");
    }
}
