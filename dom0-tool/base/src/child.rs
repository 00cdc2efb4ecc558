//! Child processes that are waited for no longer than a time.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::processes;

/// Interval between two checks whether the process has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The number of processes whose children are looked for.
const DESCENDANTS_MAX: usize = 64;

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

/// Kills the process with all that it has started, and leaves no zombie. A lull that it has
/// started stays: on one host that may be `lull land`, which ends by itself once nobody can
/// write to it, and whose guard destroys the copy then.
pub fn kill(child: &mut Child) {
    let descendants = descendants(child);
    // All of these fail only if the process has already ended.
    let _ = child.kill();
    let _ = child.wait();
    for process in descendants {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

/// The processes that `child` and its descendants have started, as far as the kernel tells.
fn descendants(child: &Child) -> Vec<OwnedFd> {
    let mut known = vec![child.id()];
    let mut next = 0;
    while let Some(parent) = known.get(next).filter(|_| next < DESCENDANTS_MAX) {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let started = fs::read_to_string(path).unwrap_or_default();
        known.extend(
            started
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok())
                .filter(|pid| !processes::runs_this_program(*pid)),
        );
        next += 1;
    }
    let pids = known.iter().skip(1);
    pids.filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?))
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::ready::is_readable;

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

    /// A shell starts the operator's command as a process of its own, which would hold its
    /// connection until that breaks.
    #[test]
    fn what_a_killed_shell_has_started_is_killed_too() {
        let mut shell = Command::new("sh")
            .args(["-c", "(sleep 600; true) & sleep 600; true"])
            .spawn()
            .unwrap();
        let late = Instant::now() + Duration::from_secs(60);
        let started = loop {
            let started = descendants(&shell);
            if started.len() == 3 {
                break started;
            }
            assert!(Instant::now() < late, "{started:?}");
            thread::sleep(POLL_INTERVAL);
        };
        kill(&mut shell);
        for process in started {
            let ended = is_readable(&process, Duration::from_secs(60));
            assert_eq!(ended, Ok(true), "it still runs");
        }
    }

    /// A part of the next test, which starts it: a lull that runs until its input ends.
    #[test]
    #[ignore = "does nothing by itself"]
    fn a_lull_that_reads_to_the_end() {
        println!("reads");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }

    /// `lull land` starts its guard, which is to outlive it. Both are below the command that is
    /// killed if source and destination are one host.
    #[test]
    fn a_lull_below_what_is_killed_ends_by_itself() {
        let mut shell = Command::new("sh")
            .args(["-c", "exec 3<&0; \"$0\" \"$@\" <&3 & sleep 600; true"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("child::tests::a_lull_that_reads_to_the_end")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("reads")));
        let input = shell.stdin.take();
        kill(&mut shell);
        drop(input);
        assert!(said.any(|line| line.unwrap().contains("1 passed")));
    }

    /// A process that has ended is seen even when there is no time left to wait.
    #[test]
    fn an_end_is_seen_without_any_wait() {
        let mut brief = sleep("0");
        let status = brief.wait().unwrap();
        assert_eq!(wait_or_kill(&mut brief, Instant::now()), Some(status));
    }
}
