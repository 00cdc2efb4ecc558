//! Transports that pass a migration on: their common part, and the plain transports.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The number of bytes read at a time, so large that the cost of a system call is
/// negligible.
const CHUNK: usize = 64 << 10;

/// The command that really connects to the destination.
pub struct Transport {
    child: Child,
}

impl Transport {
    /// Starts the command with pipes to its input and from its output.
    pub fn start(words: &[&str]) -> Result<Self> {
        let (program, arguments) = words.split_first().context("no transport named")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child })
    }

    /// Returns the command's input; it can be taken once.
    pub fn take_stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("no input")
    }

    /// Returns the command's output; it can be taken once.
    pub fn take_stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("no output")
    }

    /// Returns the command's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the command, and fails if the command failed.
    pub fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        std::process::exit(status.code().unwrap_or(1));
    }
}

/// Copies everything; the end of the input closes the output.
pub fn pump(mut from: impl Read, mut to: impl Write) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length])?;
        to.flush()?;
    }
}

/// Relays, and writes a copy of the sender's bytes to a file.
pub fn tee(file: &str, transport: &[&str]) -> Result<()> {
    let copy = File::create(file).with_context(|| format!("cannot write {file}"))?;
    relay(transport, move |to_child| {
        pump(std::io::stdin(), Both(to_child, copy))
    })
}

/// Relays at no more than a given rate.
pub fn throttle(bytes_per_sec: u64, transport: &[&str]) -> Result<()> {
    relay(transport, move |to_child| {
        pump(std::io::stdin(), Throttled::new(to_child, bytes_per_sec))
    })
}

fn relay(
    transport: &[&str],
    forward: impl FnOnce(ChildStdin) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    let mut transport = Transport::start(transport)?;
    let to_child = transport.take_stdin()?;
    let from_child = transport.take_stdout()?;
    thread::spawn(move || forward(to_child));
    pump(from_child, std::io::stdout())?;
    transport.finish()
}

struct Both<A, B>(A, B);

impl<A: Write, B: Write> Write for Both<A, B> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()?;
        self.1.flush()
    }
}

/// A writer that is limited to a rate.
pub struct Throttled<W> {
    to: W,
    bytes_per_sec: u64,
    start: Instant,
    sent: u64,
}

impl<W> Throttled<W> {
    /// Limits writes to `to` from now on.
    pub fn new(to: W, bytes_per_sec: u64) -> Self {
        Self {
            to,
            bytes_per_sec: bytes_per_sec.max(1),
            start: Instant::now(),
            sent: 0,
        }
    }
}

impl<W: Write> Write for Throttled<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The credit is at most one second, so that a pause of the sender does not permit a
        // burst after it.
        let elapsed = self.start.elapsed();
        let allowed = elapsed.as_micros() as u64 * self.bytes_per_sec / 1_000_000;
        if allowed > self.sent + self.bytes_per_sec {
            self.start = Instant::now();
            self.sent = 0;
        }
        let part = bytes.len().min(16 << 10);
        self.to.write_all(&bytes[..part])?;
        self.sent += part as u64;
        let due = Duration::from_micros(self.sent * 1_000_000 / self.bytes_per_sec);
        if let Some(rest) = due.checked_sub(self.start.elapsed()) {
            thread::sleep(rest);
        }
        Ok(part)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
