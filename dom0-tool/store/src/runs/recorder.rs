//! The recording end of a run's record.

use std::io::{self, Write};
use std::process::{Child, ChildStdin};
use std::time::{Duration, Instant, SystemTime};

use crate::spool::Pipe;
use lull_base::child::wait_until;
use lull_wire::events::{Begun, Event, Line, SCHEMA};
use lull_xen::DomId;

use super::{MAX_FILE_BYTES, SUBCOMMAND};

/// Bytes reserved for the last lines of a record.
const LAST_LINES: usize = 64 << 10;

/// The shortest time between two lines of progress: in milliseconds, and as a part of the
/// time elapsed. An attempt of hours therefore has no more than thousands of them.
const PROGRESS_MS: u64 = 200;
const PROGRESS_PART: u64 = 500;

/// Sends the lines of an attempt to a spooler.
#[derive(Debug)]
pub struct Recorder<W = ChildStdin> {
    pipe: Pipe<W>,
    /// The time from which the next line of progress is recorded, in milliseconds.
    progress_from_ms: u64,
}

/// The process that records, for [`Begun::through`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The record is made by `lull migrate`.
    LullMigrate,
    /// The record is made by the helper alone, because xl or libvirt was started without
    /// `lull migrate`.
    Libxl,
}

impl Recorder {
    /// Starts a spooler for an attempt to move `guest`. `lull` is the version of this program.
    /// After dropping the recorder, a
    /// caller that waits for the returned process finds the file written.
    ///
    /// # Errors
    /// If the spooler cannot be started; there is then no record.
    pub fn start(
        lull: &str,
        guest: &str,
        domid: DomId,
        destination: Option<&str>,
        through: Through,
    ) -> io::Result<(Self, Child)> {
        // After `--`, because a guest may have any name.
        let (pipe, child) = Pipe::start(&[SUBCOMMAND, "--", guest])?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let begun = Begun {
            lull: lull.to_owned(),
            started: now.to_string(),
            guest: guest.to_owned(),
            domid,
            destination: destination.map(str::to_owned),
            through: match through {
                Through::LullMigrate => "lull migrate",
                Through::Libxl => "libxl",
            }
            .to_owned(),
        };
        Ok((Self::to(pipe, begun), child))
    }
}

impl<W: Write> Recorder<W> {
    /// Sends the lines to `pipe`.
    pub fn to(pipe: Pipe<W>, begun: Begun) -> Self {
        let mut recorder = Self {
            pipe,
            progress_from_ms: 0,
        };
        recorder.add(&Event::Begun(begun));
        recorder
    }

    /// Records an event. Never blocks.
    pub fn add(&mut self, event: &Event) {
        let room = MAX_FILE_BYTES.saturating_sub(self.pipe.bytes());
        let wanted = match event {
            Event::Progress(progress) => {
                let wanted = room > LAST_LINES && progress.at_ms >= self.progress_from_ms;
                if wanted {
                    let pause = PROGRESS_MS.max(progress.at_ms / PROGRESS_PART);
                    self.progress_from_ms = progress.at_ms.saturating_add(pause);
                }
                wanted
            }
            Event::Log(log) => {
                let bad = matches!(log.level.as_str(), "error" | "warn");
                bad && room > LAST_LINES
            }
            _ => room > 0,
        };
        if wanted {
            self.pipe.add(&Line {
                schema: SCHEMA,
                event: event.clone(),
            });
            self.pipe.flush();
        }
    }
}

/// Waits for a spooler whose recorder was dropped, so that the record exists when the
/// command ends. The wait is short, in case the disk does not answer.
pub fn wait(mut spooler: Child) {
    const TIMEOUT: Duration = Duration::from_secs(3);
    wait_until(&mut spooler, Instant::now() + TIMEOUT);
}
