//! A receiver for `xl migrate -s ''` that reads the stream and discards it, to time a
//! sender without a destination.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The banner of `xl migrate-receive` (Xen 4.17, tools/xl/xl.h).
const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";

/// A stream that pauses for this long is complete; the sender then waits for an answer,
/// which it does not get.
const SILENCE: Timespec = Timespec {
    tv_sec: 3,
    tv_nsec: 0,
};

/// The number of bytes before the measurement: headers, and the time that a sender needs
/// before it sends the first pages. Neither counts.
const BEFORE: u64 = 1 << 20;

/// Appends a line to `file` with the bytes received after the first MiB, and the
/// milliseconds from there to the last of them.
pub fn run(file: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(BANNER)?;
    out.flush()?;
    let mut input = std::io::stdin().lock();
    let mut chunk = vec![0; 1 << 20];
    let mut bytes: u64 = 0;
    let mut span = None::<(Instant, Instant)>;
    loop {
        let stdin = std::io::stdin();
        let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        let patience = span.is_some().then_some(&SILENCE);
        if poll(&mut fds, patience)? == 0 {
            break;
        }
        let length = input.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        let now = Instant::now();
        bytes += length as u64;
        if bytes > BEFORE {
            span = Some((span.map_or(now, |(first, _)| first), now));
        }
    }
    let bytes = bytes.saturating_sub(BEFORE);
    let millis = span.map_or(0, |(first, last)| last.duration_since(first).as_millis());
    let mut log = OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(log, "{bytes} {millis}")?;
    Ok(())
}
