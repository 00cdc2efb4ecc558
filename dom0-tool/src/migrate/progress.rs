//! The display during a migration: one live line on a terminal, plain lines when piped,
//! JSON when asked for. A failure to write never ends the migration; what cannot be written
//! is not shown.

use std::io::IsTerminal;
use std::process::Child;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lull_base::bandwidth::Bandwidth;
use lull_base::fmt::{Bytes, Count, Millis, Seconds, or_dash};
use lull_base::terminal::{to_stderr, to_stdout};
use lull_core::units::PAGE_SIZE;
use lull_store::runs::{self, recorder::Through};
use lull_xen::host::Guest;

use crate::cli::Migrate;
use lull_wire::events::{
    Event, GuestThen, How, HungUp, Line, Log, PauseParts, Progress, RanOn, RestsOn, Round, SCHEMA,
    Suspended,
};

/// Interval between plain lines within a round.
const PLAIN_PAUSE: Duration = Duration::from_secs(5);

/// Displays an attempt to the operator.
pub struct Watcher {
    manner: Manner,
    verbosity: u8,
    limit_ms: Option<u64>,
    timeout_ms: Option<u64>,
    begun: Instant,
    waiting: Waiting,
    progress: Option<Progress>,
    record: Option<(runs::Recorder, Child)>,
}

/// What the display shows while there is no progress.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Pages are not being copied yet.
    Begin,
    /// The guest has stopped; the remaining time cannot be predicted.
    Land,
    /// The attempt was given up; the guest is not paused, or not for long.
    Undo,
}

impl Waiting {
    const fn words(self) -> &'static str {
        match self {
            Self::Begin => "waiting",
            Self::Land => "paused, landing",
            Self::Undo => "undoing what was begun",
        }
    }
}

enum Manner {
    /// One line on the terminal, which is redrawn.
    Live(ProgressBar),
    /// Plain lines at intervals.
    Plain { last: Instant },
    /// Every event, as JSON on standard output.
    Json,
    /// Only notes and errors.
    Quiet,
}

impl Watcher {
    /// Creates the display that the options and the terminal require.
    pub fn new(options: &Migrate) -> Self {
        let manner = if options.json {
            Manner::Json
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // If the template were invalid, the default would be used.
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            Manner::Live(bar)
        } else {
            Manner::Plain {
                last: Instant::now(),
            }
        };
        let millis = |span: Option<lull_base::duration::Span>| span.map(|span| span.as_millis());
        Self {
            manner,
            verbosity: options.verbose,
            limit_ms: millis(options.pause_limit()),
            timeout_ms: millis(options.time_limit()),
            begun: Instant::now(),
            waiting: Waiting::Begin,
            progress: None,
            record: None,
        }
    }

    /// Creates a display for a guest that no operator watches.
    pub fn quiet(verbosity: u8) -> Self {
        Self {
            manner: Manner::Quiet,
            verbosity,
            limit_ms: None,
            timeout_ms: None,
            begun: Instant::now(),
            waiting: Waiting::Begin,
            progress: None,
            record: None,
        }
    }

    /// Records everything from now on.
    pub fn record(&mut self, guest: &Guest, host: &str) {
        let through = Through::LullMigrate;
        match runs::Recorder::start(
            crate::version(),
            &guest.name,
            guest.domid,
            Some(host),
            through,
        ) {
            Ok(record) => self.record = Some(record),
            Err(error) => self.note(&format!("there will be no record of this attempt: {error}")),
        }
    }

    /// Records the result; the record is written when this returns.
    pub fn conclude(&mut self, result: Event) {
        if let Some((mut record, spooler)) = self.record.take() {
            record.add(&result);
            drop(record);
            runs::recorder::wait(spooler);
        }
    }

