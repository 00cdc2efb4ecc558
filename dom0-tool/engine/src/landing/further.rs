//! The further connections of a fast landing, taken together: how their part of a batch
//! reaches them, and what becomes of it when one is lost.
//!
//! The first connection is not here. What this state needs to know of it is handed in: the
//! bytes that it owes, and which of its answers concern shares or lost connections.
//!
//! A lost connection may still hold shares on their way. The destination is told to read
//! nothing more from it, and its shares are sent again only once that is answered: no frame
//! may be under way on two connections.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use lull_core::link::SLOTS;
use lull_wire::events;

use super::Received;
use super::joined::{Joined, LandMessage, Share};
use crate::Host;
use crate::domains::Domains;

/// A connection that was lost while shares of it were not answered.
struct Lost {
    number: u8,
    /// Whether Leave was sent to the destination.
    leave_sent: bool,
    shares: Vec<Share>,
}

/// The further connections, and the shares of each batch that are not answered.
pub struct Further {
    joined: Vec<Joined>,
    /// For each slot, the number of shares of its batch that are not answered, on whichever
    /// connection.
    unanswered: [usize; SLOTS],
    /// What must not be sent again yet.
    lost: Vec<Lost>,
    /// What is to be sent again.
    again: Vec<Share>,
    /// Why connections were lost, where this is not reported yet.
    losses: Vec<String>,
    /// Whether a connection was lost since the answers were last read.
    narrowed: bool,
    /// The number of bytes written to connections that were lost.
    written_in_vain: u64,
    /// Whether nothing is expected of them any more.
    is_over: bool,
}

impl Further {
    /// Uses the connections that have joined, of which there may be none.
    pub fn new(joined: Vec<Joined>) -> Self {
        Self {
            joined,
            unanswered: [0; SLOTS],
            lost: Vec::new(),
            again: Vec::new(),
            losses: Vec::new(),
            narrowed: false,
            written_in_vain: 0,
            is_over: false,
        }
    }

    /// The number of connections in use, the first one included.
    pub fn connections(&self) -> u8 {
        1 + self.joined.len() as u8
    }

    /// Whether anything is under way on a further connection, or was when it was lost.
    pub fn is_spread(&self) -> bool {
        !self.lost.is_empty()
            || !self.again.is_empty()
            || !self.joined.iter().all(Joined::is_answered)
    }

    /// Records that the batch of this slot is sent in so many shares.
    pub fn begin(&mut self, slot: usize, shares: usize) {
        self.unanswered[slot] = shares;
    }

    /// A share of that slot's batch is in place. The batch is, once all of them are.
    pub fn applied(&mut self, slot: usize) -> Received {
        let left = &mut self.unanswered[slot];
        *left = left.saturating_sub(1);
        match left {
            0 => Received::Sent(slot),
            _ => Received::Noted,
        }
    }

    /// Sends a share over the connection that owes the least, if that owes less than the
    /// first one, which owes so many bytes. Returns the share if the first one is to carry
    /// it.
    pub fn push(&mut self, share: Share, first_owes: usize) -> Option<Share> {
        let least = self.joined.iter_mut().min_by_key(|joined| joined.owed());
        match least.filter(|joined| share.may_join() && joined.owed() < first_owes) {
            Some(joined) => joined.push(share),
            None => return Some(share),
        }
        None
    }

    /// The numbers of the connections from which the destination is to read nothing more,
    /// because Leave was not sent yet.
    pub fn take_lost(&mut self) -> Vec<u8> {
        let unsent = self.lost.iter_mut().filter(|lost| !lost.leave_sent);
        let numbers = unsent.map(|lost| {
            lost.leave_sent = true;
            lost.number
        });
        numbers.collect()
    }

    /// The destination reads nothing more from the lost connection of this number.
    pub fn left(&mut self, number: u8) {
        let gone = |lost: &mut Lost| lost.number == number;
        let shares = self.lost.extract_if(.., gone).flat_map(|lost| lost.shares);
        self.again.extend(shares);
    }

    /// A share that is to be sent again.
    pub fn take_again(&mut self) -> Option<Share> {
        self.again.pop()
    }

    /// Tells the host why connections were lost.
    pub fn report(&mut self, host: &mut dyn Host) {
        let left = self.connections();
        for reason in self.losses.drain(..) {
            let lost = events::ConnectionLost { left, reason };
            host.emit(events::Event::ConnectionLost(lost));
        }
    }

    /// Expects nothing more of them: whatever becomes of them, they have done their part.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// The next answer, if one has arrived and any is expected.
    pub fn recv(&mut self) -> Option<Received> {
        if self.is_over {
            return None;
        }
        let now = Instant::now();
        for index in 0..self.joined.len() {
            match self.joined[index].recv(now) {
                Ok(None) => {}
                Ok(Some(LandMessage::Pong)) => return Some(Received::Noted),
                Ok(Some(LandMessage::Applied(share))) => return Some(self.applied(share.slot)),
                Err(why) => {
                    self.lose(index, why);
                    break;
                }
            }
        }
        std::mem::take(&mut self.narrowed).then_some(Received::Narrowed)
    }

    /// Sends a ping over each connection that has been silent.
    pub fn feel_pulses(&mut self) {
        if self.is_over {
            return;
        }
        let now = Instant::now();
        for index in (0..self.joined.len()).rev() {
            if let Err(why) = self.joined[index].feel_pulse(now) {
                self.lose(index, why);
            }
        }
    }

    /// Writes what they take now, and at most `allowed` bytes. Returns the number of bytes.
    pub fn write(&mut self, domains: &dyn Domains, allowed: usize) -> u64 {
        let mut written = 0;
        for index in (0..self.joined.len()).rev() {
            let joined = &mut self.joined[index];
            let before = joined.written();
            let left = allowed.saturating_sub(usize::try_from(written).unwrap_or(usize::MAX));
            let outcome = joined.write(domains, left);
            written += joined.written() - before;
            if let Err(why) = outcome {
                self.lose(index, why);
            }
        }
        written
    }

    /// The number of bytes that they have taken so far, those that are lost included.
    pub fn written(&self) -> u64 {
        let joined: u64 = self.joined.iter().map(Joined::written).sum();
        self.written_in_vain + joined
    }

    /// The descriptors on which answers arrive, while any is expected.
    pub fn wake_on(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let received = self.joined.iter().filter(|_| !self.is_over);
        received.map(Joined::wake_on)
    }

    /// The descriptors to which bytes wait to be written.
    pub fn write_on(&self) -> Vec<BorrowedFd<'_>> {
        self.joined.iter().filter_map(Joined::write_on).collect()
    }

    /// The number of shares that are not answered on each.
    #[cfg(test)]
    pub fn unanswered(&self) -> Vec<usize> {
        self.joined.iter().map(Joined::unanswered).collect()
    }

    /// Stops using a connection.
    fn lose(&mut self, index: usize, why: String) {
        let joined = self.joined.remove(index);
        let number = joined.number;
        self.written_in_vain += joined.written();
        let shares = joined.into_unanswered();
        // What is answered is in place, and nothing of it can come later.
        if !shares.is_empty() {
            self.lost.push(Lost {
                number,
                leave_sent: false,
                shares,
            });
        }
        self.losses.push(why);
        self.narrowed = true;
    }
}
