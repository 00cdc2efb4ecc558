//! A record as text and tables.

use comfy_table::presets::ASCII_MARKDOWN;
use lull_base::fmt::{Limit, Millis, or_dash};
use lull_store::ledger::Row;
use lull_store::runs::Run;

use crate::migrate::tables::Tables;

/// The report for a terminal.
pub fn plain(run: &Run, rows: &[Row]) -> String {
    let tables = tables(run).to_string();
    let parts = [
        heading(run),
        verdict(run),
        tables,
        in_the_ledger(rows).join("\n"),
    ];
    joined(parts.into_iter())
}

/// The report for a ticket or a web page.
pub fn markdown(run: &Run, rows: &[Row]) -> String {
    let tables = tables(run);
    let both = [("Rounds", tables.rounds()), ("The pause", tables.pause())];
    let both = both.into_iter().filter_map(|(title, table)| {
        let mut table = table?;
        table.load_style(ASCII_MARKDOWN);
        Some(format!("## {title}\n\n{table}"))
    });
    let listed = |title: &str, lines: Vec<String>| match lines.is_empty() {
        true => String::new(),
        false => format!("## {title}\n\n- {}", lines.join("\n- ")),
    };
    let costs = tables.costs().unwrap_or_default();
    let costs = costs.iter().map(|line| {
        let (what, rest) = line.split_once("  ").unwrap_or(("", line));
        format!("{what}: {}", rest.trim_start())
    });
    let parts = [format!("# {}", heading(run)), verdict(run)]
        .into_iter()
        .chain(both)
        .chain([
            listed("Costs", costs.collect()),
            listed("Predicted and observed", in_the_ledger(rows)),
        ]);
    joined(parts)
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    parts.join("\n\n")
}

fn tables(run: &Run) -> Tables<'_> {
    let result = run.result.as_ref();
    Tables {
        observed: &run.observed,
        moved: result.is_some_and(|result| result.running_on == "destination"),
        expected_ms: result.and_then(|result| result.expected_downtime_ms),
        limit_us: run.limit_us(),
        duration_ms: result.map(|result| result.duration_ms),
        why_classic: result.map_or("", |result| &result.landing_reason),
        why_fewer: result.map_or("", |result| &result.connections_reason),
    }
}

/// The heading: guest, destination, time, and the lull that made the attempt.
fn heading(run: &Run) -> String {
    let lull = run.begun.as_ref().map(|begun| &begun.lull);
    let lull = lull.map(|lull| format!(", lull {lull}"));
    format!("{}{}", whose(run), lull.unwrap_or_default())
}

/// The same without lull's version.
pub fn whose(run: &Run) -> String {
    let Some(begun) = &run.begun else {
        return format!("{}: it does not say whose attempt it was", run.name);
    };
    let to = begun
        .destination
        .as_ref()
        .map(|to| format!(" to {to}"))
        .unwrap_or_default();
    format!(
        "{} (domain {}){to}, {}, through {}",
        begun.guest, begun.domid, begun.started, begun.through
    )
}

/// How the attempt ended, compared with its limits.
pub fn outcome(run: &Run) -> String {
    let mut text = match run.outcome() {
        "sent" => "Sent: the stream was complete; only xl or libvirt knows how the guest arrived.".to_owned(),
        "left-to-stock" => "Left to Xen's own helper: only xl or libvirt knows how that went.".to_owned(),
        "unfinished" => "Unfinished: the process that recorded this attempt died before the attempt ended. Its trace may show more (`lull replay`).".to_owned(),
        outcome => {
            let mut outcome = outcome.replace('-', " ");
            if let Some(first) = outcome.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            format!("{outcome}.")
        }
    };
    if run.predicted_ms().is_some() || run.observed_ms().is_some() {
        let limit = run
            .limit_us()
            .map(|limit| format!("{} allowed", Limit(limit)));
        text.push_str(&format!(
            " The pause: {} predicted at most, {} observed, {}.",
            or_dash(run.predicted_ms().map(Millis)),
            or_dash(run.observed_ms().map(Millis)),
            limit.as_deref().unwrap_or("no limit"),
        ));
    }
    text
}

/// How the attempt ended, and why.
fn verdict(run: &Run) -> String {
    let mut text = outcome(run);
    let reason = run.reason();
    if !reason.is_empty() {
        text.push_str(&format!(" Why: {reason}"));
    }
    match run.not_understood {
        0 => {}
        1 => text.push_str(" (1 line of the record was not understood.)"),
        lines => text.push_str(&format!(
            " ({lines} lines of the record were not understood.)"
        )),
    }
    text
}

/// How well the pauses of this guest were predicted so far.
fn in_the_ledger(rows: &[Row]) -> Vec<String> {
    let line = |row: &Row| {
        let seen = &row.foresight;
        let median = match seen.median_error_percent {
            Some(median) => format!("expectation off by {median:.1} % in the median, "),
            None => String::new(),
        };
        format!(
            "on the way to {}: {} pauses observed, {median}{} longer than predicted at most",
            row.destination, seen.predicted, seen.beyond
        )
    };
    rows.iter().map(line).collect()
}
