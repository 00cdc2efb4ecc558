//! The tables of an attempt: its rounds, its pause and its costs.

use std::fmt;

use comfy_table::Table;
use lull_base::fmt::{Bytes, Count, Limit, Millis, or_dash};
use lull_base::table::table;
use lull_core::units::PAGE_SIZE;
use lull_store::attempt::observed::ObservedAttempt;
use lull_wire::events::{Ended, Landing, PauseParts, Round};

/// The data that the tables show.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    pub observed: &'a ObservedAttempt,
    /// Whether the guest runs at the destination.
    pub moved: bool,
    /// The expected pause in milliseconds, with history.
    pub expected_ms: Option<u64>,
    /// The downtime limit in microseconds.
    pub limit_us: Option<u64>,
    /// Time from the start of the command to its end, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Why the landing was not fast; empty if nothing was chosen.
    pub why_classic: &'a str,
    /// Why fewer connections than wanted carried the guest; empty if as many did.
    pub why_fewer: &'a str,
}

/// Formats all tables. The text is empty when nothing was copied.
impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = [self.rounds(), self.pause()].into_iter().flatten();
        let mut parts: Vec<String> = tables.map(|table| table.to_string()).collect();
        parts.extend(self.costs().map(|costs| costs.join("\n")));
        f.write_str(&parts.join("\n\n"))
    }
}

