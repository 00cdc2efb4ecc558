//! The results as tables or as JSON.

use std::fmt::Write as _;

use comfy_table::Table;
use lull_base::fmt::{Count, Millis, or_dash};
use lull_base::table::table;
use lull_simulator::campaign::Results;
use lull_simulator::draw::{LinkKind, WriterKind};
use lull_simulator::measures::{self, Measures};
use lull_simulator::tally::{Histogram, Tally};
use serde::Serialize;

/// The version of the JSON object; it is raised when the meaning of a field changes.
const SCHEMA: u32 = 1;

const fn writer_name(kind: WriterKind) -> &'static str {
    match kind {
        WriterKind::Steady => "steady",
        WriterKind::Bursty => "bursty",
        WriterKind::Oscillating => "oscillating",
        WriterKind::PhaseChanging => "phase-changing",
    }
}

const fn link_name(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Constant => "constant",
        LinkKind::Jittery => "jittery",
        LinkKind::Distant => "distant",
        LinkKind::Stalling => "stalling",
        LinkKind::Shared => "shared",
        LinkKind::Collapsing => "collapsing",
    }
}

/// All rows; the sum comes last.
fn rows(results: &Results) -> Vec<(&'static str, &'static str, Tally)> {
    let mut rows: Vec<_> = results
        .by_models
        .iter()
        .map(|((writer, link), tally)| (writer_name(*writer), link_name(*link), tally.clone()))
        .collect();
    if rows.len() > 1 {
        rows.push(("all", "all", results.total()));
    }
    rows
}

/// The results as tables and a final line.
pub fn text(results: &Results, seed: u64) -> String {
    let rows = rows(results);
    let mut text = String::new();
    for table in [outcomes(&rows), pauses(&rows)] {
        let _ = writeln!(text, "{table}");
    }
    let total = results.total();
    let _ = writeln!(
        text,
        "Refusals: g0, the fixed costs alone are beyond the limit; g1, no round would help; g2, \
         more dirty\npages than predicted; g3, the stream was late; g4, the destination was. \
         Unnecessary: an oracle\nthat knows the future would have moved the guest; avoidable: even \
         if every fixed cost were at its bound."
    );
    if total.late_stops > 0 {
        let _ = writeln!(
            text,
            "{} guests took longer to stop than assumed: their pause counts from the stop.",
            Count(total.late_stops)
        );
    }
    let _ = writeln!(
        text,
        "{} attempts, seed {seed}: {} guests paused longer than the limit{}",
        Count(total.attempts),
        Count(total.over_limit),
        match total.over_limit_numbers.as_slice() {
            [] => String::new(),
            numbers => format!(" (for one, attempts number {numbers:?})"),
        }
    );
    text
}

/// A table in which all but the first two columns are figures.
fn figures(header: &[&str]) -> Table {
    table(header, 2..header.len())
}

fn outcomes(rows: &[(&str, &str, Tally)]) -> Table {
    let mut table = figures(&[
        "writer",
        "link",
        "attempts",
        "moved",
        "g0",
        "g1",
        "timeout",
        "g2",
        "g3",
        "g4",
        "other",
        "unnecessary",
        "avoidable",
    ]);
    for (writer, link, tally) in rows {
        let other = tally.cancelled + tally.never_stopped + tally.endless;
        let mut cells = vec![(*writer).to_owned(), (*link).to_owned()];
        cells.extend(
            [
                tally.attempts,
                tally.moved,
                tally.fixed_costs,
                tally.hopeless,
                tally.timeout,
                tally.after_suspend,
                tally.behind_schedule,
                tally.not_ready,
                other,
            ]
            .map(|count| Count(count).to_string()),
        );
        for count in [tally.unnecessary, tally.avoidable] {
            cells.push(share(count, tally.attempts));
        }
        table.add_row(cells);
    }
    table
}

fn pauses(rows: &[(&str, &str, Tally)]) -> Table {
    let mut table = figures(&[
        "writer",
        "link",
        "over limit",
        "longest, of limit",
        "pause, median",
        "90 %",
        "prediction off by, median",
        "90 %",
        "beyond prediction",
        "rounds, median",
        "most",
    ]);
    for (writer, link, tally) in rows {
        let millis = |micros: Option<u64>| or_dash(micros.map(|us| Millis(us.div_ceil(1_000))));
        let of_hundred = |thousandths: Option<u64>| {
            or_dash(thousandths.map(|share| format!("{}.{} %", share / 10, share % 10)))
        };
        table.add_row([
            (*writer).to_owned(),
            (*link).to_owned(),
            Count(tally.over_limit).to_string(),
            of_hundred(tally.pause_share.most()),
            millis(tally.pauses.percentile(50)),
            millis(tally.pauses.percentile(90)),
            of_hundred(tally.prediction_error.percentile(50)),
            of_hundred(tally.prediction_error.percentile(90)),
            share(tally.beyond_prediction, tally.moved),
            or_dash(tally.rounds.percentile(50)),
            or_dash(tally.rounds.most()),
        ]);
    }
    table
}

/// How good the estimate is, by kind of link, for steady and bursty guests with this number
/// of attempts each.
pub fn measures(seed: u64, attempts: u64) -> String {
    let kinds = LinkKind::ALL.into_iter();
    let kinds = kinds.filter(|kind| *kind != LinkKind::Collapsing);
    let measured: Vec<_> = kinds
        .map(|kind| (kind, measures::run(kind, seed, attempts)))
        .collect();
    format!("{}\n{}", estimate(&measured), last_pages(&measured))
}

