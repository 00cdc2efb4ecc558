//! From the destination to xl: the words of the handshake, and whatever else
//! comes, in its order. Nothing behind READY is read before READY is passed on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lull_wire::xl::markers::{BANNER, Finder, READY};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};

/// Most bytes written at once: what a pipe that is ready takes without
/// waiting, whoever else may use it (`PIPE_BUF`).
const ATOMIC: usize = 4096;

/// More than a login shell says.
const GREETING_MAX: usize = 64 << 10;

/// The other direction of the relay.
#[derive(Debug)]
pub struct Backward {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    banner: Finder,
    ready: Finder,
    /// Read and not yet written; at most a chunk and a beginning of READY.
    unsent: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The banner has not come: what a login shell says before it is kept, and then
    /// left out, for xl takes nothing else first.
    Greeting,
    /// READY has not come: what may be its beginning is kept.
    Looking,
    /// It has come and stands at the end of what is unsent.
    Held,
    /// All is passed on.
    Open,
    /// All is thrown away.
    Discarding,
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing of interest.
    Nothing,
    /// The receiver's banner.
    Banner,
    /// READY. It is kept.
    Ready,
    /// Something behind READY, which was passed on before.
    Answer,
    /// The end.
    End,
}

impl Backward {
    /// From `from` to `to`.
    pub const fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self {
            from: Some(from),
            to: Some(to),
            banner: Finder::new(BANNER),
            ready: Finder::new(READY),
            unsent: Vec::new(),
            state: State::Greeting,
        }
    }

    /// To read from, unless there is something to be written first. While READY
    /// is held only for its end, which a poll tells unasked: with a fast landing
    /// that is most of the migration.
    pub fn readable(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let from = self.from.as_ref()?;
        let flags = match self.state {
            State::Held => PollFlags::empty(),
            _ => PollFlags::IN,
        };
        (self.sendable() == 0).then(|| (from.as_fd(), flags))
    }

    /// To write to, if there is something to be written.
    pub fn writable(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let to = self.to.as_ref()?;
        (self.sendable() > 0).then(|| (to.as_fd(), PollFlags::OUT))
    }

    /// Whether nothing more will come of this direction.
    pub fn is_over(&self) -> bool {
        self.from.is_none() && self.sendable() == 0
    }

    /// Reads, after [`Self::readable`] was ready.
    pub fn read(&mut self) -> Heard {
        let Some(from) = &self.from else {
            return Heard::Nothing;
        };
        // READY and what follows are told apart by reading no further than a
        // chunk; what comes behind READY in the same chunk waits with it.
        let mut chunk = [0; ATOMIC];
        let length = match read(from, &mut chunk) {
            Ok(length @ 1..) => length,
            Err(Errno::INTR | Errno::AGAIN) => return Heard::Nothing,
            Ok(0) | Err(_) => {
                self.from = None;
                self.give_up_on_banner();
                self.close_when_done();
                return Heard::End;
            }
        };
        let bytes = &chunk[..length];
        if self.state == State::Discarding {
            return Heard::Nothing;
        }
        self.unsent.extend_from_slice(bytes);
        match self.state {
            State::Greeting => return self.look_for_banner(bytes),
            State::Looking => {}
            State::Open => return Heard::Answer,
            State::Held | State::Discarding => return Heard::Nothing,
        }
        if self.ready.read(bytes).is_some() {
            self.state = State::Held;
            return Heard::Ready;
        }
        Heard::Nothing
    }

    /// Leaves out what stands before the banner. What comes behind it in the same chunk
    /// cannot be READY yet: the receiver waits for the stream first.
    fn look_for_banner(&mut self, bytes: &[u8]) -> Heard {
        match self.banner.read(bytes) {
            Some(end) => {
                let behind = bytes.len() - end;
                let banner = self.unsent.len() - behind - BANNER.len();
                self.unsent.drain(..banner);
                self.state = State::Looking;
                self.ready.read(&bytes[end..]);
                Heard::Banner
            }
            None => {
                if self.unsent.len() > GREETING_MAX {
                    self.give_up_on_banner();
                }
                Heard::Nothing
            }
        }
    }

    /// Whatever this is, xl is to say what it makes of it.
    fn give_up_on_banner(&mut self) {
        if self.state == State::Greeting {
            self.state = State::Looking;
            self.ready.read(&self.unsent);
        }
    }

    /// Writes, after [`Self::writable`] was ready.
    pub fn write(&mut self) {
        let Some(to) = &self.to else {
            return;
        };
        let length = self.sendable().min(ATOMIC);
        match write(to, &self.unsent[..length]) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // xl has gone.
            Err(_) => self.discard(),
        }
        self.close_when_done();
    }

    /// Passes READY on, and all that follows.
    pub fn open(&mut self) {
        if self.state != State::Discarding {
            self.state = State::Open;
        }
    }

    /// Closes the end towards xl, after what may have looked like READY and
    /// was not, if xl takes it at once. What the destination says is still
    /// read, so that it is not hindered in clearing up.
    pub fn close(&mut self) {
        if self.from.is_none() && self.state == State::Looking {
            self.state = State::Open;
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let takes = self.writable().is_some_and(|(to, flags)| {
                let mut fds = [PollFd::from_borrowed_fd(to, flags)];
                poll(&mut fds, Some(&now)) == Ok(1)
            });
            if takes {
                self.write();
            }
        }
        self.discard();
    }

    fn close_when_done(&mut self) {
        if self.from.is_none() && self.unsent.is_empty() {
            self.to = None;
        }
    }

    fn discard(&mut self) {
        self.state = State::Discarding;
        self.unsent.clear();
        self.to = None;
    }

    /// The destination's end, to be read to its end by whoever takes it.
    pub fn into_rest(self) -> Option<OwnedFd> {
        self.from
    }

    fn sendable(&self) -> usize {
        match self.state {
            State::Greeting => 0,
            State::Looking => self.unsent.len() - self.ready.pending(),
            State::Open => self.unsent.len(),
            // Nothing at all, so that READY is not torn.
            State::Held | State::Discarding => 0,
        }
    }
}
