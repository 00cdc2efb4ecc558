//! From the destination to xl: the handshake, and any other output, in its order. Nothing
//! after READY is read before READY is passed on. What arrives in the same chunk is kept apart
//! where the handshake precedes the stop: xl destroys the guest here once it reads a report.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use lull_base::ready;
use lull_wire::xl::markers::{BANNER, Finder, READY, REPORT, gave_back};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, write};

/// Most bytes written at once: `PIPE_BUF`, which a writable pipe accepts without blocking
/// even if other processes write to it too.
const ATOMIC: usize = 4096;

/// Most bytes before the banner; a login shell prints less.
const GREETING_MAX: usize = 64 << 10;

/// Most bytes kept of what follows READY: a report, and the permission to go on.
const ANSWER_MAX: usize = 1024;

/// The direction from the destination to xl.
#[derive(Debug)]
pub struct FromDestination {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    banner: Finder,
    ready: Finder,
    /// Bytes that were read and not yet written: at most one chunk and the beginning of
    /// READY.
    unsent: Vec<u8>,
    /// The number of unsent bytes that precede READY, while it is held.
    ready_begins: usize,
    /// What the destination answered to a handshake that precedes the stop.
    answer: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The banner has not arrived. What a login shell prints before it is kept and then
    /// dropped, because xl accepts nothing before the banner.
    Greeting,
    /// READY has not arrived. Bytes that may be its beginning are kept.
    Looking,
    /// READY has arrived. It is unsent, and so is what arrived with it.
    Held,
    /// READY is passed on, and what follows is kept.
    Keeping,
    /// All bytes are passed on.
    Open,
    /// All bytes are discarded.
    Discarding,
}

/// What the bytes just read contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing that matters to the gate.
    Nothing,
    Banner,
    /// READY has arrived, and is held.
    Ready,
    /// Both have arrived at once. The destination is broken, or an enemy: a receiver waits
    /// for the stream in between.
    BannerAndReady,
    /// Bytes after READY, which was passed on before.
    Answer,
    /// The destination's report is complete, and kept.
    Report {
        /// Whether it says that the destination has taken the guest.
        taken: bool,
    },
    /// The destination's output has ended.
    End,
}

