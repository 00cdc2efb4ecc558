//! The helper's end of a trace.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::time::SystemTime;

use lull_core::machine::{Action, Config, Event, Machine, State};
use lull_core::units::Micros;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::fcntl_setpipe_size;

use super::keeper;
use super::lines::{Decision, End, Header, Line, SCHEMA, Told};
use super::{LARGEST, LONGEST_LINE};
use crate::engine;
use crate::events::How;
use crate::xen::DomId;

/// Lines are handed over when there are so many bytes of them.
const PORTION: usize = 32 << 10;

/// And kept at most, should the keeper not take them.
const UNSENT_MAX: usize = 4 << 20;

/// The pipe's size: what is left at the end must fit, so that nothing waits.
const PIPE: usize = 1 << 20;

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
    keeper: W,
    unsent: Vec<u8>,
    /// Bytes to collect at most.
    largest: usize,
    /// Bytes collected so far.
    bytes: usize,
    events: u64,
    left_out: u64,
}

impl Recorder {
    /// Starts a keeper for an attempt on `domain`.
    ///
    /// # Errors
    /// When it cannot be started: then there is no trace.
    pub fn start(domain: DomId, config: Config) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(keeper::SUBCOMMAND)
            .arg(domain.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        // As large as the host allows.
        let _ = fcntl_setpipe_size(&pipe, PIPE);
        Ok(Self::to(pipe, domain, config))
    }
}

impl<W: Write> Recorder<W> {
    /// Hands the lines to `keeper`.
    pub fn to(keeper: W, domain: DomId, config: Config) -> Self {
        Self::within(LARGEST, keeper, domain, config)
    }

    /// The same, and not more than `largest` bytes of them.
    pub fn within(largest: usize, keeper: W, domain: DomId, config: Config) -> Self {
        let mut recorder = Self {
            keeper,
            unsent: Vec::new(),
            largest,
            bytes: 0,
            events: 0,
            left_out: 0,
        };
        let started = humantime::format_rfc3339_seconds(SystemTime::now());
        recorder.add(&Line::Header(Header {
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
        self.add(&Line::End(End {
            events: self.events,
            left_out: self.left_out,
            outcome,
            reason,
        }));
        self.hand_over();
    }

    fn add(&mut self, line: &Line) {
        let before = self.unsent.len();
        if serde_json::to_writer(&mut self.unsent, line).is_ok() {
            self.unsent.push(b'\n');
        } else {
            self.unsent.truncate(before);
        }
        self.bytes += self.unsent.len() - before;
    }

    /// As much as the pipe has room for.
    fn hand_over(&mut self) {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.keeper.write(&self.unsent[sent..]) {
                Ok(0) => break,
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.unsent.drain(..sent);
    }
}

impl<W: Write> engine::Recorder for Recorder<W> {
    fn record(&mut self, at: Micros, event: Event, action: &Action, machine: &Machine) {
        // Some room stays for the last line. Nothing may be left out but the
        // end, or the rest would not follow on it.
        let full = self.bytes + 4 * LONGEST_LINE > self.largest;
        if full || self.left_out > 0 || self.unsent.len() > UNSENT_MAX {
            self.left_out += 1;
            return;
        }
        self.events += 1;
        self.add(&Line::Event(Told {
            at_us: at.0,
            event: event.into(),
        }));
        if let Some(decision) = Decision::of(at, action, machine) {
            self.add(&Line::Decision(Box::new(decision)));
        }
        let runs = matches!(
            machine.state(),
            State::Copying | State::Counting | State::TakingBitmap
        );
        if runs && self.unsent.len() >= PORTION {
            self.hand_over();
        }
    }
}
