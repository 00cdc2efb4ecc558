//! Runs `lull transport` as xl starts it, with scripts in place of the destination. There
//! is no guest to resume here; that is tested inside the transport, and on Xen.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lull_core::limits::DowntimeLimit;
use lull_core::units::Micros;
use lull_wire::spec::{MigrationSpec, VARIABLE};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};

const BANNER: &str = "xl migration receiver ready, send binary domain data.\n";

struct Transport {
    process: Child,
    front_end: UnixStream,
    engine: UnixStream,
    said: PipeReader,
}

/// A limit in microseconds, if there is one, and what may follow READY.
fn spec(max_suspend_us: Option<u64>, after_ready: Micros) -> String {
    let mut spec = MigrationSpec::unlimited(7);
    spec.limits.max_suspend = max_suspend_us.and_then(|us| DowntimeLimit::new(Micros(us)));
    spec.costs.at_most.landing = after_ready;
    spec.costs.at_most.resume = Micros(50_000);
    spec.after_ready = after_ready;
    spec.encode()
}

fn transport(words: &[&str]) -> Transport {
    asked(&spec(None, Micros::ZERO), words)
}

fn asked(spec: &str, words: &[&str]) -> Transport {
    let (front_end, theirs) = UnixStream::pair().unwrap();
    let (engine, engines) = UnixStream::pair().unwrap();
    for inherited in [&theirs, &engines] {
        fcntl_setfd(inherited, FdFlags::empty()).unwrap();
    }
    let (said, stderr) = io::pipe().unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_lull"))
        .arg("transport")
        .args(words)
        .env(VARIABLE, spec)
        .env("LULL_TRANSPORT_FD", theirs.as_raw_fd().to_string())
        .env("LULL_TRANSPORT_ENGINE_FD", engines.as_raw_fd().to_string())
        .env("NUMBER", theirs.as_raw_fd().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    Transport {
        process,
        front_end,
        engine,
        said,
    }
}

impl Transport {
    fn cancel(&self) {
        writeln!(&self.front_end, r#"{{"schema":1,"message":"cancel"}}"#).unwrap();
    }

    /// Reports a guest that has just stopped, and that all of it is sent.
    fn stream_complete(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let ns = now.tv_sec * 1_000_000_000 + now.tv_nsec;
        let suspended =
            format!(r#""message":"suspended","requested_monotonic_ns":{ns},"limit_us":null"#);
        for message in [
            r#""message":"begun""#,
            &suspended,
            r#""message":"committed""#,
        ] {
            writeln!(&self.engine, r#"{{"schema":1,{message}}}"#).unwrap();
        }
    }

    /// Checks that the receiver has destroyed its copy, and why it was refused.
    fn expect_refused(mut self, marker: &Path, why: &str) {
        self.process.wait().unwrap();
        assert_eq!(std::fs::read_to_string(marker).unwrap(), "destroyed\n");
        let mut received = String::new();
        self.front_end.set_nonblocking(true).unwrap();
        let _ = self.front_end.read_to_string(&mut received);
        assert!(
            received.contains(&format!(r#""why":"{why}""#)),
            "{received}"
        );
    }

    /// Returns the bytes that xl reads to the end, and the exit code.
    fn end(mut self) -> (Vec<u8>, Option<i32>) {
        let mut received = Vec::new();
        let mut stdout = self.process.stdout.take().unwrap();
        stdout.read_to_end(&mut received).unwrap();
        drop(self.process.stdin.take());
        (received, self.process.wait().unwrap().code())
    }
}

#[test]
fn words_go_to_the_program_as_they_are_and_a_line_to_a_shell() {
    let plain = transport(&["--", "printf", "%s|", "a b", "-c", "--", "$x"]);
    assert_eq!(plain.end().0, b"a b|-c|--|$x|");
    let shell = transport(&["--shell", "--", "x='a  b'; echo \"$x\" | tr a c; exit 7"]);
    assert_eq!(shell.end(), (b"c  b\n".to_vec(), Some(7)));
}

#[test]
fn the_child_does_not_find_the_socket() {
    let line = "[ ! -e /proc/self/fd/$NUMBER ] && echo \"closed$LULL_TRANSPORT_FD\"";
    assert_eq!(transport(&["--shell", "--", line]).end().0, b"closed\n");
}

#[test]
fn another_releases_specification_is_refused() {
    for (spec, words) in [
        (
            spec(None, Micros::ZERO).replace("\"schema\":2", "\"schema\":3"),
            "schema 3",
        ),
        ("{}".to_owned(), "cannot be understood"),
    ] {
        let mut world = asked(&spec, &["--", "echo", "reached"]);
        assert_eq!(world.process.wait().unwrap().code(), Some(1));
        let mut said = String::new();
        world.said.read_to_string(&mut said).unwrap();
        assert!(
            said.starts_with("lull transport: LULL_MIGRATION") && said.contains(words),
            "{said}"
        );
        assert_eq!(world.end().0, b"");
    }
}

#[test]
fn what_cannot_be_started_is_said() {
    let mut missing = transport(&["--", "/nonexistent/ssh", "host2"]);
    assert_eq!(missing.process.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    missing.said.read_to_string(&mut said).unwrap();
    assert!(
        said.starts_with("lull transport: `/nonexistent/ssh`"),
        "{said}"
    );
}

#[test]
fn sshs_own_end_is_the_transports() {
    assert_eq!(
        transport(&["--", "sh", "-c", "exit 255"]).end().1,
        Some(255)
    );
    let killed = transport(&["--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.end().1, Some(137));
}

#[test]
fn a_large_stream_goes_through_two_processes() {
    let mut world = transport(&["--", "sh", "-c", "head -c 134217728 | cksum"]);
    let mut stdin = world.process.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let piece: Vec<u8> = (0..1 << 20).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
        for _ in 0..128 {
            stdin.write_all(&piece).unwrap();
        }
        stdin
    });
    let mut received = String::new();
    let mut stdout = world.process.stdout.take().unwrap();
    stdout.read_to_string(&mut received).unwrap();
    drop(writer.join().unwrap());
    let mut expected = Command::new("cksum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to_cksum = expected.stdin.take().unwrap();
    let piece: Vec<u8> = (0..1 << 20).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    for _ in 0..128 {
        to_cksum.write_all(&piece).unwrap();
    }
    drop(to_cksum);
    let expected = expected.wait_with_output().unwrap().stdout;
    assert_eq!(received.as_bytes(), expected);
    world.process.wait().unwrap();
}

#[test]
fn a_cancel_ends_an_ssh_that_still_knocks() {
    let world = transport(&["--", "sleep", "600"]);
    world.cancel();
    let begun = Instant::now();
    world.end();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// Returns a stock receiver, which destroys its copy only if its report can be written.
fn receiver(marker: &Path, ready_after: &str) -> String {
    let marker = marker.display();
    format!(
        r#"trap '' PIPE; printf '%s' "{BANNER}"; sleep {ready_after}
printf 'domain received, ready to unpause\0' || exit 1
if [ "$(head -c 2)" = GO ]; then echo started >{marker}; printf R; exit 0; fi
printf 'my copy unpause results are as follows\0\3' || exit 1
echo destroyed >{marker}"#
    )
}

#[test]
fn a_late_receiver_is_refused_in_time_and_destroys_its_copy() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let script = receiver(&marker, "3");
    let spec = spec(Some(1600000), Micros(800000));
    let mut world = asked(&spec, &["--shell", "--", &script]);
    let mut banner = vec![0; BANNER.len()];
    let stdout = world.process.stdout.as_mut().unwrap();
    stdout.read_exact(&mut banner).unwrap();
    assert_eq!(banner, BANNER.as_bytes());

    let begun = Instant::now();
    world.stream_complete();
    let mut rest = Vec::new();
    world
        .process
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut rest)
        .unwrap();
    let refused_after = begun.elapsed();
    assert!(rest.is_empty(), "READY reached xl");
    assert!(
        (Duration::from_millis(750)..Duration::from_millis(1600)).contains(&refused_after),
        "{refused_after:?}"
    );
    world.expect_refused(&marker, "not-ready");
}

/// No Xen answers here, so the guest might run. A receiver that gets its GO is tested inside
/// the transport.
#[test]
fn where_xen_does_not_answer_a_timely_receiver_is_refused_too() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let script = receiver(&marker, "0.1");
    let spec = spec(Some(60000000), Micros(100000));
    let mut world = asked(&spec, &["--shell", "--", &script]);
    world.stream_complete();
    let mut received = Vec::new();
    let mut stdout = world.process.stdout.take().unwrap();
    stdout.read_to_end(&mut received).unwrap();
    assert_eq!(received, BANNER.as_bytes());
    world.expect_refused(&marker, "state-unread");
}

/// xl then reads the end of the stream, and resumes the guest itself.
#[test]
fn a_relay_that_is_killed_is_an_end_to_both() {
    let mut world = transport(&["--shell", "--", "cat >/dev/null; exit 0"]);
    world.process.kill().unwrap();
    let (received, code) = world.end();
    assert_eq!((received, code), (Vec::new(), None));
}
