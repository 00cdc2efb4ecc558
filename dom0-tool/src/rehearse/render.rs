//! The result of a rehearsal, and its report.

use std::time::Duration;

use comfy_table::Table;
use lull_base::fmt::{Millis, or_dash};
use lull_base::table::table;
use lull_base::terminal;
use lull_store::attempt::observed::ObservedAttempt;
use lull_store::attempt::outcome::{HelperSeen, Outcome};
use lull_wire::events::{self, Event, Landing, PauseParts};

use super::probe_guest::DESTROYS_ITSELF;
use crate::migrate::progress;

/// The result of a rehearsal.
#[derive(Debug)]
pub struct Rehearsed {
    host: String,
    /// How the migration there ended. With [`Outcome::Moved`] the landing is known.
    pub outcome: Outcome,
    /// Why it did not end with a move.
    why: String,
    there: Option<Duration>,
    parts: PauseParts,
    landing: Option<(u64, Option<u64>)>,
    /// The kind of landing, completed or attempted; `None` before it was chosen.
    pub order: Option<Landing>,
    /// A receiver answered at the destination, so it may have created a guest.
    pub has_reported_there: bool,
    /// The destination takes commands, so what is left there can be removed.
    pub takes_commands: bool,
    /// What is left of the probe guest.
    pub left: Left,
}

/// What is left of a rehearsal.
#[derive(Debug)]
pub enum Left {
    /// Nothing is left on either host.
    Nothing,
    /// Why it could not be removed on this host.
    Here(String),
    /// Why it could not be removed at the destination.
    There(String),
}

impl Rehearsed {
    /// The initial state, before anything is known.
    pub fn new(host: &str, takes_commands: bool) -> Self {
        Self {
            host: host.to_owned(),
            outcome: Outcome::SourceFailed,
            why: String::new(),
            there: None,
            parts: PauseParts::default(),
            landing: None,
            order: None,
            has_reported_there: false,
            takes_commands,
            left: Left::Nothing,
        }
    }

    /// Records that the guest did not arrive.
    pub fn fail(&mut self, outcome: Outcome, why: impl Into<String>) {
        self.outcome = match outcome {
            Outcome::Cancelled | Outcome::SourceFailed => outcome,
            // The link was too slow even for this guest, or the guest was lost in transit. As
            // a probe guest it does not have to be looked for.
            _ => Outcome::TargetFailed,
        };
        self.why = why.into();
    }

    /// Records the figures of the migration there.
    pub fn there(&mut self, took: Duration, observed: &ObservedAttempt) {
        self.there = Some(took);
        self.parts = observed.observed_parts().unwrap_or_default();
        self.landing = observed.landing_split();
        self.has_reported_there = observed.helper == HelperSeen::Begun;
    }

    /// Whether the landing there is now known.
    pub fn is_learned(&self) -> bool {
        self.outcome == Outcome::Moved
    }

    /// The exit code of the command.
    pub fn code(&self) -> u8 {
        match &self.left {
            // The message was printed before the rehearsal began.
            Left::There(_) if !self.takes_commands => self.outcome.code(),
            Left::Here(_) | Left::There(_) => Outcome::Unknown.code(),
            Left::Nothing => self.outcome.code(),
        }
    }

    /// A sentence that says why it failed; empty if it did not fail.
    pub fn reason(&self) -> String {
        match self.is_learned() {
            true => String::new(),
            false => format!("the rehearsal did not reach {}: {}", self.host, self.why),
        }
    }

    /// A sentence that says what is left.
    pub fn left(&self) -> String {
        let host = &self.host;
        let within = DESTROYS_ITSELF.as_secs();
        match &self.left {
            Left::Nothing => "Nothing of it is left on either host.".to_owned(),
            Left::Here(why) => format!(
                "The probe guest is left on this host: {why}. It is tried again in the background, and by the next rehearsal."
            ),
            Left::There(why) => format!(
                "The probe guest may be left at {host}: {why}. It destroys itself there within {within} s."
            ),
        }
    }

