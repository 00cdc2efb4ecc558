//! The writer's end of a record.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::fcntl_setpipe_size;
use serde::Serialize;

/// The pipe's size: what is left at the end must fit, so that nothing waits.
const PIPE: usize = 1 << 20;

/// Collects lines and hands them to a keeper, without ever waiting for it.
#[derive(Debug)]
pub struct Pipe<W = ChildStdin> {
    keeper: W,
    unsent: Vec<u8>,
    /// Bytes collected so far.
    bytes: usize,
}

impl Pipe {
    /// Starts a keeper: this binary, with these words.
    ///
    /// # Errors
    /// When it cannot be started: then there is no record.
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
    /// Hands the lines to `keeper`.
    pub const fn to(keeper: W) -> Self {
        Self {
            keeper,
            unsent: Vec::new(),
            bytes: 0,
        }
    }

    /// Bytes added so far.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes not handed over yet.
    pub const fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Adds a line.
    pub fn add(&mut self, line: &impl Serialize) {
        let before = self.unsent.len();
        if serde_json::to_writer(&mut self.unsent, line).is_ok() {
            self.unsent.push(b'\n');
        } else {
            self.unsent.truncate(before);
        }
        self.bytes += self.unsent.len() - before;
    }

    /// Hands over as much as the pipe has room for.
    pub fn hand_over(&mut self) {
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
