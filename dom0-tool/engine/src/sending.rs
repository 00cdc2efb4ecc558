//! Batches, from the stub's list of frames to the destination.

use std::time::Instant;

use lull_core::machine::{Event, State};

use super::clock::TICK;
use super::failure::{Doing, Failure};
use super::landing::Received;
use super::session::Session;

impl Session<'_> {
    /// Maps the frames that the stub asks for.
    pub(super) fn map(&mut self, slot: u8, count: u32) -> Result<(), Failure> {
        let list = &self.domains.link().wanted[usize::from(slot)];
        let mut pfns = self.slots.want(slot, count, list)?;
        // Xen must be asked: a page of Xen's in a frame of the guest, of the grant table for
        // one, can be mapped like the guest's own.
        let mut populated = self.populated(&pfns)?.into_iter();
        let without = |_: &mut u64| !populated.next().unwrap_or(false);
        let mut left_out: Vec<u64> = pfns.extract_if(.., without).collect();
        let mut unmapped = self.map_window(slot, &mut pfns)?;
        // A page of the guest must not be missing at the destination because it could not
        // be mapped.
        if self.populated(&unmapped)?.contains(&true) {
            pfns.extend(unmapped);
            pfns.sort_unstable();
            unmapped = self.map_window(slot, &mut pfns)?;
            if self.populated(&unmapped)?.contains(&true) {
                return Err(Failure::Unmappable(unmapped.first().copied().unwrap_or(0)));
            }
        }
        left_out.extend(unmapped);
        left_out.sort_unstable();
        self.landing.left_out(slot, left_out);
        let pages = pfns.len() as u32;
        let marks_zeros = self.landing.marks_zeros();
        self.slots.mapped(slot, count, pfns, marks_zeros);
        Ok(self.peer.mapped(slot, pages, marks_zeros)?)
    }

    fn map_window(&self, slot: u8, pfns: &mut Vec<u64>) -> Result<Vec<u64>, Failure> {
        let mapped = self.domains.map(usize::from(slot), pfns);
        mapped.doing("the guest's frames cannot be mapped")
    }

    /// For each of these frames, whether it has a page of the guest's own.
    fn populated(&self, pfns: &[u64]) -> Result<Vec<bool>, Failure> {
        if pfns.is_empty() {
            return Ok(Vec::new());
        }
        let populated = self.domains.populated(pfns);
        populated.doing("the guest's frames cannot be listed")
    }

    /// Queues a batch that the stub has copied.
    pub(super) fn filled(&mut self, slot: u8) -> Result<(), Failure> {
        let zeros = &self.domains.link().zeros[usize::from(slot)];
        let copied = self.slots.filled(slot, zeros)?;
        let slot = usize::from(slot);
        match self.landing.send(&mut self.queue, slot, copied) {
            true => Ok(()),
            false => self.sent(slot),
        }
    }

    /// Tells the stub that a slot's batch counts as sent.
    fn sent(&mut self, slot: usize) -> Result<(), Failure> {
        let batch = self.slots.written(slot);
        if std::mem::take(&mut self.held_back) && self.peer.has_room() {
            self.peer.feed(self.now(), Event::HeldBack)?;
        }
        Ok(self.peer.sent(self.now(), slot, batch)?)
    }

    /// Writes what the destination and the bandwidth cap allow now.
    pub(super) fn write(&mut self) -> Result<(), Failure> {
        let further = !self.landing.write_on().is_empty();
        if self.queue.is_empty() && !further {
            return self.look_at_the_stream();
        }
        let allowed = match &mut self.throttle {
            Some(throttle) => throttle.allowed(Instant::now()),
            None => usize::MAX,
        };
        if allowed == 0 {
            self.held_back = true;
            return self.look_at_the_stream();
        }
        let domains = self.domains;
        let before = self.queue.written();
        let written = self.queue.write(&mut self.sink, allowed, |slot, pages| {
            domains.payload(slot, pages)
        });
        let mut bytes = self.queue.written() - before;
        if further {
            // The cap is for all connections together.
            let left = allowed.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
            bytes += self.landing.write(domains, left);
        }
        if let Some(throttle) = &mut self.throttle {
            throttle.sent(bytes);
        }
        let slots = written.map_err(Failure::Stream)?.slots;
        // This precedes the batches that the destination took after a wait of its own.
        self.look_at_the_stream()?;
        if slots.is_empty() || !self.landing.is_sent_when_written() {
            return Ok(());
        }
        for slot in slots {
            self.sent(slot)?;
        }
        self.notify()
    }

    /// Takes the landing's next step, and handles the destination's answers.
    pub(super) fn advance_landing(&mut self) -> Result<(), Failure> {
        let (landing, mut means) = self.landing();
        landing.advance(&mut means)?;
        self.recv_landing()?;
        self.count_if_due()
    }

    /// Handles all answers of the destination that have arrived.
    pub(super) fn recv_landing(&mut self) -> Result<(), Failure> {
        let mut received = false;
        while let Some(answer) = self.landing.recv()? {
            received = true;
            match answer {
                // Round 0 takes the new connection, as all others do.
                Received::Open if self.peer.machine().state() == State::Waiting => self.begin()?,
                Received::Open => {
                    // From here on the data takes a connection that has carried none yet.
                    self.peer.feed(self.now(), Event::PathChanged)?;
                    self.answer_count()?;
                }
                Received::Sent(slot) => self.sent(slot)?,
                Received::RoundTrip if self.peer.has_room() => {
                    self.peer.feed(self.now(), Event::RoundTrip)?;
                }
                Received::RoundTrip => {}
                Received::Noted => {}
                // The learned rate of the link belongs to more connections than are left.
                Received::Narrowed if self.peer.has_room() => {
                    self.peer.feed(self.now(), Event::PathChanged)?;
                }
                Received::Narrowed => {}
                Received::Landed | Received::Started => break,
            }
        }
        match received {
            true => self.notify(),
            false => Ok(()),
        }
    }

    /// Sends the numbers of all depopulated frames to the destination. The guest waits
    /// meanwhile, so a cancellation is still accepted.
    pub(super) fn send_all_depopulated(&mut self) -> Result<(), Failure> {
        while self.landing.send_depopulated(&mut self.queue) {
            self.write()?;
            self.recv_landing()?;
            let longest = self.until_deadline().map_or(TICK, |left| left.min(TICK));
            self.wait(longest).doing("waiting failed")?;
            self.attend_while_comparing()?;
            self.check_deadline()?;
        }
        Ok(())
    }
}
