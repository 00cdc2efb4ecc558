//! Reports of fixed records in every form.

use super::*;

const MOVED: &str = include_str!("../../store/src/runs/samples/moved.jsonl");
const REFUSED: &str = include_str!("../../store/src/runs/samples/refused.jsonl");
const GATE_0: &str = include_str!("../../store/src/runs/samples/gate0.jsonl");

fn run(record: &str) -> Run {
    Run::read("2026-11-23T15-34-44Z-web1", record.as_bytes()).unwrap()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[test]
fn a_move_is_told_whole() {
    let run = run(MOVED);
    let text = text::plain(&run, &[]);
    assert_eq!(format!("{text}\n"), include_str!("samples/moved.txt"));
}

#[test]
fn markdown_is_markdown() {
    let text = text::markdown(&run(MOVED), &[]);
    assert_eq!(format!("{text}\n"), include_str!("samples/moved.md"));
}

#[test]
fn json_is_one_object() {
    let text = json::of(&run(MOVED), &[]);
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["type"], "report");
    assert_eq!(object["outcome"], "moved");
    assert_eq!(object["observed"]["landing_ms"], 286);
    assert_eq!(object["observed_downtime_ms"], 402);
    assert_eq!(object["rounds"].as_array().map(Vec::len), Some(5));
}

#[test]
fn a_refusal_says_what_would_have_fitted() {
    let text = text::plain(&run(REFUSED), &[]);
    says(
        &text,
        &["Refused timeout.", "--max-suspend-time 5400ms", "5,440 ms"],
    );
}

#[test]
fn the_helper_records_xls_own_attempts() {
    let run = run(GATE_0);
    assert_eq!(
        (run.outcome(), run.destination()),
        ("refused-downtime", None)
    );
    let text = text::plain(&run, &[]);
    says(
        &text,
        &[
            "through libxl",
            "a pause costs at least 3,260 ms",
            "--max-suspend-time 3260ms",
        ],
    );
}

#[test]
fn a_record_cut_short_or_spoilt_is_shown_as_far_as_it_goes() {
    let half = run(&MOVED[..MOVED.len() / 2]);
    assert_eq!((half.outcome(), half.not_understood), ("unfinished", 1));
    says(&text::plain(&half, &[]), &["web1", "Unfinished"]);
    for garbage in [
        "",
        "\n\n\n",
        "{}\n[]\nnull\n",
        "\0\u{fffd}{\"type\":\"round\"}",
    ] {
        let run = run(garbage);
        for text in [
            text::plain(&run, &[]),
            text::markdown(&run, &[]),
            json::of(&run, &[]),
        ] {
            assert!(!text.is_empty());
        }
    }
}

#[test]
fn a_guest_left_to_xens_own_helper_is_shown_with_the_reason() {
    let left = r#"{"schema":1,"type":"left-to-stock","reason":"no memory"}"#;
    let begun = MOVED.lines().next().unwrap();
    let run = run(&format!("{begun}\n{left}\n"));
    assert_eq!((run.outcome(), run.not_understood), ("left-to-stock", 0));
    says(
        &text::plain(&run, &[]),
        &["Left to Xen's own helper", "Why: no memory."],
    );
}

#[test]
fn a_huge_or_strange_file_is_an_error_and_the_list_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path(), RETENTION);
    folder.keep("web1", MOVED.as_bytes()).unwrap();
    let huge = root.path().join("2020-01-01T00-00-00Z-huge.jsonl");
    let file = std::fs::File::create(&huge).unwrap();
    file.set_len(1 << 40).unwrap();
    let runs = list::all(&folder);
    let shown = list::text(&runs, &folder);
    says(&shown, &["web1", "moved", "larger than any record"]);
    let object: serde_json::Value = serde_json::from_str(&list::json(&runs)).unwrap();
    assert_eq!(object["runs"][0]["outcome"], "moved");
    assert_eq!(object["runs"][1]["outcome"], "unreadable");
    assert!(Run::open(root.path()).is_err());
}

#[test]
fn what_is_recorded_is_read_back_and_stays_within_its_bound() {
    let mut bytes = Vec::new();
    let mut recorder = runs::Recorder::to(
        lull_store::spool::Pipe::to(&mut bytes),
        run(MOVED).begun.expect("it has one"),
    );
    let progress = &run(MOVED).progress[3];
    for at_ms in 0..1_000_000 {
        let progress = lull_wire::events::Progress {
            at_ms,
            ..progress.clone()
        };
        recorder.add(&lull_wire::events::Event::Progress(progress));
    }
    let result = run(MOVED).result.expect("it has one");
    recorder.add(&lull_wire::events::Event::Result(Box::new(result)));
    drop(recorder);
    assert!(bytes.len() <= runs::MAX_FILE_BYTES, "{}", bytes.len());
    let read = Run::read("x", bytes.as_slice()).unwrap();
    assert_eq!((read.outcome(), read.not_understood), ("moved", 0));
    assert!(
        (500..3_000).contains(&read.progress.len()),
        "{}",
        read.progress.len()
    );
}

#[cfg(feature = "terminal")]
#[test]
fn every_record_can_be_drawn_with_a_night_side() {
    let unlimited = MOVED.replace("\"limit_ms\":800", "\"limit_ms\":null");
    let strange = MOVED.replace("web1", "<w&b>");
    let endless = MOVED.replace("610", &u64::MAX.to_string());
    for record in [MOVED, REFUSED, GATE_0, "", &unlimited, &strange, &endless] {
        let ledger = [Some("web1"), None].map(|guest| ledger::Foreseen {
            guest: guest.map(str::to_owned),
            predicted_ms: 700,
            observed_ms: 400,
        });
        for ledger in [&ledger[..], &[]] {
            let svg = plot::of(&run(record), ledger).unwrap();
            says(&svg, &["prefers-color-scheme: dark", "</svg>"]);
            assert!(!svg.contains("<w&b>"), "{svg}");
        }
    }
}