    /// Displays an event of the helper.
    pub fn event(&mut self, event: &Event) {
        if let Some((record, _)) = &mut self.record {
            record.add(event);
        }
        match event {
            Event::Progress(progress) if self.waiting == Waiting::Begin => {
                self.progress = Some(progress.clone());
            }
            // From here on, progress is not counted in rounds.
            Event::Suspended(_) => (self.progress, self.waiting) = (None, Waiting::Land),
            Event::RanOn(_) => self.waiting = Waiting::Begin,
            Event::Ended(ended) if ended.how == How::StreamComplete => {}
            Event::Ended(_) | Event::HungUp(_) => {
                (self.progress, self.waiting) = (None, Waiting::Undo);
            }
            _ => {}
        }
        if let Manner::Json = self.manner {
            // The front end prints the result itself, once.
            if !matches!(event, Event::Result(_)) {
                print_json(event);
            }
            return;
        }
        if let Manner::Quiet = self.manner {
            if let Event::Log(log) = event {
                self.log(log);
            }
            return;
        }
        match event {
            Event::Started(started) => self.note(&format!(
                "copying {} of guest memory; stub domain {} uses {}",
                Bytes(started.guest_pages.saturating_mul(PAGE_SIZE)),
                started.stub_domid,
                Bytes(started.stub_memory_bytes),
            )),
            Event::Round(round) => self.note(&round_line(round)),
            Event::Suspended(suspended) => self.note(&suspended_line(suspended)),
            Event::RanOn(ran_on) => self.note(&ran_on_line(ran_on)),
            Event::ConnectionLost(lost) => self.note(&format!(
                "a connection was lost ({}); {} left",
                lost.reason, lost.left
            )),
            Event::Log(log) => self.log(log),
            Event::Progress(_) => self.redraw(),
            Event::HungUp(hung_up) => self.hung_up(hung_up),
            Event::Limits(limits) => {
                (self.limit_ms, self.timeout_ms) = (limits.limit_ms, limits.timeout_ms);
                self.note(&format!(
                    "limit {}, timeout {}, bandwidth {} from now on",
                    or_dash(limits.limit_ms.map(Millis)),
                    or_dash(limits.timeout_ms.map(Millis)),
                    Bandwidth::from_bytes(limits.bandwidth.unwrap_or(0))
                ));
            }
            Event::Begun(_)
            | Event::LeftToStock(_)
            | Event::Ended(_)
            | Event::TargetReady(_)
            | Event::Ready(_)
            | Event::HandedOver(_)
            | Event::Answered(_)
            | Event::CancelAsked
            | Event::Rehearsed(_)
            | Event::Result(_) => {}
        }
    }

    fn hung_up(&self, hung_up: &HungUp) {
        if hung_up.guest == GuestThen::Resumed && !hung_up.error.is_empty() {
            self.note(&format!("the guest runs on here, but {}", hung_up.error));
        }
        match (hung_up.guest, hung_up.refused_pause_ms) {
            (GuestThen::Resumed, Some(pause)) => self.note(&format!(
                "the guest runs on here after a pause of {}; the destination was not told to start it",
                Millis(pause)
            )),
            (GuestThen::Resumed, None) => self.note("the guest runs on here"),
            (GuestThen::CouldNotBeResumed, _) => self.note(&format!(
                "the transport could not resume the guest ({}); waiting for xl to",
                hung_up.error
            )),
            (GuestThen::WasNotSuspended | GuestThen::LeftAlone, _) => {}
        }
    }

    /// Redraws the live line, so that elapsed time shows.
    pub fn tick(&mut self) {
        self.redraw();
    }

    /// Prints a line for the operator.
    pub fn note(&self, text: &str) {
        let line = format!("lull: {text}");
        match &self.manner {
            Manner::Live(bar) => bar.suspend(|| to_stderr(&line)),
            Manner::Plain { .. } | Manner::Json | Manner::Quiet => to_stderr(&line),
        }
    }

    /// Prints a line if more output was asked for (`-v`).
    pub fn detail(&self, from: &str, text: &str) {
        if self.verbosity > 0 {
            self.note(&format!("{from}: {text}"));
        }
    }

    /// Removes the live line; the report follows.
    pub fn finish(&self) {
        if let Manner::Live(bar) = &self.manner {
            bar.finish_and_clear();
        }
    }

    fn log(&self, log: &Log) {
        let wanted = match log.level.as_str() {
            "error" | "warn" => 0,
            "info" => 1,
            _ => 2,
        };
        if self.verbosity >= wanted {
            self.note(&format!("{}: {}", log.from, log.text));
        }
    }

    fn redraw(&mut self) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let line = match &self.progress {
            Some(progress) => progress_line(progress, self.limit_ms, self.timeout_ms, elapsed),
            None => format!("{}  elapsed {}", self.waiting.words(), Seconds(elapsed)),
        };
        match &mut self.manner {
            Manner::Live(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            Manner::Plain { last } if self.progress.is_some() && last.elapsed() >= PLAIN_PAUSE => {
                *last = Instant::now();
                self.note(&line);
            }
            Manner::Plain { .. } | Manner::Json | Manner::Quiet => {}
        }
    }
}

/// Prints one event as a line of JSON on standard output.
pub fn print_json(event: &Event) {
    let line = Line {
        schema: SCHEMA,
        event: event.clone(),
    };
    if let Ok(text) = serde_json::to_string(&line) {
        to_stdout(&text);
    }
}

