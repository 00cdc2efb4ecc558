//! The findings, and their output.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use lull_base::terminal::to_stdout;
use lull_base::text::{printable, printable_lines};
use lull_wire::events::SCHEMA;
use lull_xen::host::NotReady;
use serde::Serialize;

use crate::enable;

/// What a finding means for a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything is as it should be.
    Ok,
    /// Something will not work, or will work less well.
    Warning,
    /// No migration will work.
    Problem,
}

impl Level {
    fn style(self) -> Style {
        let colour = match self {
            Self::Ok => AnsiColor::Green,
            Self::Warning => AnsiColor::Yellow,
            Self::Problem => AnsiColor::Red,
        };
        colour.on_default()
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, for scripts.
    pub check: &'static str,
    /// The severity of the finding.
    pub level: Level,
    /// What was found: a clause, without a full stop.
    pub found: String,
    /// What to do; empty if everything is as it should be.
    pub cure: String,
}

impl Finding {
    /// A finding of [`Level::Ok`].
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            found: found.into(),
            cure: String::new(),
        }
    }

    /// A finding of [`Level::Warning`].
    pub fn warning(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            cure: cure.into(),
            ..Self::ok(check, found)
        }
    }

    /// A finding of [`Level::Problem`].
    pub fn problem(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level: Level::Problem,
            ..Self::warning(check, found, cure)
        }
    }

    /// A condition that would stop `lull migrate` from beginning.
    pub fn not_ready(check: &'static str, why: &NotReady) -> Self {
        let (found, cure) = why.found_and_cure();
        Self::problem(check, found, cure)
    }

    /// Whether the limits are also kept outside `lull migrate`. That is optional.
    pub fn in_force(check: &'static str, seen: enable::Finding) -> Self {
        match seen.in_force {
            true if seen.cure.is_empty() => Self::ok(check, seen.found),
            _ => Self::warning(check, seen.found, seen.cure),
        }
    }

    fn in_words(&self) -> String {
        let style = self.level.style();
        let (word, found) = (self.level.word(), printable(&self.found));
        let mut text = format!("  {style}{word:<8}{style:#} {found}\n");
        if !self.cure.is_empty() {
            let cure = printable_lines(&self.cure).replace('\n', "\n           ");
            text += &format!("           {cure}\n");
        }
        text
    }
}

/// All findings; each is printed as it is added.
#[derive(Debug)]
pub struct Findings {
    json: bool,
    host: Option<String>,
    /// The number of problems on the current host.
    problems: usize,
    warnings: usize,
    not_ready: Vec<String>,
}

impl Findings {
    /// The first findings belong to this host.
    pub fn new(json: bool) -> Self {
        let findings = Self {
            json,
            host: None,
            problems: 0,
            warnings: 0,
            not_ready: Vec::new(),
        };
        findings.say("This host:\n");
        findings
    }

    /// The following findings belong to the destination.
    pub fn begin(&mut self, host: &str) {
        self.host = Some(host.to_owned());
        (self.problems, self.warnings) = (0, 0);
        self.say(&format!("\n{host}:\n"));
    }

    /// Adds and prints one finding.
    pub fn add(&mut self, finding: Finding) {
        match finding.level {
            Level::Ok => {}
            Level::Warning => self.warnings += 1,
            Level::Problem => self.problems += 1,
        }
        if self.json {
            self.print(&Line::Finding {
                host: self.host.as_deref(),
                finding: &finding,
            });
        } else {
            self.say(&finding.in_words());
        }
    }

    /// Ends the findings of a host and returns whether it is ready.
    pub fn ends(&mut self, name: &str) -> bool {
        let ready = self.problems == 0;
        let not = match ready {
            true => "",
            false => "not ",
        };
        let count = |count: usize, what: &str| match count {
            0 => String::new(),
            1 => format!(", 1 {what}"),
            _ => format!(", {count} {what}s"),
        };
        let (problems, warnings) = (
            count(self.problems, "problem"),
            count(self.warnings, "warning"),
        );
        self.say(&format!("{name} is {not}ready{problems}{warnings}.\n"));
        if !ready {
            self.not_ready.push(name.to_owned());
        }
        ready
    }

    /// Prints the final line for scripts.
    pub fn close(&self) {
        if self.json {
            let ready = self.not_ready.is_empty();
            self.print(&Line::Checked { ready });
        }
    }

    /// Prints the text, in colours if the terminal has them.
    fn say(&self, text: &str) {
        if !self.json {
            let _ = anstream::stdout().lock().write_all(text.as_bytes());
        }
    }

    fn print(&self, line: &Line<'_>) {
        let schema = SCHEMA;
        if let Ok(text) = serde_json::to_string(&Versioned { schema, line }) {
            to_stdout(&text);
        }
    }
}

/// One line of JSON with the schema's version.
#[derive(Debug, Serialize)]
struct Versioned<'a> {
    schema: u32,
    #[serde(flatten)]
    line: &'a Line<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line<'a> {
    Finding {
        /// The destination; `null` for this host.
        host: Option<&'a str>,
        #[serde(flatten)]
        finding: &'a Finding,
    },
    Checked {
        ready: bool,
    },
}
