//! A scenario in motion, in model time.

use crate::link::{Grain, PAGE};
use crate::scenario::Scenario;

/// The rate at which stub and dom0 copy pages, whatever the link can do: 8 GB/s, in pages a
/// second.
const COPIED: u64 = 2_000_000;

/// The state of the guest and the link. All times are in µs from the attempt's start.
#[derive(Debug, Clone)]
pub struct World<'s> {
    scenario: &'s Scenario,
    now: u64,
    /// The time from which dirty pages are counted.
    counted_from: u64,
    requested: Option<u64>,
    stopped: Option<u64>,
    /// The content of the buffer at `link_at`, in millionths of a page.
    queued: u64,
    link_at: u64,
    /// How much the path still carries as it does within the pause, in millionths of a page.
    differs_for: u64,
}

impl<'s> World<'s> {
    /// The world at the moment copying begins.
    pub const fn new(scenario: &'s Scenario) -> Self {
        let now = scenario.actual.prepare;
        Self {
            scenario,
            now,
            counted_from: now,
            requested: None,
            stopped: None,
            queued: 0,
            link_at: now,
            differs_for: 0,
        }
    }

    /// The model time, in µs since the attempt began.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// The scenario that this world follows.
    pub const fn scenario(&self) -> &'s Scenario {
        self.scenario
    }

    /// Advances the time to `at`.
    pub const fn pass_until(&mut self, at: u64) {
        if at > self.now {
            self.now = at;
        }
    }

    /// The time at which a ping that is sent now is answered; `None` if it never is. A stall
    /// keeps it.
    pub fn round_trip(&self) -> Option<u64> {
        match self.scenario.link.round_trip {
            0 => None,
            takes => Some(self.clone().drain_one().saturating_add(takes)),
        }
    }

    /// The time at which one more page is at the destination.
    fn drain_one(mut self) -> u64 {
        self.drain_until(self.now, Grain::Fine);
        self.queued += PAGE;
        self.flush()
    }

    /// Sends a round of `pages` while the guest runs.
    pub fn send_round(&mut self, pages: u64) {
        if let Some(answered) = self.round_trip() {
            self.pass_until(answered);
        }
        for (pages, grain) in Pieces::of_round(pages, self.scenario.link.rate) {
            let written = self.write(pages, grain);
            self.pass_until(written);
        }
    }

    /// Advances the time by `span`.
    pub const fn pass(&mut self, span: u64) {
        self.now = self.now.saturating_add(span);
    }

    /// The number of pages dirty at `at`.
    pub fn dirty_at(&self, at: u64) -> u64 {
        let guest = &self.scenario.guest;
        let until = self.stopped.unwrap_or(at).min(at);
        let written = guest.dirtied(
            self.counted_from,
            until.max(self.counted_from),
            self.requested,
        );
        let stop = match self.stopped {
            Some(stopped) if stopped <= at => guest.stop_pages,
            _ => 0,
        };
        (written + stop).min(guest.pages)
    }

    /// Takes the bitmap: time passes, counting starts again, and the number of pages in the
    /// bitmap is returned.
    pub fn take_bitmap(&mut self) -> u64 {
        self.pass(self.scenario.actual.bitmap);
        let dirty = self.dirty_at(self.now);
        self.counted_from = self.now;
        dirty
    }

    /// Asks the guest to stop.
    pub const fn request(&mut self) {
        self.requested = Some(self.now);
    }

    /// The guest stops now.
    pub const fn stop(&mut self) {
        self.stopped = Some(self.now);
        self.differs_for = self.scenario.link.within_pause.pages.saturating_mul(PAGE);
    }

    /// Lets the guest run again. Nothing was dirtied while it was stopped, and the content
    /// of the link's buffer counts as carried, because it might otherwise have to be waited
    /// for forever.
    pub const fn run_on(&mut self) {
        self.link_at = self.now;
        self.queued = 0;
        self.counted_from = self.now;
        self.requested = None;
        self.stopped = None;
        self.differs_for = 0;
    }

    /// Hands `pages` to the link, which takes as long as a blocking write would, and
    /// returns the time at which the write is done; [`u64::MAX`] if never. The time does
    /// not advance.
    pub fn write(&mut self, pages: u64, grain: Grain) -> u64 {
        self.drain_until(self.now, grain);
        let copied = self.now + (pages * PAGE).div_ceil(COPIED);
        self.queued += pages * PAGE;
        let over = self.queued.saturating_sub(self.scenario.link.buffer * PAGE);
        let written = self.drain(over, grain);
        copied.max(written)
    }

    /// The time at which the last byte in the buffer is at the destination; [`u64::MAX`] if
    /// never.
    pub fn flush(&mut self) -> u64 {
        self.drain_until(self.now, Grain::Fine);
        self.drain(self.queued, Grain::Fine)
    }

    /// Removes `amount` from the buffer, starting at the link's own time.
    fn drain(&mut self, mut amount: u64, grain: Grain) -> u64 {
        while amount > 0 && self.link_at < u64::MAX {
            let (rate, until, piece) = self.rate(amount, grain);
            let carried = rate.saturating_mul(until - self.link_at);
            if carried >= piece {
                amount -= piece;
                self.carried(piece);
                self.link_at += piece.div_ceil(rate);
                continue;
            }
            if until == u64::MAX {
                self.link_at = u64::MAX;
                break;
            }
            amount -= carried;
            self.carried(carried);
            self.link_at = until;
        }
        self.link_at
    }

    /// The link's rate, the time until which it holds, and how much of `amount` it holds for.
    fn rate(&self, amount: u64, grain: Grain) -> (u64, u64, u64) {
        let link = &self.scenario.link;
        let (rate, until) = link.at(self.link_at, self.requested, grain);
        match self.differs_for {
            0 => (rate, until, amount),
            left => (link.within_pause.rate(rate), until, amount.min(left)),
        }
    }

    const fn carried(&mut self, amount: u64) {
        self.queued = self.queued.saturating_sub(amount);
        self.differs_for = self.differs_for.saturating_sub(amount);
    }

    fn drain_until(&mut self, at: u64, grain: Grain) {
        while self.link_at < at && self.queued > 0 {
            let (rate, until, piece) = self.rate(self.queued, grain);
            let until = until.min(at);
            let carried = rate.saturating_mul(until - self.link_at);
            if carried > piece {
                self.carried(piece);
                self.link_at += piece.div_ceil(rate);
            } else {
                self.carried(carried);
                self.link_at = until;
            }
        }
        self.link_at = self.link_at.max(at);
    }
}

