//! The helper's end of a trace.

use std::io::{self, Write};
use std::process::ChildStdin;
use std::time::SystemTime;

use crate::spool::Pipe;
use lull_core::machine::{Action, Config, Event, Machine, State};
use lull_core::units::Micros;
use lull_wire::events::How;
use lull_wire::trace::{self, Decision, End, EventLine, Header, Line, SCHEMA};
use lull_xen::DomId;

use super::{MAX_FILE_BYTES, MAX_LINE_BYTES, SUBCOMMAND};

/// The number of collected bytes at which the lines are sent.
const PORTION: usize = 32 << 10;

/// The most bytes kept unsent if the spooler does not take them.
const UNSENT_MAX: usize = 4 << 20;

/// A recorder that keeps no trace.
#[derive(Debug)]
pub struct Unrecorded;

impl trace::Recorder for Unrecorded {
    fn record(&mut self, _: Micros, _: Event, _: &Action, _: &Machine) {}
}

/// Collects the lines of a trace and sends them to the spooler without ever blocking.
#[derive(Debug)]
pub struct Recorder<W = ChildStdin> {
    pipe: Pipe<W>,
    /// The most bytes to collect.
    largest: usize,
    events: u64,
    left_out: u64,
}

impl Recorder {
    /// Starts a spooler for an attempt on `domain`. `lull` is the version of this program.
    ///
    /// # Errors
    /// If the spooler cannot be started; there is then no trace.
    pub fn start(lull: &str, domain: DomId, config: Config) -> io::Result<Self> {
        let (pipe, _) = Pipe::start(&[SUBCOMMAND, &domain.to_string()])?;
        Ok(Self::within(MAX_FILE_BYTES, pipe, lull, domain, config))
    }
}

impl<W: Write> Recorder<W> {
    /// Sends the lines to `pipe`, at most `largest` bytes of them. `lull` is the version of
    /// this program.
    pub fn within(
        largest: usize,
        pipe: Pipe<W>,
        lull: &str,
        domain: DomId,
        config: Config,
    ) -> Self {
        let mut recorder = Self {
            pipe,
            largest,
            events: 0,
            left_out: 0,
        };
        let started = humantime::format_rfc3339_seconds(SystemTime::now());
        recorder.pipe.add(&Line::Header(Box::new(Header {
            schema: SCHEMA,
            lull: lull.into(),
            domain,
            started: started.to_string(),
            config: config.into(),
        })));
        recorder
    }

    /// Records the end of the attempt, when the pause is over too.
    pub fn end(mut self, outcome: How, reason: &str) {
        // A line must stay within its bound, whatever failed.
        let reason = reason.chars().take(500).collect();
        self.pipe.add(&Line::End(End {
            events: self.events,
            left_out: self.left_out,
            outcome,
            reason,
        }));
        self.pipe.flush();
    }
}

impl<W: Write> trace::Recorder for Recorder<W> {
    fn record(&mut self, at: Micros, event: Event, action: &Action, machine: &Machine) {
        // Some room is reserved for the last line. Only the end of a trace may be left out,
        // because the lines after a gap would not follow from those before it.
        let full = self.pipe.bytes() + 4 * MAX_LINE_BYTES > self.largest;
        if full || self.left_out > 0 || self.pipe.unsent() > UNSENT_MAX {
            self.left_out += 1;
            return;
        }
        self.events += 1;
        self.pipe.add(&Line::Event(EventLine {
            at_us: at.0,
            event: event.into(),
        }));
        if let Some(decision) = Decision::of(at, action, machine) {
            self.pipe.add(&Line::Decision(Box::new(decision)));
        }
        let runs = matches!(
            machine.state(),
            State::Copying | State::Counting | State::TakingBitmap | State::HandingOver
        );
        if runs && self.pipe.unsent() >= PORTION {
            self.pipe.flush();
        }
    }
}
