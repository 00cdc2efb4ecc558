//! A further connection to `lull land`, which has joined the first one. It carries shares of
//! batches and their answers, and nothing else.
//!
//! The contents of a share stay in the stub's payload until the share is answered, so they
//! can be sent again over another connection if this one is lost.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use lull_base::text::printable;
use lull_wire::channel::{self, FromLand, Pages, Purpose, SHARE_MAX, SILENCE};
use lull_xen::PAGE;

use super::channel::{Answers, Connection};
use super::pulse::{Beat, Pulse};
use crate::domains::Domains;
use crate::failure::Failure;
use crate::slots::Copied;
use crate::stream::queue::Queue;
use crate::stream::sink::Sink;

/// The least frames of a share. Smaller ones would cost more than they save.
const LEAST: usize = 64;

/// A part of a batch, which travels in one frame.
#[derive(Debug)]
pub struct Share {
    /// The slot that holds the batch.
    pub slot: usize,
    /// The index of the first of its pages in the slot's payload.
    first: usize,
    pages: Pages,
}

impl Share {
    /// Shares a slot's batch out to so many connections. None if it is empty.
    pub fn of_batch(
        slot: usize,
        copied: Copied,
        depopulated: Vec<u64>,
        connections: usize,
    ) -> Vec<Self> {
        let Copied { pages, zeros } = copied;
        let frames = pages.len() + zeros.len() + depopulated.len();
        let count = connections.min(frames.div_ceil(LEAST));
        let part = |list: &[u64], nth: usize| {
            let at = |nth: usize| nth * list.len() / count;
            (at(nth), list[at(nth)..at(nth + 1)].to_vec())
        };
        let share = |nth: usize| {
            let (first, present) = part(&pages, nth);
            Self {
                slot,
                first,
                pages: Pages {
                    purpose: Purpose::Write,
                    present,
                    zero: part(&zeros, nth).1,
                    depopulated: part(&depopulated, nth).1,
                },
            }
        };
        (0..count).map(share).collect()
    }

    /// The number of bytes that the contents take.
    pub fn bytes(&self) -> usize {
        self.pages.present.len() * PAGE
    }

    /// Whether a further connection may carry it.
    pub fn may_join(&self) -> bool {
        self.pages.present.len() <= SHARE_MAX
    }

    /// Puts it into a queue.
    pub fn push(&self, queue: &mut Queue) {
        queue.push(channel::pages_header(&self.pages));
        let end = self.first + self.pages.present.len();
        queue.push_payload(self.slot, self.first..end);
    }
}

/// An answer on a further connection.
#[derive(Debug)]
pub enum LandMessage {
    /// The oldest share is in place.
    Applied(Share),
    /// The answer to a ping.
    Pong,
}

/// A further connection to `lull land`, with the shares that it still carries.
pub struct Joined {
    pub(super) number: u8,
    to: Sink,
    from: Answers,
    queue: Queue,
    /// Shares that are sent, or wait to be, and are not answered, oldest first.
    asked: VecDeque<Share>,
    pulse: Pulse,
    /// Whether a ping is unanswered.
    pinged: bool,
}

impl Joined {
    /// Uses this connection.
    ///
    /// # Errors
    /// When its descriptors cannot be made non-blocking.
    pub fn new(connection: Connection) -> io::Result<Self> {
        Ok(Self {
            number: connection.number,
            to: Sink::new(connection.to)?,
            from: Answers::new(connection.from)?,
            queue: Queue::default(),
            asked: VecDeque::new(),
            pulse: Pulse::new(Instant::now()),
            pinged: false,
        })
    }

    /// The number of bytes of contents that are not answered.
    pub fn owed(&self) -> usize {
        self.asked.iter().map(Share::bytes).sum()
    }

