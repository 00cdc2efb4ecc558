//! Keeps what is sent to the operator's cap, while the guest runs.

use std::time::{Duration, Instant};

use lull_core::units::PageRate;

/// A token bucket. It holds a tenth of a second, so that a loop that comes late
/// catches up; and is drawn from in quarters of that, so that it does not wake
/// for a few bytes.
#[derive(Debug)]
pub struct Throttle {
    cap: PageRate,
    /// Bytes that may be sent, by `filled`.
    tokens: u64,
    filled: Instant,
}

/// A bucket holds at least so much, in bytes.
const LEAST: u64 = 64 << 10;

impl Throttle {
    /// An empty bucket.
    pub fn new(cap: PageRate, now: Instant) -> Self {
        Self {
            cap,
            tokens: 0,
            filled: now,
        }
    }

    /// The cap.
    pub fn cap(&self) -> PageRate {
        self.cap
    }

    /// How many bytes may be sent now.
    pub fn allowed(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_nanos();
        let fresh = since * u128::from(self.rate()) / NS;
        let fresh = u64::try_from(fresh).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(fresh);
        // What is less than a byte is not lost, nor had twice.
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

    /// So many were sent.
    pub fn sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// Until some may be sent again.
    pub fn wait(&self, now: Instant) -> Duration {
        let lacking = self.sip().saturating_sub(self.tokens);
        let at = self.filled + time_for(lacking, self.rate());
        // A timer that is early by less than its grain would come in vain.
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

/// Rounded down.
fn time_for(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * NS / u128::from(rate);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the loop comes and goes, no more is sent than the cap and a
        /// bucket, and nearly as much if it comes when it was told to.
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
