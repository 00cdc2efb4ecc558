//! Waits for descriptors.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};

/// Waits until one of the descriptors is ready, for `longest` at most or, with `None`, for as
/// long as it takes. Returns whether one is. A signal ends the wait early, and none is ready
/// then.
///
/// # Errors
/// When the kernel has no memory for the wait, or the descriptors are too many.
pub fn wait(fds: &mut [PollFd<'_>], longest: Option<Duration>) -> Result<bool> {
    // A time too long for the kernel is no limit.
    let timeout = longest.and_then(|longest| Timespec::try_from(longest).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits as [`wait`] does, but until that time, whatever signals arrive.
///
/// # Errors
/// As [`wait`].
pub fn wait_until(fds: &mut [PollFd<'_>], until: Instant) -> Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if wait(fds, Some(left))? {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// Waits as [`wait`] does until the descriptor can be read or is at its end.
///
/// # Errors
/// As [`wait`].
pub fn is_readable(from: impl AsFd, longest: Duration) -> Result<bool> {
    wait(&mut [PollFd::new(&from, PollFlags::IN)], Some(longest))
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};

    use super::*;

    #[test]
    fn a_descriptor_is_ready_once_it_has_bytes_or_is_at_its_end() {
        let (read, mut write) = pipe().unwrap();
        let brief = Duration::from_millis(1);
        assert_eq!(is_readable(&read, brief), Ok(false));
        let mut fds = [PollFd::new(&read, PollFlags::IN)];
        assert_eq!(wait_until(&mut fds, Instant::now() + brief), Ok(false));
        write.write_all(&[1]).unwrap();
        // What is ready already needs no time, and no time is too long.
        assert_eq!(wait_until(&mut fds, Instant::now()), Ok(true));
        assert_eq!(is_readable(&read, Duration::MAX), Ok(true));
        let (read, write) = pipe().unwrap();
        drop(write);
        assert_eq!(is_readable(&read, Duration::ZERO), Ok(true));
    }
}
