//! The clock that the helper, the transport and the front end all read. It does not
//! jump when the wall clock is set, and readings of different processes can be
//! compared.

use rustix::time::{ClockId, clock_gettime};

/// The current `CLOCK_MONOTONIC` time in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// The time from one reading to another in milliseconds, or zero if the second is
/// earlier than the first. Rounds up, so a pause is never shown shorter than it was.
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
