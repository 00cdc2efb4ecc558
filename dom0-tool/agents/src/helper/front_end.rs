//! The front end's socket: events out, commands in.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lull_base::inherited_fd;
use lull_base::lines::{Lines, TooLong};
use lull_wire::events::{Command, Event, FRONT_END_FD, Line, SCHEMA};
use lull_wire::json;

/// Longest line of a command, in bytes.
const LINE_MAX: usize = 4096;

/// Most bytes of events kept for a front end that does not read. Events that are only
/// displayed may fill half of it, and the other half is reserved for those the report
/// needs: a stub may log any amount.
const UNSENT_MAX: usize = 1 << 20;

/// A `lull migrate` that follows this migration.
pub struct FrontEnd {
    out: UnixStream,
    commands: Lines,
    cancelled: bool,
    gone: bool,
    /// Events that the socket has had no room for yet.
    unsent: Vec<u8>,
}

impl FrontEnd {
    /// Whether the environment names a front end.
    pub fn is_named() -> bool {
        std::env::var_os(FRONT_END_FD).is_some()
    }

    /// Connects, if the environment names a socket.
    pub fn connect() -> Option<Self> {
        let out = UnixStream::from(inherited_fd::named(FRONT_END_FD)?);
        out.set_nonblocking(true).ok()?;
        Some(Self::over(out))
    }

    const fn over(out: UnixStream) -> Self {
        Self {
            out,
            commands: Lines::of(LINE_MAX),
            cancelled: false,
            gone: false,
            unsent: Vec::new(),
        }
    }

    /// Sends an event without ever blocking, because the guest may be stopped. A front end
    /// that does not read loses the events beyond [`UNSENT_MAX`] bytes.
    pub fn emit(&mut self, event: Event) {
        let room = match &event {
            Event::Log(_) | Event::Progress(_) => UNSENT_MAX / 2,
            _ => UNSENT_MAX,
        };
        let line = Line {
            schema: SCHEMA,
            event,
        };
        if self.unsent.len() < room {
            self.unsent.extend(json::line(&line).unwrap_or_default());
        }
        while !self.unsent.is_empty() {
            match self.out.write(&self.unsent) {
                Ok(0) => break,
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    /// Waits, up to `deadline`, for a front end that is behind. Call it when nothing is
    /// left to do.
    pub fn flush(&mut self, deadline: Duration) {
        let waits = self.out.set_nonblocking(false).is_ok()
            && self.out.set_write_timeout(Some(deadline)).is_ok();
        if waits {
            let _ = self.out.write_all(&self.unsent);
        }
        self.unsent.clear();
    }

    /// Reads the commands that have arrived, without blocking. Returns whether the front end
    /// has cancelled or is gone; once true, it stays true.
    pub fn poll(&mut self) -> bool {
        while !self.gone {
            match self.commands.read(&mut self.out) {
                Ok(Some(Ok(line))) => {
                    if let Ok(Command::Cancel) = serde_json::from_slice(&line) {
                        self.cancelled = true;
                    }
                }
                Ok(Some(Err(TooLong))) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => self.gone = true,
            }
        }
        self.cancelled || self.gone
    }

    /// The descriptor to poll for commands; `None` once the front end is gone.
    pub fn wake_on(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.out.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use lull_wire::events::{How, Log, PauseParts, Suspended};

    use super::*;
    use lull_engine::{Verdict, never_begun};

    fn pair() -> (FrontEnd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (FrontEnd::over(ours), theirs)
    }

    /// A stub that logs without end, and a front end that does not read.
    #[test]
    fn what_the_report_needs_is_kept_however_much_a_stub_logs() {
        let (mut front_end, mut theirs) = pair();
        let begun = Instant::now();
        for _ in 0..2 * UNSENT_MAX / 1_000 {
            front_end.emit(Event::Log(Log {
                level: "info".into(),
                from: "stub".into(),
                text: "x".repeat(1_000),
            }));
        }
        assert!(front_end.unsent.len() >= UNSENT_MAX / 2, "nothing is lost");
        front_end.emit(Event::Suspended(Suspended {
            requested_at_ms: 1,
            stopped_at_ms: 2,
            dirty_pages: 3,
            requested_monotonic_ns: 4,
            limit_us: None,
            predicted: PauseParts::default(),
            predicted_downtime_ms: None,
            likely_pages_ms: None,
            load_pages: None,
        }));
        let verdict = Verdict::plain(How::RefusedDowntime, "too slow", "");
        front_end.emit(never_begun(begun, &verdict));

        let reader = std::thread::spawn(move || {
            let mut received = String::new();
            theirs.read_to_string(&mut received).unwrap();
            received
        });
        front_end.flush(Duration::from_secs(60));
        drop(front_end);
        let received = reader.join().unwrap();
        let last: Vec<&str> = received.lines().rev().take(2).collect();
        assert!(last[1].contains(r#""type":"suspended""#), "{}", last[1]);
        assert!(last[0].contains(r#""type":"ended""#), "{}", last[0]);
    }
}
