//! Reports the watched migrations line by line, for pipes, logs and scripts.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use lull_base::fmt::{Bytes, Count, Seconds, or_dash};
use lull_core::units::PAGE_SIZE;
use lull_store::running::folder::ControlSocket;
use lull_wire::control::{Phase, SCHEMA, Status};
use serde::Serialize;

use super::View;
use super::outcome::Last;
use super::phrases;
use crate::control::show::{as_json, doing};

/// The shortest interval between two lines on one migration when rounds have ended.
const ROUNDS: Duration = Duration::from_secs(1);

/// The shortest interval when only the progress has changed.
const PROGRESS: Duration = Duration::from_secs(5);

/// The writer of the lines.
pub struct Lines<W> {
    to: W,
    json: bool,
    closed: bool,
    shown: HashMap<ControlSocket, Shown>,
}

/// What was last reported of one migration.
struct Shown {
    at: Instant,
    status: Status,
}

/// The last line on a migration, as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    schema: u32,
    r#type: &'static str,
    domid: u16,
    name: Option<&'a str>,
    helper_pid: u32,
    outcome: &'static str,
    said: &'a str,
}

impl<W: Write> Lines<W> {
    /// Writes the lines `to` this writer, as JSON or as text.
    pub fn new(to: W, json: bool) -> Self {
        Self {
            to,
            json,
            closed: false,
            shown: HashMap::new(),
        }
    }

    /// Whether the reader has closed its end.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reports a change, unless the last line is too recent.
    pub fn print(&mut self, view: &View<'_>) {
        if let Some(last) = view.last {
            self.shown.remove(view.socket);
            let line = if self.json {
                outcome(view, last)
            } else {
                last.said.clone()
            };
            return self.line(&line);
        }
        let Some(status) = view.status else { return };
        if self.json {
            return self.line(&as_json(status.clone()));
        }
        if self
            .shown
            .get(view.socket)
            .is_none_or(|shown| shown.is_due(status))
        {
            let shown = Shown {
                at: Instant::now(),
                status: status.clone(),
            };
            self.shown.insert(view.socket.clone(), shown);
            self.line(&in_words(view, status));
        }
    }

    fn line(&mut self, line: &str) {
        let written = writeln!(self.to, "{line}").and_then(|()| self.to.flush());
        self.closed |= written.is_err();
    }
}

impl Shown {
    fn is_due(&self, now: &Status) -> bool {
        let before = &self.status;
        let since = self.at.elapsed();
        let limits = |status: &Status| (status.limit_ms, status.timeout_ms, status.bandwidth);
        before.phase != now.phase
            || limits(before) != limits(now)
            || before.rounds.back() != now.rounds.back() && since >= ROUNDS
            || since >= PROGRESS
    }
}

fn outcome(view: &View<'_>, last: &Last) -> String {
    let line = Outcome {
        schema: SCHEMA,
        r#type: "outcome",
        domid: view.socket.domid,
        name: view.status.and_then(|status| status.name.as_deref()),
        helper_pid: view.socket.helper,
        outcome: last.outcome,
        said: &last.said,
    };
    serde_json::to_string(&line).unwrap_or_default()
}

fn in_words(view: &View<'_>, status: &Status) -> String {
    let mut line = format!("{}: {}", view.title, doing(status));
    let mut add = |what: String| line.push_str(&format!("; {what}"));
    if let Some(progress) = &status.progress
        && status.phase == Phase::Copying
    {
        add(format!(
            "sent {}, {} pages dirty",
            Bytes(progress.pages_sent.saturating_mul(PAGE_SIZE)),
            or_dash(progress.dirty_pages.map(Count))
        ));
        add(format!("pause {}", phrases::pause(status)));
    }
    match status.timeout_ms {
        Some(_) => add(format!("time {}", phrases::time(status, view.at_ms))),
        None => add(Seconds(view.at_ms).to_string()),
    }
    if let Some(decided) = phrases::decided(status) {
        add(decided);
    }
    line
}
