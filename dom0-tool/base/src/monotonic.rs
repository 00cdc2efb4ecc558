//! The clock that every part reads, helper, transport and front end alike: it
//! counts on whatever the time is set to, and their readings can be compared.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// From one reading to another, in milliseconds; none if they stand the other
/// way round. Rounded up: no pause is shown shorter than it was.
pub const fn span_ms(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns).div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_rounded_up_and_never_negative() {
        assert_eq!(span_ms(0, 1), 1);
        assert_eq!(span_ms(0, 2_000_000), 2);
        assert_eq!(span_ms(5, 0), 0);
    }
}
