//! Child processes that are waited for no longer than a time.

use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between two checks whether the process has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until the process has ended, or until `until`. Returns `None` if it still runs
/// then; it is not touched.
pub fn wait_until(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::sleep(POLL_INTERVAL.min(left));
    }
}

/// Waits as [`wait_until`] does, and then kills a process that still runs.
pub fn wait_or_kill(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    let status = wait_until(child, until);
    if status.is_none() {
        kill(child);
    }
    status
}

/// Kills the process, and leaves no zombie.
pub fn kill(child: &mut Child) {
    // Both calls fail only if the process has already ended.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn sleep(seconds: &str) -> Child {
        Command::new("sleep").arg(seconds).spawn().unwrap()
    }

    #[test]
    fn a_process_that_ends_is_waited_for_and_another_is_left_alone() {
        let mut brief = sleep("0");
        let late = Instant::now() + Duration::from_secs(60);
        assert!(wait_until(&mut brief, late).is_some_and(|status| status.success()));
        let mut long = sleep("60");
        assert_eq!(wait_until(&mut long, Instant::now()), None);
        assert!(matches!(long.try_wait(), Ok(None)), "it still runs");
        kill(&mut long);
    }

    #[test]
    fn a_process_that_stays_is_killed_when_its_time_is_over() {
        let mut long = sleep("60");
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(wait_or_kill(&mut long, soon), None);
        assert!(matches!(long.try_wait(), Ok(Some(_))), "no zombie is left");
    }

    /// A process that has ended is seen even when there is no time left to wait.
    #[test]
    fn an_end_is_seen_without_any_wait() {
        let mut brief = sleep("0");
        let status = brief.wait().unwrap();
        assert_eq!(wait_or_kill(&mut brief, Instant::now()), Some(status));
    }
}