fn estimate(measured: &[(LinkKind, Measures)]) -> Table {
    let mut table = figures(&[
        "link",
        "attempts",
        "refused, though the future allowed it",
        "though it could be known",
        "given up after the stop",
        "pause to the best moment's, median",
        "95 %",
        "pages expected off by, median",
        "90 %",
        "of a guest seen to stop before, median",
        "90 %",
        "bound to observed, median",
        "of a guest seen before, median",
        "beyond the bound",
        "longer under a larger limit",
    ]);
    for (kind, measured) in measured {
        table.add_row([
            link_name(*kind).to_owned(),
            Count(measured.attempts).to_string(),
            share(measured.refused, measured.winnable),
            share(measured.refused_in_vain, measured.winnable),
            share(measured.late, measured.stopped),
            ratio(&measured.moment, 50),
            ratio(&measured.moment, 95),
            off(&measured.error, 50),
            off(&measured.error, 90),
            off(&measured.error_known, 50),
            off(&measured.error_known, 90),
            ratio(&measured.bound, 50),
            ratio(&measured.bound_known, 50),
            share(measured.beyond, measured.stopped),
            share(measured.longer, measured.compared),
        ]);
    }
    table
}

/// How the last pages are foreseen over a path that is another within the pause.
pub fn last_pages(measured: &[(LinkKind, Measures)]) -> Table {
    let mut table = figures(&[
        "link",
        "path within the pause",
        "given up after the stop",
        "pages expected off by, median",
        "90 %",
        "bound to observed, median",
        "beyond the bound",
    ]);
    for (kind, measured) in measured {
        for (known, of) in [
            ("faster, not known", &measured.faster.before),
            ("faster, known", &measured.faster.after),
            ("slower, not known", &measured.slower.before),
            ("slower, known", &measured.slower.after),
        ] {
            table.add_row([
                link_name(*kind).to_owned(),
                known.to_owned(),
                share(of.late, of.stopped),
                off(&of.error, 50),
                off(&of.error, 90),
                ratio(&of.bound, 50),
                share(of.beyond, of.stopped),
            ]);
        }
    }
    table
}

fn ratio(histogram: &Histogram, percent: u64) -> String {
    let at = histogram.percentile(percent);
    or_dash(at.map(|at| format!("{}.{:02}", at / 1_000, at % 1_000 / 10)))
}

fn off(error: &Histogram, percent: u64) -> String {
    let at = error.percentile(percent);
    or_dash(at.map(|at| format!("{}.{} %", at / 10, at % 10)))
}

/// Formats a share as `1.23 %`.
fn share(part: u64, whole: u64) -> String {
    let share = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02} %", share / 100, share % 100)
}

/// The results as one JSON object on one line.
pub fn json(results: &Results, seed: u64) -> String {
    let report = Report {
        kind: "simulation",
        schema: SCHEMA,
        seed,
        models: rows(results).iter().map(Row::of).collect(),
    };
    serde_json::to_string(&report).unwrap_or_default()
}

#[derive(Serialize)]
struct Report {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: u32,
    seed: u64,
    /// One row for each pair of models; the sum comes last if there is more than one.
    models: Vec<Row>,
}

/// See [`Tally`].
#[derive(Serialize)]
struct Row {
    writer: &'static str,
    link: &'static str,
    attempts: u64,
    moved: u64,
    refused_fixed_costs: u64,
    refused_hopeless: u64,
    refused_timeout: u64,
    refused_after_suspend: u64,
    refused_behind_schedule: u64,
    refused_not_ready: u64,
    cancelled: u64,
    never_stopped: u64,
    endless: u64,
    unnecessary: u64,
    avoidable: u64,
    over_limit: u64,
    late_stops: u64,
    resumed: u64,
    beyond_prediction: u64,
    longest_pause_of_limit_permille: Option<u64>,
    pause_us_median: Option<u64>,
    pause_us_p90: Option<u64>,
    prediction_error_permille_median: Option<u64>,
    prediction_error_permille_p90: Option<u64>,
    rounds_median: Option<u64>,
    rounds_most: Option<u64>,
}

impl Row {
    fn of((writer, link, tally): &(&'static str, &'static str, Tally)) -> Self {
        Self {
            writer,
            link,
            attempts: tally.attempts,
            moved: tally.moved,
            refused_fixed_costs: tally.fixed_costs,
            refused_hopeless: tally.hopeless,
            refused_timeout: tally.timeout,
            refused_after_suspend: tally.after_suspend,
            refused_behind_schedule: tally.behind_schedule,
            refused_not_ready: tally.not_ready,
            cancelled: tally.cancelled,
            never_stopped: tally.never_stopped,
            endless: tally.endless,
            unnecessary: tally.unnecessary,
            avoidable: tally.avoidable,
            over_limit: tally.over_limit,
            late_stops: tally.late_stops,
            resumed: tally.resumed,
            beyond_prediction: tally.beyond_prediction,
            longest_pause_of_limit_permille: tally.pause_share.most(),
            pause_us_median: tally.pauses.percentile(50),
            pause_us_p90: tally.pauses.percentile(90),
            prediction_error_permille_median: tally.prediction_error.percentile(50),
            prediction_error_permille_p90: tally.prediction_error.percentile(90),
            rounds_median: tally.rounds.percentile(50),
            rounds_most: tally.rounds.most(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lull_simulator::campaign;
    use lull_simulator::draw::Draw;

    use super::*;

    #[test]
    fn the_report_says_it_all_in_either_form() {
        let results = campaign::run(&Draw::anything(1), 500);
        let text = text(&results, 1);
        assert!(
            text.contains("500 attempts, seed 1: 0 guests paused longer"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&results, 1)).unwrap();
        assert_eq!(json["type"], "simulation");
        assert_eq!(json["schema"], SCHEMA);
        let models = json["models"].as_array().unwrap();
        assert_eq!(models.len(), 25);
        assert_eq!(models[24]["attempts"], 500);
    }
}
