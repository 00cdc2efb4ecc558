//! Checks processes that nobody starts by hand, by their state in the kernel: they are
//! confined, and a guard outlives signals.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgid, getsid, kill_process};

/// The longest time that a condition may take to hold, on any machine.
const LONGEST: Duration = Duration::from_secs(20);

fn start(words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_lull"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns a field of `/proc/PID/status`.
fn status(child: &Child, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LONGEST;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until seccomp filters the process; with a filter no program that it starts can
/// gain rights.
fn until_confined(child: &Child, what: &str) {
    until(what, || status(child, "Seccomp").as_deref() == Some("2"));
    assert_eq!(status(child, "NoNewPrivs").as_deref(), Some("1"), "{what}");
}

/// Closes the process's input, and waits for the process to end because of it.
fn end(mut child: Child) {
    drop(child.stdin.take());
    until("it ends", || child.try_wait().unwrap().is_some());
}

#[test]
fn what_reads_foreign_words_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for words in [
        &["keep-run", "--folder", folder, "web1"][..],
        &["keep-trace", "--folder", folder, "7"],
        &["transport", "--domain", "7", "--", "cat"],
        &["guard", "sampling", "7", "1"],
    ] {
        let child = start(words);
        until_confined(&child, words[0]);
        end(child);
    }
}

/// No signal that ends the other processes ends a guard, and a guard is in a session of its
/// own.
#[test]
fn a_guard_outlives_signals() {
    let guard = start(&["guard", "sampling", "7", "1"]);
    until_confined(&guard, "guard");
    let pid = Pid::from_child(&guard);
    assert_eq!(getsid(Some(pid)).unwrap(), pid);
    assert_eq!(getpgid(Some(pid)).unwrap(), pid);
    for signal in [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::ALARM,
    ] {
        kill_process(pid, signal).unwrap();
    }
    // The signals are delivered before the guard reads again.
    thread::sleep(Duration::from_millis(50));
    assert!(!status(&guard, "State").unwrap().starts_with('Z'));
    end(guard);
}