/// Splits a round into the pieces that are reported one at a time: batches where they
/// matter, and large pieces in the middle of a long round, which the estimators have
/// forgotten by its end.
#[derive(Debug, Clone)]
pub struct Pieces {
    left: u64,
    fine: u64,
    head: u64,
    tail: u64,
    middle: u64,
}

impl Pieces {
    /// The number of pages in a batch, as the stub makes them.
    pub const BATCH: u64 = 1_024;
    /// The part of a round that is simulated finely, in µs, at its start and at its end.
    const HEAD: u64 = 1_000_000;
    const TAIL: u64 = 3_000_000;
    /// The shortest finely simulated piece, in µs: less than half of an estimator's window.
    const FINE: u64 = 8_000;
    /// The number of pieces in the middle of a round.
    const MIDDLE: u64 = 16;

    /// The pieces of a live round.
    pub fn of_round(pages: u64, rate: u64) -> Self {
        let pages_in = |span: u64| (u128::from(rate) * u128::from(span) / u128::from(PAGE)) as u64;
        let (head, tail) = (pages_in(Self::HEAD), pages_in(Self::TAIL));
        let middle = pages.saturating_sub(head + tail).div_ceil(Self::MIDDLE);
        Self {
            left: pages,
            fine: pages_in(Self::FINE).max(Self::BATCH),
            head: pages.saturating_sub(head),
            tail,
            middle,
        }
    }

    /// The pieces of the final round: real batches, unless there are too many of them.
    pub fn of_final_round(pages: u64) -> Self {
        Self {
            left: pages,
            fine: Self::BATCH.max(pages.div_ceil(512)),
            head: 0,
            tail: pages,
            middle: 0,
        }
    }
}

impl Iterator for Pieces {
    type Item = (u64, Grain);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let is_middle = self.left <= self.head && self.left > self.tail && self.middle > self.fine;
        let (pages, grain) = if is_middle {
            (self.middle.min(self.left - self.tail), Grain::Coarse)
        } else {
            (self.fine, Grain::Fine)
        };
        let pages = pages.min(self.left);
        self.left -= pages;
        Some((pages, grain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{Draw, LinkKind, Mishaps};
    use crate::link::WithinPause;

    /// Half a second at a thousand pages a second, at a quarter of the time for the first
    /// hundred pages.
    #[test]
    fn the_first_pages_of_a_pause_take_another_time() {
        let mut draw = Draw::anything(1);
        (draw.link_rate, draw.link) = (Some(1_000), Some(LinkKind::Constant));
        draw.mishaps = Mishaps::None;
        let mut scenario = draw.scenario(0).scenario;
        scenario.link.buffer = 0;
        scenario.link.within_pause = WithinPause {
            per_mille: 250,
            pages: 100,
        };
        let sent = |stop: bool| {
            let mut world = World::new(&scenario);
            if stop {
                world.stop();
            }
            world.write(500, Grain::Fine) - world.now()
        };
        assert_eq!(sent(false), 500_000);
        assert_eq!(sent(true), 425_000);
    }

    #[test]
    fn pieces_add_up_and_are_few() {
        for pages in [1, 1_023, 1_024, 1 << 20, 1 << 32] {
            for rate in [1, 2_500, 280_000, 3_000_000] {
                let pieces: Vec<_> = Pieces::of_round(pages, rate).collect();
                let sum: u64 = pieces.iter().map(|(pages, _)| pages).sum();
                assert_eq!(sum, pages);
                assert!(pieces.len() < 540, "{pages} at {rate}: {}", pieces.len());
                let sum: u64 = Pieces::of_final_round(pages).map(|(pages, _)| pages).sum();
                assert_eq!(sum, pages);
            }
        }
    }
}
