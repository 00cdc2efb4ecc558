//! What has been counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::runs::Run;

/// A larger file is not ours.
const LARGEST: u64 = 64 << 10;

/// Upper bounds of the histograms' buckets, milliseconds.
pub const BUCKETS_MS: [u64; 12] = [
    50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000, 60_000,
];

/// Every outcome there is, so that each is there from the start, with zero:
/// those of `--json`; the last three as in [`Run::outcome`].
pub const OUTCOMES: [&str; 10] = [
    "moved",
    "refused-downtime",
    "refused-timeout",
    "cancelled",
    "target-failed",
    "source-failed",
    "unknown",
    "sent",
    "left-to-stock",
    "unfinished",
];

/// Everything counted since the file was new. Sums saturate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Attempts by outcome.
    pub outcomes: BTreeMap<String, u64>,
    pub rounds: u64,
    pub pages: u64,
    pub bytes: u64,
    /// Pauses that were longer than their limit.
    pub over_limit: u64,
    pub predicted: Histogram,
    pub observed: Histogram,
}

/// Durations in [`BUCKETS_MS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// Of each bucket alone; the last has no upper bound.
    pub buckets: [u64; BUCKETS_MS.len() + 1],
    pub sum_ms: u64,
}

impl Counts {
    /// Reads the file.
    ///
    /// # Errors
    /// When there is none, or it is none of ours.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(path)?.take(LARGEST).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Counts an attempt.
    pub fn add(&mut self, run: &Run) {
        let outcome = run.outcome();
        if OUTCOMES.contains(&outcome) {
            more(self.outcomes.entry(outcome.to_owned()).or_default(), 1);
        }
        more(&mut self.rounds, run.rounds.len() as u64);
        more(&mut self.pages, run.account.pages_sent());
        let bytes = run.account.ended.as_ref().map(|ended| ended.bytes_sent);
        more(&mut self.bytes, bytes.unwrap_or(0));
        if let Some(ms) = run.predicted_ms() {
            self.predicted.add(ms);
        }
        if let Some(ms) = run.observed_ms() {
            self.observed.add(ms);
            more(
                &mut self.over_limit,
                u64::from(run.limit_ms().is_some_and(|limit| ms > limit)),
            );
        }
    }
}

impl Histogram {
    fn add(&mut self, ms: u64) {
        let bucket = BUCKETS_MS.iter().position(|bound| ms <= *bound);
        more(&mut self.buckets[bucket.unwrap_or(BUCKETS_MS.len())], 1);
        more(&mut self.sum_ms, ms);
    }
}

const fn more(count: &mut u64, by: u64) {
    *count = count.saturating_add(by);
}
