//! The list of records.

use std::ffi::OsString;
use std::path::Path;

use lull_base::fmt::{Millis, Short, or_dash};
use lull_base::table::table;
use lull_store::runs::Run;
use lull_store::spool::Folder;
use serde::Serialize;

use super::json::SCHEMA;

/// All records, newest first, or why one cannot be read.
pub fn all(folder: &Folder) -> Vec<(String, Result<Run, String>)> {
    let records = folder.records().into_iter();
    let read = records.map(|(name, _)| {
        let run = Run::open(&folder.path().join(&name)).map_err(|error| error.to_string());
        let name = Path::new(&name).file_stem().unwrap_or_default();
        (name.to_string_lossy().into_owned(), run)
    });
    read.collect()
}

/// The names of all records, newest first.
pub fn names(folder: &Folder) -> Vec<String> {
    let stem = |name: &OsString| {
        let stem = Path::new(name).file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    };
    folder
        .records()
        .iter()
        .map(|(name, _)| stem(name))
        .collect()
}

/// Formats the records as a table.
pub fn text(runs: &[(String, Result<Run, String>)], folder: &Folder) -> String {
    if runs.is_empty() {
        return format!(
            "Nothing yet: lull records each attempt on this host ({}).",
            folder.path().display()
        );
    }
    let header = [
        "run",
        "guest",
        "to",
        "outcome",
        "rounds",
        "predicted",
        "observed",
        "limit",
    ];
    let mut table = table(&header, 4..header.len());
    for (name, run) in runs {
        let ms = |time: Option<u64>| or_dash(time.map(Millis));
        table.add_row(match run {
            Ok(run) => vec![
                name.clone(),
                run.guest().to_owned(),
                or_dash(run.destination().map(Short)),
                run.outcome().to_owned(),
                run.rounds.len().to_string(),
                ms(run.predicted_ms()),
                ms(run.observed_ms()),
                ms(run.limit_ms()),
            ],
            Err(why) => vec![name.clone(), String::new(), String::new(), why.clone()],
        });
    }
    table.to_string()
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    run: &'a str,
    guest: Option<&'a str>,
    destination: Option<&'a str>,
    outcome: &'a str,
    rounds: usize,
    predicted_downtime_ms: Option<u64>,
    observed_downtime_ms: Option<u64>,
    limit_ms: Option<u64>,
    error: Option<&'a str>,
}

/// Formats the records as one JSON object.
pub fn json(runs: &[(String, Result<Run, String>)]) -> String {
    let listed: Vec<_> = runs
        .iter()
        .map(|(name, run)| {
            let run = run.as_ref();
            let (ok, error) = (run.ok(), run.err().map(String::as_str));
            Listed {
                run: name,
                guest: ok.map(Run::guest),
                destination: ok.and_then(Run::destination),
                outcome: ok.map_or("unreadable", Run::outcome),
                rounds: ok.map_or(0, |run| run.rounds.len()),
                predicted_downtime_ms: ok.and_then(Run::predicted_ms),
                observed_downtime_ms: ok.and_then(Run::observed_ms),
                limit_ms: ok.and_then(Run::limit_ms),
                error,
            }
        })
        .collect();
    serde_json::json!({"type": "reports", "schema": SCHEMA, "runs": listed}).to_string()
}
