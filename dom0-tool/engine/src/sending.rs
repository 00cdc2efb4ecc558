//! Batches, from the stub's list of frames to the destination.

use std::time::Instant;

use lull_core::machine::{Event, State};

use super::clock::TICK;
use super::failure::{Doing, Failure};
use super::landing::Heard;
use super::session::Session;

impl Session<'_> {
    /// Maps the frames that the stub asks for.
    pub(super) fn map(&mut self, slot: u8, count: u32) -> Result<(), Failure> {
        let list = &self.domains.link().wanted[usize::from(slot)];
        let mut pfns = self.slots.want(slot, count, list)?;
        let (landing, mut means) = self.landing();
        landing.before_map(&mut means, slot, &mut pfns)?;
        let mut left_out = self.map_window(slot, &mut pfns)?;
        // A page of the guest must not be missing at the destination because it could not
        // be mapped.
        if self.has_pages(&left_out)? {
            pfns.extend(left_out);
            pfns.sort_unstable();
            left_out = self.map_window(slot, &mut pfns)?;
            if self.has_pages(&left_out)? {
                return Err(Failure::Unmappable(left_out.first().copied().unwrap_or(0)));
            }
        }
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

    /// Whether Xen has a page of the guest behind one of these frames. The query is rare:
    /// it is made only for frames that could not be mapped.
    fn has_pages(&self, pfns: &[u64]) -> Result<bool, Failure> {
        if pfns.is_empty() {
            return Ok(false);
        }
        let populated = self.domains.populated(pfns);
        let populated = populated.doing("the guest's frames cannot be listed")?;
        Ok(populated.contains(&true))
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
            self.peer.tell(self.now(), Event::HeldBack)?;
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
        self.hear_landing()
    }

    /// Handles all answers of the destination that have arrived.
    pub(super) fn hear_landing(&mut self) -> Result<(), Failure> {
        let mut heard = false;
        while let Some(answer) = self.landing.hear()? {
            heard = true;
            match answer {
                // Round 0 takes the new connection, as all others do.
                Heard::Open if self.peer.machine().state() == State::Waiting => self.begin()?,
                Heard::Open => {
                    // From here on the data takes a connection that has carried none yet.
                    self.peer.tell(self.now(), Event::PathChanged)?;
                    self.answer_count()?;
                }
                Heard::Sent(slot) => self.sent(slot)?,
                Heard::Noted => {}
                // What was learned of the link is of more connections than are left.
                Heard::Narrowed if self.peer.has_room() => {
                    self.peer.tell(self.now(), Event::PathChanged)?;
                }
                Heard::Narrowed => {}
                Heard::Landed | Heard::Started => break,
            }
        }
        match heard {
            true => self.notify(),
            false => Ok(()),
        }
    }

    /// Tells the destination of all frames that have gone. The guest waits meanwhile, so a
    /// cancellation is still heard.
    pub(super) fn tell_all_gone(&mut self) -> Result<(), Failure> {
        while self.landing.tell_gone(&mut self.queue) {
            self.write()?;
            self.hear_landing()?;
            self.wait(TICK).doing("waiting failed")?;
            self.attend_while_comparing()?;
            self.check_deadline()?;
        }
        Ok(())
    }
}
