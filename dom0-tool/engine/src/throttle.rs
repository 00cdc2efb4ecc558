//! Keeps the sending rate below the operator's bandwidth cap while the guest runs.

use std::time::{Duration, Instant};

use lull_core::units::PageRate;

/// A token bucket. It holds the bytes of a tenth of a second, so a loop that wakes late
/// catches up. The caller draws at least a quarter of that at a time, so the loop does not
/// wake for a few bytes.
#[derive(Debug)]
pub struct Throttle {
    cap: PageRate,
    /// The bytes that may be sent, as of `filled`.
    tokens: u64,
    filled: Instant,
}

/// The smallest capacity of a bucket, in bytes.
const LEAST: u64 = 64 << 10;

impl Throttle {
    /// An empty bucket, filled from `now` on.
    pub fn new(cap: PageRate, now: Instant) -> Self {
        Self {
            cap,
            tokens: 0,
            filled: now,
        }
    }

    /// The bandwidth cap, as a rate of pages.
    pub fn cap(&self) -> PageRate {
        self.cap
    }

    /// The number of bytes that may be sent now.
    pub fn allowed(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_nanos();
        let fresh = since * u128::from(self.rate()) / NS;
        let fresh = u64::try_from(fresh).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(fresh);
        // The time of a fraction of a byte is carried over, so it is neither lost nor
        // counted twice.
        let took = (u128::from(fresh) * NS).div_ceil(u128::from(self.rate()));
        self.filled += Duration::from_nanos(u64::try_from(took).unwrap_or(u64::MAX));
        if self.tokens >= self.depth() {
            self.tokens = self.depth();
            self.filled = now;
        }
        match self.tokens >= self.sip() {
            true => usize::try_from(self.tokens).unwrap_or(usize::MAX),
            false => 0,
        }
    }

    /// Takes the `bytes` that were sent out of the bucket.
    pub fn sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// The time until bytes may be sent again.
    pub fn wait(&self, now: Instant) -> Duration {
        let lacking = self.sip().saturating_sub(self.tokens);
        let at = self.filled + time_for(lacking, self.rate());
        // The margin covers the timer's grain: a timer that fires early would wake the loop
        // in vain.
        at.saturating_duration_since(now) + Duration::from_micros(100)
    }

    fn rate(&self) -> u64 {
        self.cap.bytes().0.max(1)
    }

    fn depth(&self) -> u64 {
        (self.rate() / 10).max(LEAST)
    }

    fn sip(&self) -> u64 {
        self.depth() / 4
    }
}

const NS: u128 = 1_000_000_000;

/// The time in which `bytes` are sent at `rate`, rounded down.
fn time_for(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * NS / u128::from(rate);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the loop is timed, no more is sent than the cap allows plus one bucket.
        /// Nearly as much is sent if the loop wakes when it was told to.
        #[test]
        fn the_cap_is_kept(pages in 1..10_000_000_u64, late_ms in proptest::collection::vec(0..300_u64, 1..60)) {
            let start = Instant::now();
            let mut now = start;
            let mut throttle = Throttle::new(PageRate(pages), now);
            let mut sent = 0_u64;
            let mut punctual = 0_u64;
            for late in late_ms {
                for late in [0, late] {
                    now += throttle.wait(now) + Duration::from_millis(late);
                    let allowed = throttle.allowed(now) as u64;
                    prop_assert!(allowed > 0, "woken in vain");
                    throttle.sent(allowed);
                    sent += allowed;
                    punctual += u64::from(late == 0);
                }
            }
            let most = u128::from(pages * 4_096) * (now - start).as_nanos() / NS;
            prop_assert!(u128::from(sent) <= most + 1);
            prop_assert!(sent >= punctual * throttle.sip());
        }
    }
}