impl Tables<'_> {
    /// The table of rounds; `None` before the first round.
    pub fn rounds(&self) -> Option<Table> {
        let rounds = &self.observed.rounds;
        if rounds.count() == 0 {
            return None;
        }
        let mut table = table(
            &[
                "round", "sent", "dirtied", "took", "link", "dirties", "pause", "decision",
            ],
            0..7,
        );
        for round in rounds.first() {
            table.add_row(row(round));
        }
        if rounds.left_out() > 0 {
            let mut cells = vec![String::new(); 8];
            cells[0] = "…".to_owned();
            cells[7] = format!("{} more rounds", rounds.left_out());
            table.add_row(cells);
        }
        for round in rounds.last() {
            table.add_row(row(round));
        }
        Some(table)
    }

    /// The pause by its parts, predicted and observed; `None` if there was no pause.
    pub fn pause(&self) -> Option<Table> {
        let suspended = self.observed.suspended.as_ref()?;
        let observed = self.observed.observed_parts().unwrap_or_default();
        let predicted = &suspended.predicted;
        let mut table = table(&["pause", "predicted, at most", "observed"], 1..3);
        for ((name, predicted), (_, observed)) in named(predicted).zip(named(&observed)) {
            table.add_row([
                name.to_owned(),
                or_dash(predicted.map(Millis)),
                or_dash(observed.map(Millis)),
            ]);
        }
        if let Some((until, after)) = self.observed.landing_split() {
            let (before, and_then) = match self.observed.landing {
                Landing::Classic => ("  until READY", "  after READY"),
                Landing::Fast | Landing::FastHandshakeLast => {
                    ("  until all is in place", "  after that")
                }
            };
            for (name, took) in [(before, Some(until)), (and_then, after)] {
                table.add_row([name.to_owned(), String::new(), or_dash(took.map(Millis))]);
            }
        }
        let sum = match self.moved {
            true => "all of it",
            false => "until it ran on at the source",
        };
        table.add_row([
            sum.to_owned(),
            or_dash(suspended.predicted_downtime_ms.map(Millis)),
            or_dash(self.observed.observed_downtime_ms().map(Millis)),
        ]);
        let expected = self.expected_ms;
        let estimate = self.observed.observed_downtime_estimate_ms();
        if expected.is_some() || estimate.is_some() {
            table.add_row([
                "  as expected".to_owned(),
                or_dash(expected.map(Millis)),
                or_dash(estimate.map(Millis)),
            ]);
        }
        for pause in self.observed.given_up_ms() {
            let pause = Millis(pause).to_string();
            table.add_row(["given up before".to_owned(), String::new(), pause]);
        }
        if let Some(limit) = self.limit_us {
            let limit = Limit(limit).to_string();
            table.add_row(["limit".to_owned(), String::new(), limit]);
        }
        Some(table)
    }

    /// How many connections carried a guest that landed fast, and why not more. Empty where
    /// that need not be said.
    fn connections(&self) -> String {
        let Some(begun) = self.observed.begun_with() else {
            return String::new();
        };
        let mut text = match begun {
            1 if self.why_fewer.is_empty() => return String::new(),
            1 => ", over 1 connection".to_owned(),
            _ => format!(", over {begun} connections"),
        };
        if !self.why_fewer.is_empty() {
            text.push(' ');
            text.push_str(self.why_fewer);
        }
        for lost in &self.observed.connections_lost {
            text.push_str(&format!("; one was lost: {}", lost.reason));
        }
        text
    }

    /// Pages sent and resources used, one line each.
    pub fn costs(&self) -> Option<Vec<String>> {
        let ended: &Ended = self.observed.ended.as_ref()?;
        let pages_a_second = ended
            .pages_sent
            .saturating_mul(1_000)
            .checked_div(ended.at_ms);
        let mut lines = vec![
            format!(
                "sent      {} pages, {}, in {} ({}/s)",
                Count(ended.pages_sent),
                Bytes(ended.bytes_sent),
                Millis(ended.at_ms),
                or_dash(pages_a_second.map(|pages| Bytes(bytes(pages)))),
            ),
            format!(
                "helper    {} of CPU, {} of memory at most",
                Millis(ended.helper_cpu_ms),
                Bytes(ended.helper_peak_bytes),
            ),
        ];
        if let Some(per_mille) = ended.last_pages_per_mille {
            let trip = match ended.round_trip_ms {
                0 => String::new(),
                trip => format!("a round trip took {}, and ", Millis(trip)),
            };
            lines.push(format!(
                "pause     {trip}the last pages took {} % of the time that the link's rate before it meant",
                per_mille.div_ceil(10)
            ));
        }
        if let Some(started) = &self.observed.started {
            lines.push(format!(
                "stub      {} of CPU, {} of memory, there after {}",
                or_dash(ended.stub_cpu_ms.map(Millis)),
                Bytes(started.stub_memory_bytes),
                Millis(started.stub_boot_ms),
            ));
        }
        lines.push(match (self.observed.landing, self.why_classic) {
            (Landing::Classic, "") => "landing   classic".to_owned(),
            (Landing::Classic, why) => format!("landing   classic: {why}"),
            (Landing::Fast, _) => format!("landing   fast{}", self.connections()),
            (Landing::FastHandshakeLast, _) => {
                "landing   fast, with xl's handshake in the pause: the lull there is older"
                    .to_owned()
            }
        });
        if let Some(duration) = self.duration_ms {
            lines.push(format!("in all    {}", Millis(duration)));
        }
        Some(lines)
    }
}

/// The parts of a pause with their names, in order.
pub fn named(parts: &PauseParts) -> impl Iterator<Item = (&'static str, Option<u64>)> {
    [
        ("suspend", parts.suspend_ms),
        ("final bitmap", parts.final_bitmap_ms),
        ("pages", parts.pages_ms),
        ("CPU state", parts.cpu_state_ms),
        ("landing", parts.landing_ms),
    ]
    .into_iter()
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_SIZE)
}

fn row(round: &Round) -> [String; 8] {
    let per_second = |bytes: u64| format!("{}/s", Bytes(bytes));
    [
        round.round.to_string(),
        Count(round.pages_sent).to_string(),
        Count(round.pages_dirtied).to_string(),
        Millis(round.duration_ms).to_string(),
        or_dash(round.transfer_rate.map(per_second)),
        or_dash(round.dirty_rate.map(|pages| per_second(bytes(pages)))),
        or_dash(round.predicted_downtime_ms.map(Millis)),
        round.decision.replace('-', " "),
    ]
}
