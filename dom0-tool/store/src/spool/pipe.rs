//! The writing end of a record.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use lull_wire::json;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::fcntl_setpipe_size;
use serde::Serialize;

/// The size of the pipe in bytes. The last lines must fit, so that nothing blocks.
const PIPE: usize = 1 << 20;

/// Collects lines and sends them to a spooler without ever blocking.
#[derive(Debug)]
pub struct Pipe<W = ChildStdin> {
    spooler: W,
    unsent: Vec<u8>,
    /// The number of bytes collected so far.
    bytes: usize,
}

impl Pipe {
    /// Starts a spooler: this binary with these arguments.
    ///
    /// # Errors
    /// If the spooler cannot be started; there is then no record.
    pub fn start(words: &[&str]) -> io::Result<(Self, Child)> {
        let mut child = Command::new("/proc/self/exe")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        // As large as the host allows.
        let _ = fcntl_setpipe_size(&pipe, PIPE);
        Ok((Self::to(pipe), child))
    }
}

impl<W: Write> Pipe<W> {
    /// Sends the lines to `spooler`.
    pub const fn to(spooler: W) -> Self {
        Self {
            spooler,
            unsent: Vec::new(),
            bytes: 0,
        }
    }

    /// The number of bytes added so far.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bytes not sent yet.
    pub const fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Adds a line as JSON, to be sent with the next [`Self::flush`].
    pub fn add(&mut self, line: &impl Serialize) {
        let line = json::line(line).unwrap_or_default();
        self.bytes += line.len();
        self.unsent.extend(line);
    }

    /// Writes as much as the pipe has room for.
    pub fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.spooler.write(&self.unsent[sent..]) {
                Ok(0) => break,
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.unsent.drain(..sent);
    }
}