impl FromDestination {
    /// Relays from `from` to `to`.
    pub const fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self {
            from: Some(from),
            to: Some(to),
            banner: Finder::new(BANNER),
            ready: Finder::new(READY),
            unsent: Vec::new(),
            ready_begins: 0,
            answer: Vec::new(),
            state: State::Greeting,
        }
    }

    /// The descriptor to read from, unless bytes wait to be written. While READY is held
    /// the flags are empty, and poll then reports only a hang-up; with a fast landing this
    /// lasts for most of the migration.
    pub fn readable(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let from = self.from.as_ref()?;
        let flags = match self.state {
            State::Held => PollFlags::empty(),
            _ => PollFlags::IN,
        };
        (self.sendable() == 0).then(|| (from.as_fd(), flags))
    }

    /// The descriptor to write to, if bytes wait to be written.
    pub fn writable(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let to = self.to.as_ref()?;
        (self.sendable() > 0).then(|| (to.as_fd(), PollFlags::OUT))
    }

    /// Whether this direction has ended and nothing is left to write.
    pub fn is_over(&self) -> bool {
        self.from.is_none() && self.sendable() == 0 && self.state != State::Keeping
    }

    /// Reads, after [`Self::readable`] was ready.
    pub fn read(&mut self) -> Received {
        let Some(from) = &self.from else {
            return Received::Nothing;
        };
        // READY and the bytes after it are separated by reading at most one chunk at a
        // time; what follows READY in the same chunk is held with it.
        let mut chunk = [0; ATOMIC];
        let length = match read(from, &mut chunk) {
            Ok(length @ 1..) => length,
            Err(Errno::INTR | Errno::AGAIN) => return Received::Nothing,
            Ok(0) | Err(_) => {
                self.from = None;
                self.give_up_on_banner();
                self.close_when_done();
                return Received::End;
            }
        };
        let bytes = &chunk[..length];
        match self.state {
            State::Discarding => return Received::Nothing,
            State::Keeping => return self.keep(&chunk[..length]),
            _ => {}
        }
        self.unsent.extend_from_slice(bytes);
        match self.state {
            State::Greeting => return self.look_for_banner(bytes),
            State::Looking => {}
            State::Open => return Received::Answer,
            State::Held | State::Keeping | State::Discarding => return Received::Nothing,
        }
        match self.look_for_ready(bytes) {
            true => Received::Ready,
            false => Received::Nothing,
        }
    }

    /// Looks for READY in the last of the unsent bytes. Returns whether it is complete, and
    /// held from now on.
    fn look_for_ready(&mut self, bytes: &[u8]) -> bool {
        let Some(end) = self.ready.read(bytes) else {
            return false;
        };
        let behind = bytes.len() - end;
        self.ready_begins = self.unsent.len() - behind - READY.len();
        self.state = State::Held;
        true
    }

    /// Keeps an answer. What is too long for one is dropped: the destination is broken, and
    /// never completes its report.
    fn keep(&mut self, bytes: &[u8]) -> Received {
        let before = self.answer.len();
        let room = ANSWER_MAX - before;
        self.answer.extend(&bytes[..bytes.len().min(room)]);
        let whole = REPORT.len() + 1;
        match self.answer.get(..whole) {
            Some(report) if before < whole && report.starts_with(REPORT) => Received::Report {
                taken: report.ends_with(&[0]),
            },
            _ => Received::Nothing,
        }
    }

    /// Drops what stands before the banner.
    fn look_for_banner(&mut self, bytes: &[u8]) -> Received {
        match self.banner.read(bytes) {
            Some(end) => {
                let behind = bytes.len() - end;
                let banner = self.unsent.len() - behind - BANNER.len();
                self.unsent.drain(..banner);
                self.state = State::Looking;
                match self.look_for_ready(&bytes[end..]) {
                    true => Received::BannerAndReady,
                    false => Received::Banner,
                }
            }
            None => {
                if self.unsent.len() > GREETING_MAX {
                    self.give_up_on_banner();
                }
                Received::Nothing
            }
        }
    }

    /// Stops looking for the banner and passes the bytes on: xl reports what it makes of
    /// them.
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
            Ok(written) => {
                self.unsent.drain(..written);
                self.ready_begins = self.ready_begins.saturating_sub(written);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // xl has closed its end.
            Err(_) => self.discard(),
        }
        self.close_when_done();
    }

    /// Passes READY on, and everything after it.
    pub fn open(&mut self) {
        if self.state != State::Discarding {
            self.state = State::Open;
        }
    }

    /// Passes READY on, and keeps what follows. Returns what of it has arrived: a destination
    /// that is broken, or an enemy, may report before it receives GO.
    pub fn open_and_keep(&mut self) -> Received {
        if self.state != State::Held {
            return Received::Nothing;
        }
        self.state = State::Keeping;
        let behind = self.unsent.split_off(self.ready_begins + READY.len());
        self.keep(&behind)
    }

    /// Passes on what was kept, and everything after it.
    pub fn release(&mut self) {
        if self.state == State::Keeping {
            self.state = State::Open;
            self.unsent.append(&mut self.answer);
            self.close_when_done();
        }
    }

    /// Gives xl the answer of a destination that has given the guest back, in the place of
    /// what was kept. The destination's output is still read.
    pub fn give_back(&mut self) {
        if self.state == State::Keeping {
            self.answer = gave_back();
            self.release();
            self.flush_and_close();
        }
    }

    /// Writes what is left, for as long as xl accepts it, and closes the end towards xl.
    fn flush_and_close(&mut self) {
        while let Some((to, flags)) = self.writable() {
            let mut fds = [PollFd::from_borrowed_fd(to, flags)];
            let soon = Instant::now() + Duration::from_secs(1);
            if !ready::wait_until(&mut fds, soon).unwrap_or(false) {
                break;
            }
            self.write();
        }
        self.discard();
    }

    /// Closes the end towards xl. Bytes that resembled READY and were not are written
    /// first, if xl accepts them at once. The destination's output is still read, so that
    /// the receiver can clear up.
    pub fn close(&mut self) {
        if self.from.is_none() && self.state == State::Looking {
            self.state = State::Open;
            let takes = self.writable().is_some_and(|(to, flags)| {
                let mut fds = [PollFd::from_borrowed_fd(to, flags)];
                ready::wait(&mut fds, Some(Duration::ZERO)).unwrap_or(false)
            });
            if takes {
                self.write();
            }
        }
        self.discard();
    }

    fn close_when_done(&mut self) {
        let kept = self.state == State::Keeping;
        if self.from.is_none() && self.unsent.is_empty() && !kept {
            self.to = None;
        }
    }

    fn discard(&mut self) {
        self.state = State::Discarding;
        self.unsent.clear();
        self.to = None;
    }

    /// The destination's output; the caller reads it to its end.
    pub fn into_rest(self) -> Option<OwnedFd> {
        self.from
    }

    fn sendable(&self) -> usize {
        match self.state {
            State::Greeting => 0,
            State::Looking => self.unsent.len() - self.ready.pending(),
            State::Open | State::Keeping => self.unsent.len(),
            // No part of READY is sent.
            State::Held => self.ready_begins,
            State::Discarding => 0,
        }
    }
}
