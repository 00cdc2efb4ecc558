//! The results of all attempts.

use std::fmt;
use std::sync::Mutex;

use lull_base::table::{Table, table};

use super::Seen;
use super::cells::Then;
use super::faults::Fault;
use super::phases::Phase;

/// A cell that was tried, and its result.
pub struct Row {
    /// The step during which the fault was injected.
    pub phase: Phase,
    /// The fault that was injected.
    pub fault: Fault,
    /// The outcome that was required.
    pub then: Then,
    /// The time that the cell took, in seconds.
    pub seconds: f64,
    /// The outcome that was seen, or the reason why it is wrong.
    pub tried: Result<Seen, String>,
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// Adds a row. If a cell is tried again, the last try counts.
pub fn enter(row: Row) {
    if let Ok(mut rows) = ROWS.lock() {
        rows.retain(|old| (old.phase, old.fault) != (row.phase, row.fault));
        rows.push(row);
    }
}

/// Returns the table of all rows.
pub fn all() -> Option<Table> {
    let rows = ROWS.lock().ok()?;
    if rows.is_empty() {
        return None;
    }
    let header = [
        "phase",
        "fault",
        "the guest",
        "exit",
        "paused",
        "seen outside",
        "slack",
        "lull took",
        "in all",
        "",
    ];
    let mut table = table(&header, 4..9);
    for row in rows.iter() {
        table.add_row(row.words());
    }
    Some(table)
}

impl Row {
    fn words(&self) -> [String; 10] {
        let ms = |ms: f64| format!("{ms:.0} ms");
        let dash = || String::from("–");
        let seen = self.tried.as_ref().ok();
        let outage = seen.and_then(|seen| seen.outage.as_ref());
        [
            self.phase.to_string(),
            self.fault.to_string(),
            String::from(match self.then {
                Then::Stays(_) => "stays",
                Then::Moves(_) => "moves",
                Then::Dies => "is dead",
                Then::Undecided => "waits",
            }),
            seen.map_or_else(dash, |seen| seen.code.to_string()),
            seen.and_then(|seen| seen.pause_ms)
                .map_or_else(dash, |pause| ms(pause as f64)),
            outage.map_or_else(dash, |outage| ms(outage.longest_ms)),
            outage.map_or_else(dash, |outage| ms(outage.dom0_stall_ms)),
            seen.map_or_else(dash, |seen| format!("{:.1} s", seen.attempt_took)),
            format!("{:.1} s", self.seconds),
            String::from(if self.tried.is_ok() { "" } else { "WRONG" }),
        ]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().join(" | ").trim_end())?;
        match &self.tried {
            Ok(_) => Ok(()),
            Err(error) => write!(f, ": {error}"),
        }
    }
}
