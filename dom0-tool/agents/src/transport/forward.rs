//! From xl to the destination: the migration stream. lull does not look at its bytes, and
//! does not copy them where the kernel can splice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use lull_engine::stream::pipe::enlarge;
use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::pipe::{SpliceFlags, splice};

use super::process::read_out;

/// Most bytes moved by one call; no call moves more than a pipe holds.
const MAX_SPLICE_BYTES: usize = 1 << 20;

/// Bytes copied at a time where splice does not work.
const COPIED: usize = 64 << 10;

/// One direction of the relay. Once the destination's end is closed it only waits for xl to
/// close its own: an xl that dies after its receiver has ended must be noticed.
#[derive(Debug)]
pub struct ToDestination {
    ends: Option<Ends>,
    /// The source end is readable, so the relay waits for room at the destination's end.
    readable: bool,
    manner: Manner,
}

#[derive(Debug)]
struct Ends {
    from: OwnedFd,
    /// `None` once the destination accepts no more bytes.
    to: Option<OwnedFd>,
}

#[derive(Debug)]
enum Manner {
    Splice,
    /// One of the two ends is not a pipe, so splice does not work.
    Copy {
        buffer: Box<[u8]>,
        /// The part of the buffer that is still to be written.
        unsent: std::ops::Range<usize>,
    },
}

/// The state of this direction after [`ToDestination::go_on`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes may follow.
    Open,
    /// xl has closed its end, and every byte was forwarded.
    Ended,
    /// The destination's end accepts no more bytes.
    Broken,
}

impl ToDestination {
    /// Forwards from `from` to `to`; no other process may use the pipe `to`.
    ///
    /// # Errors
    /// When `to` cannot be made not to block.
    pub fn new(from: OwnedFd, to: OwnedFd) -> rustix::io::Result<Self> {
        enlarge(&to);
        fcntl_setfl(&to, fcntl_getfl(&to)? | OFlags::NONBLOCK)?;
        Ok(Self {
            ends: Some(Ends { from, to: Some(to) }),
            readable: false,
            manner: Manner::Splice,
        })
    }

    /// The event to poll for; when it occurs, call [`Self::go_on`].
    pub fn wake_on(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let ends = self.ends.as_ref()?;
        Some(match (&ends.to, self.readable) {
            // What xl still writes is left in the pipe; the kernel reports the end unasked.
            (None, _) => (ends.from.as_fd(), PollFlags::empty()),
            (Some(_), false) => (ends.from.as_fd(), PollFlags::IN),
            (Some(to), true) => (to.as_fd(), PollFlags::OUT),
        })
    }

    /// Whether nothing more can be forwarded.
    pub fn is_over(&self) -> bool {
        self.ends.as_ref().is_none_or(|ends| ends.to.is_none())
    }

    /// Moves the bytes that can be moved, after [`Self::wake_on`] was ready. Never blocks.
    pub fn go_on(&mut self) -> Progress {
        let Some(ends) = &mut self.ends else {
            return Progress::Ended;
        };
        let Some(to) = &ends.to else {
            self.close();
            return Progress::Ended;
        };
        let moved = match &mut self.manner {
            Manner::Splice => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                splice(&ends.from, None, to, None, MAX_SPLICE_BYTES, flags)
            }
            Manner::Copy { buffer, unsent } => copy(&ends.from, to, buffer, unsent),
        };
        match moved {
            Ok(0) => {
                self.close();
                Progress::Ended
            }
            Ok(_) | Err(Errno::INTR) => Progress::Open,
            Err(Errno::AGAIN) => {
                self.readable = self.waits_for_the_way_out();
                Progress::Open
            }
            Err(Errno::INVAL) if matches!(self.manner, Manner::Splice) => {
                self.copy_from_now_on();
                Progress::Open
            }
            Err(_) => {
                ends.to = None;
                Progress::Broken
            }
        }
    }

    /// Switches from splice to copying through this process's memory.
    pub fn copy_from_now_on(&mut self) {
        self.manner = Manner::Copy {
            buffer: vec![0; COPIED].into(),
            unsent: 0..0,
        };
        self.readable = false;
    }

    pub fn close(&mut self) {
        self.ends = None;
    }

    /// Closes the destination's end, and drops what xl still writes until it closes its own,
    /// but not beyond `until`. An xl whose GO cannot be written does not know where the
    /// guest is.
    pub fn drop_the_rest(&mut self, until: Instant) {
        let Some(Ends { from, to }) = self.ends.take() else {
            return;
        };
        drop(to);
        read_out(&from, until);
    }

    /// Whether the destination's end had no room, rather than xl's end no data. Only one of
    /// the two is ever polled: polling both would keep this process busy with the ready one
    /// until the other is ready too.
    fn waits_for_the_way_out(&self) -> bool {
        match &self.manner {
            // With splice, it is the end that was not polled before.
            Manner::Splice => !self.readable,
            Manner::Copy { unsent, .. } => unsent.start < unsent.end,
        }
    }
}

/// Reads when nothing is left to write, then writes. Returns `Ok(0)` at the end of the
/// stream.
fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    buffer: &mut [u8],
    unsent: &mut std::ops::Range<usize>,
) -> rustix::io::Result<usize> {
    if unsent.start == unsent.end {
        // This read does not block: each poll that reports the end readable is followed by
        // one read.
        *unsent = 0..read(from, &mut *buffer)?;
        if unsent.start == unsent.end {
            return Ok(0);
        }
    }
    while unsent.start < unsent.end {
        unsent.start += retry_on_intr(|| write(to, &buffer[unsent.clone()]))?;
    }
    Err(Errno::AGAIN)
}
