//! The helper's end of a trace.

use std::io::{self, Write};
use std::process::ChildStdin;
use std::time::SystemTime;

use lull_core::machine::{Action, Config, Event, Machine, State};
use lull_core::units::Micros;
use lull_wire::events::How;
use lull_wire::trace::{Decision, End, Header, Line, SCHEMA, Told};
use lull_xen::DomId;

use super::keeper;
use super::{LARGEST, LONGEST_LINE};
use crate::engine;
use crate::kept::Pipe;

/// Lines are handed over when there are so many bytes of them.
const PORTION: usize = 32 << 10;

/// And kept at most, should the keeper not take them.
const UNSENT_MAX: usize = 4 << 20;

/// Where no trace is kept.
#[derive(Debug)]
pub struct Unrecorded;

impl engine::Recorder for Unrecorded {
    fn record(&mut self, _: Micros, _: Event, _: &Action, _: &Machine) {}
}

/// Collects the lines of a trace and hands them to the keeper, without ever
/// waiting for it.
#[derive(Debug)]
pub struct Recorder<W = ChildStdin> {
    pipe: Pipe<W>,
    /// Bytes to collect at most.
    largest: usize,
    events: u64,
    left_out: u64,
}

impl Recorder {
    /// Starts a keeper for an attempt on `domain`.
    ///
    /// # Errors
    /// When it cannot be started: then there is no trace.
    pub fn start(domain: DomId, config: Config) -> io::Result<Self> {
        let (pipe, _) = Pipe::start(&[keeper::SUBCOMMAND, &domain.to_string()])?;
        Ok(Self::within(LARGEST, pipe, domain, config))
    }
}

impl<W: Write> Recorder<W> {
    /// Hands the lines to `pipe`, not more than `largest` bytes of them.
    pub fn within(largest: usize, pipe: Pipe<W>, domain: DomId, config: Config) -> Self {
        let mut recorder = Self {
            pipe,
            largest,
            events: 0,
            left_out: 0,
        };
        let started = humantime::format_rfc3339_seconds(SystemTime::now());
        recorder.pipe.add(&Line::Header(Header {
            schema: SCHEMA,
            lull: crate::version().into(),
            domain,
            started: started.to_string(),
            config: config.into(),
        }));
        recorder
    }

    /// The attempt is over, and so is the pause.
    pub fn end(mut self, outcome: How, reason: &str) {
        // A line has to stay within its bound, whatever failed.
        let reason = reason.chars().take(500).collect();
        self.pipe.add(&Line::End(End {
            events: self.events,
            left_out: self.left_out,
            outcome,
            reason,
        }));
        self.pipe.hand_over();
    }
}

impl<W: Write> engine::Recorder for Recorder<W> {
    fn record(&mut self, at: Micros, event: Event, action: &Action, machine: &Machine) {
        // Some room stays for the last line. Nothing may be left out but the
        // end, or the rest would not follow on it.
        let full = self.pipe.bytes() + 4 * LONGEST_LINE > self.largest;
        if full || self.left_out > 0 || self.pipe.unsent() > UNSENT_MAX {
            self.left_out += 1;
            return;
        }
        self.events += 1;
        self.pipe.add(&Line::Event(Told {
            at_us: at.0,
            event: event.into(),
        }));
        if let Some(decision) = Decision::of(at, action, machine) {
            self.pipe.add(&Line::Decision(Box::new(decision)));
        }
        let runs = matches!(
            machine.state(),
            State::Copying | State::Counting | State::TakingBitmap
        );
        if runs && self.pipe.unsent() >= PORTION {
            self.pipe.hand_over();
        }
    }
}
