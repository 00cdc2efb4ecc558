//! Writes pages at a set rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{Load, Pattern};
use crate::working_set::WorkingSet;

/// The interval between two reads of the clock. It is short, so that writes are evenly
/// spread; but each one wakes the guest, which under emulation costs a millisecond of the
/// processor on which the stub copies.
const TICK: Duration = Duration::from_millis(10);

/// The longest delay for which missed writes are made later. Older ones are dropped,
/// because otherwise a stalled guest would resume with an unwanted burst.
const CATCH_UP: Duration = Duration::from_millis(500);

/// The writer of pages.
pub struct Dirtier {
    set: Arc<WorkingSet>,
    load: Mutex<Load>,
    written: AtomicU64,
}

impl Dirtier {
    /// Returns a writer without a load.
    pub fn new(set: Arc<WorkingSet>) -> Self {
        Self {
            set,
            load: Mutex::new(Load::QUIET),
            written: AtomicU64::new(0),
        }
    }

    /// Returns the present load.
    pub fn load(&self) -> Load {
        self.load.lock().map_or(Load::QUIET, |load| *load)
    }

    /// Changes the load.
    pub fn set_load(&self, load: Load) {
        if let Ok(mut present) = self.load.lock() {
            *present = load;
        }
    }

    /// Returns the number of pages written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes for as long as the guest lives.
    pub fn run(&self) -> ! {
        let mut load = self.load();
        let mut budget = Budget::new(load, Instant::now());
        let mut next = 0;
        loop {
            let present = self.load();
            let now = Instant::now();
            if present != load {
                load = present;
                budget = Budget::new(load, now);
            }
            let due = budget.take(now);
            if due > 0 {
                next = self.set.write(next, due, load.working_set_pages);
                self.written.fetch_add(due, Ordering::Relaxed);
            }
            thread::sleep(TICK);
        }
    }
}

/// The computation of how many writes are due.
struct Budget {
    load: Load,
    last: Instant,
    /// Page-nanoseconds per second that do not yet make up a page.
    remainder: u128,
    next_burst: Instant,
}

impl Budget {
    fn new(load: Load, now: Instant) -> Self {
        Self {
            load,
            last: now,
            remainder: 0,
            next_burst: now,
        }
    }

    fn take(&mut self, now: Instant) -> u64 {
        const NANOS: u128 = 1_000_000_000;
        let elapsed = now.duration_since(self.last).min(CATCH_UP);
        self.last = now;
        let worth = elapsed.as_nanos() * u128::from(self.load.pages_per_sec) + self.remainder;
        self.remainder = worth % NANOS;
        let steady = u64::try_from(worth / NANOS).unwrap_or(0);
        steady + self.burst(now)
    }

    fn burst(&mut self, now: Instant) -> u64 {
        let Pattern::Burst { period_ms, pages } = self.load.pattern else {
            return 0;
        };
        if now < self.next_burst {
            return 0;
        }
        self.next_burst = now + Duration::from_millis(period_ms.max(1));
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_many_uneven_ticks() {
        let start = Instant::now();
        let mut budget = Budget::new(Load::steady(20_000, 100), start);
        let mut total = 0;
        let mut now = start;
        for tick in 0..1_000_u64 {
            now += Duration::from_micros(1_700 + tick % 613);
            total += budget.take(now);
        }
        let expected = (now - start).as_micros() as u64 * 20_000 / 1_000_000;
        assert!(total.abs_diff(expected) <= 1, "{total} of {expected}");
    }

    #[test]
    fn a_long_stall_is_not_made_up_for() {
        let start = Instant::now();
        let mut budget = Budget::new(Load::steady(1_000, 100), start);
        assert_eq!(budget.take(start + Duration::from_secs(60)), 500);
    }

    #[test]
    fn bursts_come_once_a_period() {
        let start = Instant::now();
        let load = Load {
            pages_per_sec: 0,
            working_set_pages: 10,
            pattern: Pattern::Burst {
                period_ms: 100,
                pages: 7,
            },
        };
        let mut budget = Budget::new(load, start);
        assert_eq!(budget.take(start), 7);
        assert_eq!(budget.take(start + Duration::from_millis(50)), 0);
        assert_eq!(budget.take(start + Duration::from_millis(101)), 7);
    }
}
