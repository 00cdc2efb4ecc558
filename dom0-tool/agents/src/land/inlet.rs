//! Frames of the source, read in the pieces in which they arrive.

use std::os::fd::BorrowedFd;

use lull_wire::channel::{self, HEADER, ToLand};

use super::serve::End;

/// The frame that is arriving on one connection. Nothing beyond it is read.
#[derive(Debug)]
pub struct Inlet {
    /// The longest body, in bytes.
    longest: usize,
    head: [u8; HEADER],
    body: Vec<u8>,
    /// The memory of an earlier body.
    spare: Vec<u8>,
    /// The number of bytes of head and body that have arrived.
    arrived: usize,
}

impl Inlet {
    /// Nothing has arrived, and a body may have `longest` bytes.
    pub const fn of(longest: usize) -> Self {
        Self {
            longest,
            head: [0; HEADER],
            body: Vec::new(),
            spare: Vec::new(),
            arrived: 0,
        }
    }

    /// Whether a part of a frame has arrived.
    pub const fn is_within_a_frame(&self) -> bool {
        self.arrived > 0
    }

    /// Reads once from a connection that is readable. Returns the frame if it is complete.
    ///
    /// # Errors
    /// When the source has closed its end, or sends what is no frame.
    pub fn read(&mut self, from: BorrowedFd<'_>) -> Result<Option<ToLand>, End> {
        let rest = match self.arrived.checked_sub(HEADER) {
            None => &mut self.head[self.arrived..],
            Some(arrived) => &mut self.body[arrived..],
        };
        // This bypasses std's buffer, because poll does not see the bytes buffered there.
        match rustix::io::read(from, rest) {
            Ok(0) => return Err(End::Gone),
            Ok(count) => self.arrived += count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        if self.arrived < HEADER {
            return Ok(None);
        }
        let (kind, length) = channel::header(self.head);
        if length > self.longest {
            return Err(End::TooLong(length));
        }
        if self.arrived == HEADER {
            self.body = std::mem::take(&mut self.spare);
            self.body.resize(length, 0);
        }
        if self.arrived < HEADER + length {
            return Ok(None);
        }
        self.arrived = 0;
        let body = std::mem::take(&mut self.body);
        Ok(Some(ToLand::decode(kind, body)?))
    }

    /// Uses the memory of a body for the next one, so that it is not zeroed each time.
    pub fn reuse(&mut self, body: Vec<u8>) {
        self.spare = body;
    }
}
