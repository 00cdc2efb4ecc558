//! The text in the collector's format (Prometheus text format 0.0.4; base units, `_total`
//! for counters). OpenMetrics is not used: its libraries write counters under names that
//! this reader takes for untyped ones.

use std::fmt::Write;

use super::counts::{BUCKETS_MS, Counts, Histogram, OUTCOMES};

pub fn of(counts: &Counts, running: u64) -> String {
    let mut text = String::new();
    head(
        &mut text,
        "lull_attempts_total",
        "counter",
        "Attempts to migrate a guest, by outcome.",
    );
    for outcome in OUTCOMES {
        let count = counts.outcomes.get(outcome).copied().unwrap_or(0);
        let _ = writeln!(text, "lull_attempts_total{{outcome=\"{outcome}\"}} {count}");
    }
    for (name, kind, help, value) in [
        (
            "lull_running_migrations",
            "gauge",
            "Attempts under way.",
            running,
        ),
        (
            "lull_rounds_total",
            "counter",
            "Rounds of copying, the final ones included.",
            counts.rounds,
        ),
        (
            "lull_sent_pages_total",
            "counter",
            "Guest pages sent.",
            counts.pages,
        ),
        (
            "lull_sent_bytes_total",
            "counter",
            "Bytes of migration streams sent.",
            counts.bytes,
        ),
        (
            "lull_limit_exceeded_total",
            "counter",
            "Pauses that were longer than their limit.",
            counts.over_limit,
        ),
    ] {
        head(&mut text, name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    }
    histogram(
        &mut text,
        "lull_predicted_downtime_seconds",
        "Pauses as last predicted, at most.",
        &counts.predicted,
    );
    histogram(
        &mut text,
        "lull_observed_downtime_seconds",
        "Pauses as observed, at most.",
        &counts.observed,
    );
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn histogram(text: &mut String, name: &str, help: &str, histogram: &Histogram) {
    head(text, name, "histogram", help);
    let bounds = BUCKETS_MS.map(|ms| seconds(ms).to_string());
    let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
    let mut below: u64 = 0;
    for (bound, count) in bounds.zip(histogram.buckets) {
        below = below.saturating_add(count);
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    let sum = seconds(histogram.sum_ms);
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {below}");
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
