//! The recording end.

use std::io::{self, Write};
use std::process::{Child, ChildStdin};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lull_wire::events::{Begun, Event, Line, SCHEMA};
use lull_xen::DomId;

use super::{LARGEST, keeper};
use crate::kept::Pipe;

/// Room that stays for the last lines.
const LAST_LINES: usize = 64 << 10;

/// Between two lines of progress at least, milliseconds; and as a part of the
/// time gone by, so that an attempt of hours has no more than thousands.
const PROGRESS_MS: u64 = 200;
const PROGRESS_PART: u64 = 500;

/// Lines of an attempt, on their way to a keeper.
#[derive(Debug)]
pub struct Recorder<W = ChildStdin> {
    pipe: Pipe<W>,
    /// When the next progress is of interest.
    progress_from_ms: u64,
}

/// Who records, in [`Begun::through`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// `lull migrate`.
    LullMigrate,
    /// The helper alone, for whoever had libxl start it.
    Libxl,
}

impl Recorder {
    /// Starts a keeper for an attempt to move `guest`. Who waits for the
    /// returned process after dropping the recorder finds the file written.
    ///
    /// # Errors
    /// When it cannot be started: then there is no record.
    pub fn start(
        guest: &str,
        domid: DomId,
        destination: Option<&str>,
        through: Through,
    ) -> io::Result<(Self, Child)> {
        // After `--`: a guest may be called anything.
        let (pipe, child) = Pipe::start(&[keeper::SUBCOMMAND, "--", guest])?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let begun = Begun {
            lull: crate::version().to_owned(),
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
    /// Hands the lines to `pipe`.
    pub fn to(pipe: Pipe<W>, begun: Begun) -> Self {
        let mut recorder = Self {
            pipe,
            progress_from_ms: 0,
        };
        recorder.tell(&Event::Begun(begun));
        recorder
    }

    /// Takes down what happened. Never waits.
    pub fn tell(&mut self, event: &Event) {
        let room = LARGEST.saturating_sub(self.pipe.bytes());
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
            self.pipe.hand_over();
        }
    }
}

/// Waits for a keeper whose recorder was dropped, so that the record is there
/// when the command has ended; not for long, should its disk not answer.
pub fn wait(mut keeper: Child) {
    const PATIENCE: Duration = Duration::from_secs(3);
    let until = Instant::now() + PATIENCE;
    while matches!(keeper.try_wait(), Ok(None)) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
}