    /// Prints tables and verdict on standard output; with `--json` only the object.
    pub fn print(&self, json: bool) {
        let say: fn(&str) = match json {
            true => terminal::to_stderr,
            false => terminal::to_stdout,
        };
        if json {
            progress::print_json(&Event::Rehearsed(self.event()));
        } else if self.is_learned() {
            terminal::to_stdout(&format!("{}\n", self.table()));
        }
        let reason = self.reason();
        if !reason.is_empty() {
            let mut letters = reason.chars();
            let first = letters.next().map(|c| c.to_uppercase().to_string());
            say(&format!(
                "{}{}.",
                first.unwrap_or_default(),
                letters.as_str()
            ));
        }
        say(&self.left());
        if self.is_learned() {
            say(&format!(
                "What a {} landing at {} takes is known now.",
                self.order.unwrap_or_default().name(),
                self.host
            ));
            if self.order.is_some_and(Landing::is_fast) {
                say(
                    "xl and virsh land their guests the classic way: `--landing classic` rehearses that.",
                );
            }
        }
    }

    /// The event that `--json` prints.
    pub fn event(&self) -> events::Rehearsed {
        let ms = |span: Duration| span.as_millis() as u64;
        events::Rehearsed {
            host: self.host.clone(),
            outcome: match self.is_learned() {
                true => "learned".to_owned(),
                false => self.outcome.name().to_owned(),
            },
            landing: self.order,
            observed: PauseParts {
                suspend_ms: None,
                pages_ms: None,
                ..self.parts.clone()
            },
            until_ready_ms: self.landing.map(|(until, _)| until),
            after_ready_ms: self.landing.and_then(|(_, after)| after),
            there_ms: self.there.map(ms),
            left_behind: !matches!(self.left, Left::Nothing),
            reason: self.reason(),
        }
    }

    fn table(&self) -> Table {
        let mut table = table(&["on the way there", "observed"], 1..2);
        let split = self.landing;
        for (name, took) in [
            ("final bitmap", self.parts.final_bitmap_ms),
            ("CPU state", self.parts.cpu_state_ms),
            ("landing", self.parts.landing_ms),
            ("  until READY", split.map(|(until, _)| until)),
            ("  after READY", split.and_then(|(_, after)| after)),
        ] {
            table.add_row([name.to_owned(), or_dash(took.map(Millis))]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(takes_commands: bool, left: Left) -> Rehearsed {
        Rehearsed {
            outcome: Outcome::Moved,
            left,
            ..Rehearsed::new("host2", takes_commands)
        }
    }

    #[test]
    fn there_is_a_success() {
        let rehearsed = learned(true, Left::Nothing);
        assert_eq!((rehearsed.code(), rehearsed.reason()), (0, String::new()));
        assert!(rehearsed.left().contains("Nothing"));
    }

    #[test]
    fn what_is_left_is_said_and_counts() {
        let left = || Left::There("no answer".to_owned());
        let rehearsed = learned(true, left());
        assert_eq!(rehearsed.code(), 8);
        assert!(
            rehearsed
                .left()
                .contains("destroys itself there within 300 s")
        );
        assert_eq!(learned(false, left()).code(), 0);
    }

    #[test]
    fn a_failure_on_the_way_there_has_the_code_of_a_migration() {
        for (outcome, code) in [
            (Outcome::Cancelled, 5),
            (Outcome::TargetFailed, 6),
            (Outcome::SourceFailed, 7),
            (Outcome::RefusedDowntime, 6),
            (Outcome::RefusedTimeout, 6),
            (Outcome::Unknown, 6),
        ] {
            let mut rehearsed = Rehearsed::new("host2", true);
            rehearsed.fail(outcome, "why");
            assert_eq!(rehearsed.code(), code);
            assert!(rehearsed.reason().ends_with("did not reach host2: why"));
        }
    }
}
