//! Metrics from fixed records.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const MOVED: &str = include_str!("../runs/samples/moved.jsonl");
const REFUSED: &str = include_str!("../runs/samples/refused.jsonl");

fn metrics(root: &Path) -> Metrics {
    let collected = root.join("collected");
    fs::create_dir_all(&collected).unwrap();
    Metrics {
        state: root.join("lull"),
        collected,
    }
}

fn run(record: &str) -> Run {
    Run::read("x", record.as_bytes()).unwrap()
}

/// Every sample of the text. The format is checked line by line.
fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
    let file = metrics.collected.join("lull.prom");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let text = fs::read_to_string(file).unwrap();
    assert!(text.ends_with('\n'));
    let lines = text.lines().filter(|line| !line.starts_with("# "));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect(line);
            (name.to_owned(), value.parse().expect(line))
        })
        .collect()
}

#[test]
fn attempts_are_counted_over_restarts() {
    let root = tempfile::tempdir().unwrap();
    let metrics = metrics(root.path());
    let running = metrics.begun().unwrap();
    assert_eq!(samples(&metrics)["lull_running_migrations"], 1.0);
    metrics.over(Some(running), &run(MOVED)).unwrap();
    metrics.over(None, &run(REFUSED)).unwrap();
    metrics.over(None, &run("")).unwrap();
    let seen = samples(&metrics);
    for (name, value) in [
        ("lull_running_migrations", 0.0),
        ("lull_attempts_total{outcome=\"moved\"}", 1.0),
        ("lull_attempts_total{outcome=\"refused-timeout\"}", 1.0),
        ("lull_attempts_total{outcome=\"unfinished\"}", 1.0),
        ("lull_attempts_total{outcome=\"cancelled\"}", 0.0),
        ("lull_rounds_total", 10.0),
        ("lull_limit_exceeded_total", 0.0),
        ("lull_observed_downtime_seconds_bucket{le=\"0.3\"}", 0.0),
        ("lull_observed_downtime_seconds_bucket{le=\"0.5\"}", 1.0),
        ("lull_observed_downtime_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("lull_observed_downtime_seconds_sum", 0.402),
        ("lull_predicted_downtime_seconds_count", 2.0),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name}");
    }
}

#[test]
fn the_dead_do_not_run() {
    let root = tempfile::tempdir().unwrap();
    let metrics = metrics(root.path());
    fs::create_dir_all(metrics.running()).unwrap();
    fs::write(metrics.running().join("4711"), "").unwrap();
    let running = metrics.begun().unwrap();
    assert_eq!(samples(&metrics)["lull_running_migrations"], 1.0);
    drop(running);
    assert_eq!(fs::read_dir(metrics.running()).unwrap().count(), 0);
}

#[test]
fn garbage_starts_counting_anew() {
    let root = tempfile::tempdir().unwrap();
    let metrics = metrics(root.path());
    for garbage in ["", "{", "[1,2]", "{\"rounds\":-1}", "\0\0\0"] {
        fs::create_dir_all(&metrics.state).unwrap();
        fs::write(metrics.counted(), garbage).unwrap();
        metrics.over(None, &run(MOVED)).unwrap();
        assert_eq!(samples(&metrics)["lull_rounds_total"], 5.0, "{garbage}");
    }
}

#[test]
fn where_nobody_collects_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let metrics = metrics(root.path());
    fs::remove_dir(&metrics.collected).unwrap();
    metrics.over(None, &run(MOVED)).unwrap();
    assert!(!metrics.collected.exists());
    assert_eq!(metrics.counts().rounds, 5);
}
