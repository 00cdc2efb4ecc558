//! `lull ledger`.

use std::process::ExitCode;

use clap::Args;
use comfy_table::Table;
use lull_base::exit::NOT_BEGUN;
use lull_base::fmt::{Ago, Millis, or_dash};
use lull_base::suggest::did_you_mean;
use lull_base::table::table;
use lull_base::terminal::{to_stderr, to_stdout};
use lull_store::ledger::{FILE, Ledger, LedgerError, Row};
use lull_wire::events::Landing;

/// The options of `lull ledger`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull ledger
  lull ledger --json host2
  lull ledger --forget host2    # a new link, other hardware: learn it anew
  lull ledger --forget-guest web1   # its slow suspends had a cause that is gone

Exit codes: 0 shown, or forgotten; 2 nothing is known of DESTINATION or GUEST,
  or the ledger cannot be written.")]
pub struct Options {
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,

    /// Forget all that is known of DESTINATION
    #[arg(long, requires = "destination", conflicts_with = "json")]
    forget: bool,

    /// Forget all pauses of GUEST, wherever it went
    #[arg(long, value_name = "GUEST", conflicts_with_all = ["json", "forget", "destination"])]
    forget_guest: Option<String>,

    /// Only this one, as it was given to `lull migrate`
    destination: Option<String>,
}

/// Runs `lull ledger` and returns its exit code.
pub fn main(options: &Options) -> ExitCode {
    let ledger = Ledger::at(FILE);
    let say = |line: &str| to_stderr(&format!("lull: {line}"));
    if let (true, Some(destination)) = (options.forget, &options.destination) {
        return match ledger.forget(destination, say) {
            Ok(0) => unknown(&ledger, destination),
            forgot => report_forgotten(forgot, &format!("on the way to {destination}")),
        };
    }
    if let Some(guest) = &options.forget_guest {
        return match ledger.forget_guest(guest, say) {
            Ok(0) => {
                to_stderr(&format!(
                    "lull: no pause of {guest} is known. `lull ledger` shows all there is."
                ));
                NOT_BEGUN.into()
            }
            forgot => report_forgotten(forgot, &format!("of {guest}")),
        };
    }
    let summary = ledger.summary(options.destination.as_deref(), say);
    if options.json {
        to_stdout(&serde_json::to_string(&summary).unwrap_or_default());
    }
    match (&options.destination, summary.rows.is_empty()) {
        (Some(destination), true) => return unknown(&ledger, destination),
        _ if options.json => {}
        (None, true) => to_stdout(&format!(
            "Nothing yet: lull learns from each pause what a destination and a guest need ({FILE})."
        )),
        (_, false) => to_stdout(&in_tables(&summary.rows)),
    }
    ExitCode::SUCCESS
}

fn report_forgotten(forgot: Result<usize, LedgerError>, which: &str) -> ExitCode {
    match forgot {
        Ok(pauses) => {
            let s = if pauses == 1 { "" } else { "s" };
            to_stdout(&format!("Forgot {pauses} pause{s} {which}."));
            ExitCode::SUCCESS
        }
        Err(error) => {
            to_stderr(&format!("lull: the ledger could not be changed: {error}"));
            NOT_BEGUN.into()
        }
    }
}

fn unknown(ledger: &Ledger, destination: &str) -> ExitCode {
    let hint = did_you_mean(&ledger.like(destination));
    to_stderr(&format!(
        "lull: nothing is known of {destination}{hint}. `lull ledger` shows all there is."
    ));
    NOT_BEGUN.into()
}

/// Formats two tables for each destination.
fn in_tables(rows: &[Row]) -> String {
    let of_one = |rows: &[Row]| {
        let destination = rows.first().map_or("", |row| row.destination.as_str());
        let (bounds, foresight) = (bounds(rows), foresight(rows));
        format!("On the way to {destination}, at most:\n{bounds}\n{foresight}")
    };
    let groups = rows.chunk_by(|one, next| one.destination == next.destination);
    groups.map(of_one).collect::<Vec<_>>().join("\n\n")
}

fn name(row: &Row) -> String {
    let name = row.guest.as_deref().unwrap_or("(probe)");
    match row.landing {
        Landing::Classic => name.to_owned(),
        Landing::Fast => format!("{name}, fast landing"),
        Landing::FastHandshakeLast => format!("{name}, fast landing, handshake last"),
    }
}

fn bounds(rows: &[Row]) -> Table {
    let header = [
        "guest",
        "pauses",
        "newest",
        "suspend",
        "bitmap",
        "CPU state",
        "landing",
        "after READY",
        "resume",
    ];
    let mut table = table(&header, 1..header.len());
    for row in rows {
        let ms = |part: Option<u64>| or_dash(part.map(Millis));
        table.add_row([
            name(row),
            row.pauses.to_string(),
            Ago(row.newest_age_s).to_string(),
            ms(row.bounds.suspend_ms),
            ms(row.bounds.final_bitmap_ms),
            ms(row.bounds.cpu_state_ms),
            ms(row.bounds.landing_ms),
            ms(row.bounds.after_ready_ms),
            ms(row.bounds.resume_ms),
        ]);
    }
    table
}

fn foresight(rows: &[Row]) -> Table {
    let header = [
        "guest",
        "moves",
        "expectation off by, median",
        "90 %",
        "beyond prediction",
    ];
    let mut table = table(&header, 1..header.len());
    for row in rows {
        let seen = &row.foresight;
        let percent = |error: Option<f64>| or_dash(error.map(|error| format!("{error:.1} %")));
        table.add_row([
            name(row),
            row.moves.to_string(),
            percent(seen.median_error_percent),
            percent(seen.p90_error_percent),
            format!("{} of {}", seen.beyond, seen.predicted),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_store::ledger::Entry;

    fn ledger_of(entries: Vec<Entry>) -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(folder.path().join("ledger.json"));
        for entry in entries {
            ledger.add("host2", entry, |_| {}).unwrap();
        }
        (folder, ledger)
    }

    #[test]
    fn bounds_and_errors_are_shown_with_their_units() {
        let moved = Entry {
            guest: Some("web1".to_owned()),
            suspend_ms: Some(79),
            landing_ms: Some(2_399),
            expected_ms: Some(2_250),
            predicted_ms: Some(3_000),
            observed_ms: Some(2_500),
            ..Entry::default()
        };
        let (_folder, ledger) = ledger_of(vec![moved, Entry::default()]);
        let summary = ledger.summary(None, |line| panic!("{line}"));
        let shown = in_tables(&summary.rows);
        for words in [
            "host2", "web1", "(probe)", "120 ms", "3,600 ms", "10.0 %", "0 of 1", "–",
        ] {
            assert!(shown.contains(words), "{words}:\n{shown}");
        }
        let object = serde_json::to_value(&summary).unwrap();
        assert_eq!(
            (&object["type"], &object["schema"]),
            (&"ledger".into(), &1.into())
        );
        assert_eq!(object["rows"][1]["bounds"]["landing_ms"], 3_600);
        assert_eq!(object["rows"][1]["foresight"]["median_error_percent"], 10.0);
    }
}