fn progress_line(
    progress: &Progress,
    limit_ms: Option<u64>,
    timeout_ms: Option<u64>,
    elapsed_ms: u64,
) -> String {
    let bytes = |pages: u64| Bytes(pages.saturating_mul(PAGE_SIZE));
    let left = progress.round_pages.saturating_sub(progress.round_sent);
    let mut parts = vec![
        format!("round {}", progress.round),
        format!("sent {}", bytes(progress.pages_sent)),
        format!("left {}", bytes(left)),
    ];
    if let Some(rate) = progress.transfer_rate {
        parts.push(format!("{}/s", Bytes(rate)));
    }
    if let Some(rate) = progress.dirty_rate {
        parts.push(format!("dirties {}/s", bytes(rate)));
    }
    let against = |limit: Option<u64>| {
        limit
            .map(|l| format!(" of {}", Millis(l)))
            .unwrap_or_default()
    };
    if let Some(predicted) = progress.predicted_downtime_ms {
        let expected = progress.expected_downtime_ms.map(Millis);
        let expected = expected.map_or_else(String::new, |expected| format!("{expected}, "));
        let most = Millis(predicted);
        parts.push(format!(
            "pause {expected}at most {most}{}",
            against(limit_ms)
        ));
    }
    let elapsed = Seconds(elapsed_ms);
    parts.push(format!("elapsed {elapsed}{}", against(timeout_ms)));
    parts.join("  ")
}

fn round_line(round: &Round) -> String {
    let mut line = format!(
        "round {}: {} pages sent in {}, {} dirtied",
        round.round,
        Count(round.pages_sent),
        Millis(round.duration_ms),
        Count(round.pages_dirtied),
    );
    if let Some(predicted) = round.predicted_downtime_ms {
        line.push_str(", pause would be ");
        if let Some(expected) = round.expected_downtime_ms {
            line.push_str(&format!("{}, ", Millis(expected)));
        }
        line.push_str(&format!("{} at most", Millis(predicted)));
        if let Some(basis) = &round.rests_on {
            line.push_str(&format!(" (slowest {})", slowest(basis)));
        }
    }
    line.push_str(": ");
    line.push_str(&round.decision.replace('-', " "));
    line
}

fn ran_on_line(ran_on: &RanOn) -> String {
    let (pause, reason) = (Millis(ran_on.pause_ms), &ran_on.reason);
    format!("{reason}; it runs on here after a pause of {pause}, and is tried again")
}

/// Formats the measurement that an estimate rests on, as in
/// `24.0 MiB so far: 9,300 ms, in round 1`.
fn slowest(basis: &RestsOn) -> String {
    let (bytes, took) = (Bytes(basis.bytes), Millis(basis.took_ms));
    format!("{bytes} so far: {took}, in round {}", basis.round)
}

fn suspended_line(suspended: &Suspended) -> String {
    let PauseParts { suspend_ms, .. } = suspended.predicted;
    let took = suspended
        .stopped_at_ms
        .saturating_sub(suspended.requested_at_ms);
    let mut line = format!("guest stopped after {}", Millis(took));
    if let Some(predicted) = suspend_ms {
        line.push_str(&format!(" (at most {} expected)", Millis(predicted)));
    }
    line.push_str(&format!(", {} pages to go", Count(suspended.dirty_pages)));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_line_shows_each_figure_against_its_limit() {
        let progress = Progress {
            at_ms: 0,
            round: 3,
            round_sent: 256,
            round_pages: 512,
            pages_sent: 51_200,
            dirty_pages: None,
            transfer_rate: Some(85 << 20),
            dirty_rate: Some(1_024),
            predicted_downtime_ms: Some(480),
            expected_downtime_ms: Some(210),
        };
        assert_eq!(
            progress_line(&progress, Some(500), Some(60_000), 12_345),
            "round 3  sent 200.0 MiB  left 1.0 MiB  85.0 MiB/s  dirties 4.0 MiB/s  pause 210 ms, at most 480 ms of 500 ms  elapsed 12 s of 60.0 s"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let progress = Progress {
            at_ms: 0,
            round: 0,
            round_sent: 0,
            round_pages: 0,
            pages_sent: 0,
            dirty_pages: None,
            transfer_rate: None,
            dirty_rate: None,
            predicted_downtime_ms: None,
            expected_downtime_ms: None,
        };
        assert_eq!(
            progress_line(&progress, None, None, 0),
            "round 0  sent 0.0 KiB  left 0.0 KiB  elapsed 0 s"
        );
    }
}
