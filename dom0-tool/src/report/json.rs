//! A record as one JSON object.

use serde::Serialize;

use lull_store::ledger::Foresight;
use lull_store::ledger::Row;
use lull_store::runs::Run;
use lull_wire::events::{
    Begun, Ended, Outcome, PauseParts, Progress, RanOn, Round, Started, Suspended,
};

/// The version of these objects.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    run: &'a str,
    outcome: &'a str,
    limit_ms: Option<u64>,
    predicted_downtime_ms: Option<u64>,
    observed_downtime_ms: Option<u64>,
    observed: Option<PauseParts>,
    reason: String,
    begun: Option<&'a Begun>,
    started: Option<&'a Started>,
    rounds: &'a [Round],
    progress: &'a [Progress],
    suspended: Option<&'a Suspended>,
    given_up: &'a [RanOn],
    ended: Option<&'a Ended>,
    result: Option<&'a Outcome>,
    ledger: Vec<Foreseen<'a>>,
    lines_not_understood: u64,
}

/// How well this guest's pauses on the way to a destination were predicted.
#[derive(Debug, Serialize)]
struct Foreseen<'a> {
    destination: &'a str,
    #[serde(flatten)]
    foresight: &'a Foresight,
}

/// Formats the record as one JSON object.
pub fn of(run: &Run, rows: &[Row]) -> String {
    let observed = &run.observed;
    let report = Report {
        schema: SCHEMA,
        kind: "report",
        run: &run.name,
        outcome: run.outcome(),
        limit_ms: run.limit_ms(),
        predicted_downtime_ms: run.predicted_ms(),
        observed_downtime_ms: run.observed_ms(),
        observed: observed.observed_parts(),
        reason: run.reason(),
        begun: run.begun.as_ref(),
        started: observed.started.as_ref(),
        rounds: &run.rounds,
        progress: &run.progress,
        suspended: observed.suspended.as_ref(),
        given_up: &observed.given_up,
        ended: observed.ended.as_ref(),
        result: run.result.as_ref(),
        ledger: rows
            .iter()
            .map(|row| Foreseen {
                destination: &row.destination,
                foresight: &row.foresight,
            })
            .collect(),
        lines_not_understood: run.not_understood,
    };
    serde_json::to_string(&report).unwrap_or_default()
}
