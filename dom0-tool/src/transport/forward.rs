//! From xl to the destination: the migration stream, whose bytes lull does not
//! look at and, where the kernel can do without, does not copy.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::pipe::{SpliceFlags, splice};

use crate::stream::pipe::enlarge;

/// Most bytes moved by one call; what a pipe holds is moved anyway.
const MOST: usize = 1 << 20;

/// Bytes copied at a time where splice does not work.
const COPIED: usize = 64 << 10;

/// One direction of the relay, until either end closes.
#[derive(Debug)]
pub struct Forward {
    ends: Option<Ends>,
    /// There was something to read, and it is the way out that is waited for.
    readable: bool,
    manner: Manner,
}

#[derive(Debug)]
struct Ends {
    from: OwnedFd,
    to: OwnedFd,
}

#[derive(Debug)]
enum Manner {
    Splice,
    /// One of the ends is no pipe.
    Copy {
        buffer: Box<[u8]>,
        /// What of it is still to be written.
        unsent: std::ops::Range<usize>,
    },
}

/// What [`Forward::go_on`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More may come.
    Open,
    /// xl has closed its end, and all of it is through.
    Ended,
    /// The destination's end takes no more.
    Broken,
}

impl Forward {
    /// From `from` to `to`, a pipe that belongs to this process alone.
    ///
    /// # Errors
    /// When `to` cannot be made not to block.
    pub fn new(from: OwnedFd, to: OwnedFd) -> rustix::io::Result<Self> {
        enlarge(&to);
        fcntl_setfl(&to, fcntl_getfl(&to)? | OFlags::NONBLOCK)?;
        Ok(Self {
            ends: Some(Ends { from, to }),
            readable: false,
            manner: Manner::Splice,
        })
    }

    /// What to wait for: [`Self::go_on`] when it is there.
    pub fn wake_on(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let ends = self.ends.as_ref()?;
        Some(match self.readable {
            false => (ends.from.as_fd(), PollFlags::IN),
            true => (ends.to.as_fd(), PollFlags::OUT),
        })
    }

    /// Moves what can be moved, after [`Self::wake_on`] was ready. Never waits.
    pub fn go_on(&mut self) -> Progress {
        let Some(ends) = &self.ends else {
            return Progress::Ended;
        };
        let moved = match &mut self.manner {
            Manner::Splice => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                splice(&ends.from, None, &ends.to, None, MOST, flags)
            }
            Manner::Copy { buffer, unsent } => copy(ends, buffer, unsent),
        };
        match moved {
            Ok(0) => self.end(Progress::Ended),
            Ok(_) | Err(Errno::INTR) => Progress::Open,
            Err(Errno::AGAIN) => {
                self.readable = self.waits_for_the_way_out();
                Progress::Open
            }
            Err(Errno::INVAL) if matches!(self.manner, Manner::Splice) => {
                self.copy_from_now_on();
                Progress::Open
            }
            Err(_) => self.end(Progress::Broken),
        }
    }

    /// Through this process's memory.
    pub fn copy_from_now_on(&mut self) {
        self.manner = Manner::Copy {
            buffer: vec![0; COPIED].into(),
            unsent: 0..0,
        };
        self.readable = false;
    }

    /// Closes both ends.
    pub fn close(&mut self) {
        self.ends = None;
    }

    fn end(&mut self, progress: Progress) -> Progress {
        self.close();
        progress
    }

    /// Which end it was that had nothing to give or no room. Never both are
    /// waited for: the one that is ready would keep this busy until the other
    /// is.
    fn waits_for_the_way_out(&self) -> bool {
        match &self.manner {
            // The one that was not waited for before.
            Manner::Splice => !self.readable,
            Manner::Copy { unsent, .. } => unsent.start < unsent.end,
        }
    }
}

/// Reads when nothing is left to write, then writes. `Ok(0)` is the end.
fn copy(
    ends: &Ends,
    buffer: &mut [u8],
    unsent: &mut std::ops::Range<usize>,
) -> rustix::io::Result<usize> {
    if unsent.start == unsent.end {
        // Waits for nothing: one read for each time it was seen readable.
        *unsent = 0..read(&ends.from, &mut *buffer)?;
        if unsent.start == unsent.end {
            return Ok(0);
        }
    }
    while unsent.start < unsent.end {
        unsent.start += retry_on_intr(|| write(&ends.to, &buffer[unsent.clone()]))?;
    }
    Err(Errno::AGAIN)
}
