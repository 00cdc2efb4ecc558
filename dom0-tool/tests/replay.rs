//! Traces that the command itself writes and replays.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn lull() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lull"));
    command.env("NO_COLOR", "1");
    command
}

fn run(words: &[&str]) -> Output {
    lull().args(words).output().expect("lull can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn keep(folder: &Path, trace: &[u8]) -> Output {
    let mut spooler = lull()
        .args(["keep-trace", "7", "--folder"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lull can be started");
    let mut pipe = spooler.stdin.take().expect("it is piped");
    pipe.write_all(trace).expect("the spooler reads");
    drop(pipe);
    spooler.wait_with_output().expect("it ends")
}

/// The trace of an attempt that gate 0 refused before a byte was copied.
const TRACE: &str = concat!(
    r#"{"type":"header","schema":1,"lull":"0.1.0","domain":7,"started":"2026-11-23T15:34:44Z","config":{"max_suspend_us":100000,"timeout_us":null,"costs_us":{"suspend":200000,"final_bitmap":10000,"cpu_state":50000,"landing":3000000,"resume":50000},"expected_costs_us":{"suspend":100000,"final_bitmap":10000,"cpu_state":50000,"landing":2000000,"resume":50000},"risk_per_mille":50,"guest_pages":49152}}"#,
    "\n",
    r#"{"type":"event","at_us":310000,"event":"begin","pages":49152}"#,
    "\n",
    r#"{"type":"decision","at_us":310000,"action":"refuse","round":0,"pages":null,"reason":"fixed-costs-landing","dirty_pages":null,"predicted_us":null,"dirty_rate":{"lower":0,"upper":18446744073709551615},"transfer_rate":{"lower":0,"upper":18446744073709551615},"smallest_limit_us":3260000,"bandwidth_needed":null}"#,
    "\n",
    r#"{"type":"end","events":1,"left_out":0,"outcome":"refused-downtime","reason":"too slow"}"#,
    "\n",
);

#[test]
fn a_trace_is_kept_when_the_helper_is_gone_and_replays() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("traces");
    let kept = keep(&folder, TRACE.as_bytes());
    assert_eq!(kept.status.code(), Some(0), "{}", said(&kept));
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let name = file.file_name().into_string().unwrap();
    assert!(name.ends_with("Z-7.jsonl"), "{name}");
    let file = file.path();
    let file = file.to_str().unwrap();

    let same = run(&["replay", file]);
    let text = String::from_utf8_lossy(&same.stdout);
    assert_eq!(same.status.code(), Some(0), "{}", said(&same));
    assert!(
        text.contains("1 events led to the same 1 decisions"),
        "{text}"
    );

    let instead = run(&["replay", "--max-suspend-time", "5s", file]);
    let text = String::from_utf8_lossy(&instead.stdout);
    assert_eq!(instead.status.code(), Some(0), "{}", said(&instead));
    assert!(text.contains("instead:  copy round 0"), "{text}");
}

#[test]
fn a_forged_decision_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("trace");
    std::fs::write(&file, TRACE.replace("3260000", "3260001")).unwrap();
    let output = run(&["replay", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("smallest_limit_us: 3260001 recorded, 3260000 replayed"),
        "{text}"
    );
}

#[test]
fn what_is_no_trace_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let huge = root.path().join("huge");
    std::fs::File::create(&huge)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let garbage = root.path().join("garbage");
    std::fs::write(&garbage, [0xff; 300]).unwrap();
    let cut = root.path().join("cut");
    std::fs::write(&cut, &TRACE[..TRACE.len() - 30]).unwrap();
    let other = root.path().join("other");
    std::fs::write(&other, TRACE.replace("\"schema\":1", "\"schema\":9")).unwrap();
    let empty = root.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let missing = root.path().join("missing");
    for (file, says) in [
        (huge.as_path(), "larger than any trace"),
        (&garbage, "truncated"),
        (&cut, "truncated"),
        (&other, "schema 9"),
        (&empty, "truncated"),
        (&missing, "No such file"),
        (root.path(), "not a file"),
    ] {
        let output = run(&["replay", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{file:?}");
        assert!(said(&output).contains(says), "{}", said(&output));
    }
}

#[test]
fn a_folder_that_cannot_be_written_loses_the_trace_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = keep(&file.join("traces"), TRACE.as_bytes());
    assert!(said(&output).contains("warning: the trace of this attempt is lost"));
}