    /// Whether all shares are answered.
    pub fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }

    /// The number of shares that are not answered.
    #[cfg(test)]
    pub fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// Sends a share as soon as there is room for it.
    pub fn push(&mut self, share: Share) {
        share.push(&mut self.queue);
        self.asked.push_back(share);
    }

    /// The shares that are not answered. The connection is not used any more.
    pub fn into_unanswered(self) -> Vec<Share> {
        self.asked.into()
    }

    /// The number of bytes written so far.
    pub fn written(&self) -> u64 {
        self.queue.written()
    }

    /// Writes what it takes now, and at most `allowed` bytes.
    ///
    /// # Errors
    /// Why the connection is lost.
    pub fn write(&mut self, domains: &dyn Domains, allowed: usize) -> Result<(), String> {
        if allowed == 0 || self.queue.is_empty() {
            return Ok(());
        }
        let payload = |slot: usize, pages: usize| -> IoSlice<'_> { domains.payload(slot, pages) };
        let written = self.queue.write(&mut self.to, allowed, payload);
        written.map(drop).map_err(|error| error.to_string())
    }

    /// The next answer, if one has arrived.
    ///
    /// # Errors
    /// Why the connection is lost. What the destination says out of turn is a reason, too:
    /// what it says of the guest it says on the first connection.
    pub fn recv(&mut self, now: Instant) -> Result<Option<LandMessage>, String> {
        let answer = match self.from.next() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(Failure::LandLost(why) | Failure::Land(why)) => return Err(why),
            Err(error) => return Err(error.to_string()),
        };
        self.pulse.received(now);
        match answer {
            FromLand::Pong if std::mem::take(&mut self.pinged) => Ok(Some(LandMessage::Pong)),
            FromLand::Applied => match self.asked.pop_front() {
                Some(share) => Ok(Some(LandMessage::Applied(share))),
                None => Err("it spoke out of turn".into()),
            },
            FromLand::Failed(why) => Err(printable(&why)),
            _ => Err("it spoke out of turn".into()),
        }
    }

    /// Sends a ping if the connection has been silent.
    ///
    /// # Errors
    /// When it is lost.
    pub fn feel_pulse(&mut self, now: Instant) -> Result<(), String> {
        match self.pulse.look(now, !self.asked.is_empty()) {
            Beat::Fine => {}
            Beat::Dead => return Err(format!("it sent nothing for {} s", SILENCE.as_secs())),
            Beat::Ask => {
                self.pinged = true;
                self.queue.push(channel::ping());
            }
        }
        Ok(())
    }

    /// The descriptor on which answers arrive.
    pub fn wake_on(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    /// The descriptor to write to, if bytes wait.
    pub fn write_on(&self) -> Option<BorrowedFd<'_>> {
        (!self.queue.is_empty()).then(|| self.to.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_the_batch_and_each_fits(
            counts in (0..=1024_usize, 0..=1024_usize, 0..=1024_usize),
            connections in 1..=8_usize,
        ) {
            let (pages, zeros, depopulated) = counts;
            let zeros = zeros.min(1024 - pages);
            let depopulated = depopulated.min(1024 - pages - zeros);
            let list = |from: usize, count: usize| (from as u64..(from + count) as u64).collect();
            let copied = Copied { pages: list(0, pages), zeros: list(2_000, zeros) };
            let shares = Share::of_batch(3, copied, list(4_000, depopulated), connections);
            prop_assert!(shares.len() <= connections);
            prop_assert_eq!(shares.is_empty(), pages + zeros + depopulated == 0);
            let mut seen: (Vec<u64>, Vec<u64>, Vec<u64>) = Default::default();
            for share in &shares {
                prop_assert_eq!(share.first, seen.0.len());
                prop_assert!(connections == 1 || share.may_join() || shares.len() == 1);
                seen.0.extend(&share.pages.present);
                seen.1.extend(&share.pages.zero);
                seen.2.extend(&share.pages.depopulated);
            }
            let all: [Vec<u64>; 3] = [list(0, pages), list(2_000, zeros), list(4_000, depopulated)];
            prop_assert_eq!([seen.0, seen.1, seen.2], all);
        }
    }
}
