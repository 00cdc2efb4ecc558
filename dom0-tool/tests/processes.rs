//! Checks processes that are not started by hand, by their state in the kernel: they are
//! confined, they keep nothing that they were not given, and a guard outlives signals. The
//! save helper is also run without a Xen, to see what it says then.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lull_base::ready;
use lull_wire::spec::{MigrationSpec, VARIABLE};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getpgid, getsid, kill_process};

/// The longest time that a condition may take to hold, on any machine.
const TIMEOUT: Duration = Duration::from_secs(20);

fn start(words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_lull"))
        .args(words)
        .env(VARIABLE, MigrationSpec::unlimited(7).encode())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns a pipe whose writing end every program that is started inherits.
fn inherited_pipe() -> (PipeReader, PipeWriter) {
    let (read, write) = pipe().unwrap();
    fcntl_setfd(&write, FdFlags::empty()).unwrap();
    (read, write)
}

/// Whether the last writing end of the pipe is closed.
fn has_ended(pipe: &PipeReader) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    ready::wait(&mut fds, Some(Duration::ZERO)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Returns the two values of a line of `/proc/PID/limits`.
fn limit(child: &Child, name: &str) -> Option<[String; 2]> {
    let text = fs::read_to_string(format!("/proc/{}/limits", child.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let mut values = line.strip_prefix(name)?.split_whitespace();
    Some([values.next()?.to_owned(), values.next()?.to_owned()])
}

/// Returns a field of `/proc/PID/status`.
fn status(child: &Child, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + TIMEOUT;
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
        &["transport", "--", "cat"],
        &["guard", "sampling", "7", "1"],
    ] {
        let child = start(words);
        until_confined(&child, words[0]);
        end(child);
    }
}

/// No signal that ends the other processes ends a guard, and a guard is in a session of its
/// own.
/// Two attempts count as two. Each spooler holds a lock by which the other knows it.
#[test]
fn attempts_at_the_same_time_are_both_counted() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let runs = runs.to_str().unwrap();
    let running = || {
        let files = fs::read_dir(folder.path().join("running"));
        files.map_or(0, Iterator::count)
    };
    let spoolers = ["web1", "web2"].map(|guest| {
        let before = running();
        let child = start(&["keep-run", "--folder", runs, guest]);
        until("the attempt is counted", || running() > before);
        until_confined(&child, guest);
        child
    });
    assert_eq!(running(), 2);
    spoolers.into_iter().for_each(end);
}

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

/// A process that outlives the operator's command, or holds a guest's memory, keeps no
/// descriptor of the operator's shell and leaves no memory behind in a file.
#[test]
fn what_was_inherited_by_accident_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for words in [
        &["keep-run", "--folder", folder, "web1"][..],
        &["keep-trace", "--folder", folder, "7"],
        &["guard", "sampling", "7", "1"],
        &["see-off"],
        &["hold-state"],
    ] {
        let what = words[0];
        let (read, write) = inherited_pipe();
        let child = start(words);
        drop(write);
        until(what, || has_ended(&read));
        let is = |name: &str, value: &str| {
            until(&format!("{what}: {name}"), || {
                limit(&child, name) == Some([value.to_owned(), value.to_owned()])
            });
        };
        is("Max core file size", "0");
        is("Max open files", "256");
        until(what, || {
            status(&child, "NoNewPrivs").as_deref() == Some("1")
        });
        end(child);
    }
}

/// Like the processes above; its own descriptors stay open.
#[test]
fn an_engine_keeps_only_what_it_was_given() {
    let given = [(); 4].map(|()| UnixStream::pair().unwrap());
    let numbers = given.each_ref().map(|(_, theirs)| {
        fcntl_setfd(theirs, FdFlags::empty()).unwrap();
        theirs.as_raw_fd().to_string()
    });
    let [helper, transport, to, from] = &numbers;
    let (read, write) = inherited_pipe();
    let engine = start(&[
        "engine",
        "--helper",
        helper,
        "--transport",
        transport,
        "--to-land",
        to,
        "--from-land",
        from,
        "--land",
        "4",
    ]);
    drop(write);
    until("engine", || has_ended(&read));
    until("engine", || {
        limit(&engine, "Max core file size") == Some(["0".to_owned(), "0".to_owned()])
    });
    assert_eq!(status(&engine, "NoNewPrivs").as_deref(), Some("1"));
    let ours = given.map(|(ours, theirs)| {
        drop(theirs);
        ours
    });
    for socket in &ours {
        let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
        assert_eq!(
            ready::wait(&mut fds, Some(Duration::ZERO)),
            Ok(false),
            "a socket was closed"
        );
    }
    // An engine to which no stream is handed ends.
    drop(ours);
    let mut engine = engine;
    until("it ends", || engine.try_wait().unwrap().is_some());
}

/// A transport gives them up once the program that connects to the destination has them,
/// which may read a password from one.
#[test]
fn a_transport_passes_on_what_the_shell_had_open() {
    let close =
        "for n in /proc/self/fd/*; do n=${n##*/}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done";
    let (mut read, write) = inherited_pipe();
    let number = write.as_raw_fd();
    let line = format!("echo here >&{number}; {close}; exec cat");
    let transport = start(&["transport", "--", "bash", "-c", &line]);
    drop(write);
    until("transport", || has_ended(&read));
    let mut said = String::new();
    read.read_to_string(&mut said).unwrap();
    assert_eq!(said, "here\n");
    assert!(status(&transport, "State").is_some_and(|state| !state.starts_with('Z')));
    end(transport);
}

/// Runs the save helper as libxl does, for a domain that does not exist. Returns what it
/// sends to libxl and to a front end.
fn helped(spec: &str, has_front_end: bool) -> (String, String) {
    let (front_end, theirs) = UnixStream::pair().unwrap();
    let (_stream, to) = pipe().unwrap();
    fcntl_setfd(&to, FdFlags::empty()).unwrap();
    let number = to.as_raw_fd().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lull"));
    command
        .args(["--save-domain", &number, &number, "32000", "1", "0", "0"])
        .env(VARIABLE, spec)
        .env("LULL_STOCK_HELPER", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if has_front_end {
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        command.env("LULL_FRONT_END_FD", theirs.as_raw_fd().to_string());
    }
    let mut helper = command.spawn().unwrap();
    drop((theirs, to));
    // libxl's answer to the end.
    let mut answers = helper.stdin.take().unwrap();
    std::io::Write::write_all(&mut answers, &0_i32.to_ne_bytes()).unwrap();
    let output = helper.wait_with_output().unwrap();
    let mut emitted = String::new();
    let mut front_end = front_end;
    front_end.read_to_string(&mut emitted).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (said, emitted)
}

/// Without this event, the front end would go by xl's output, which blames the
/// destination.
#[test]
fn a_helper_that_cannot_begin_reports_to_the_front_end_that_the_source_failed() {
    let (_, emitted) = helped(&MigrationSpec::unlimited(32_000).encode(), true);
    let ended = emitted
        .lines()
        .find(|line| line.contains(r#""type":"ended""#));
    let ended = ended.unwrap_or_else(|| panic!("{emitted}"));
    assert!(ended.contains(r#""how":"source-failed""#), "{ended}");
}

/// A shell below `lull migrate` may have inherited it, and starts a plain `xl migrate`.
#[test]
fn a_specification_without_a_front_end_sets_no_limit() {
    // Whether it is understood shows whether it is read.
    let (said, _) = helped("soon", false);
    assert!(!said.contains(VARIABLE), "{said}");
    let (_, emitted) = helped("soon", true);
    assert!(emitted.contains(VARIABLE), "{emitted}");
}
