//! The counters and histograms of this host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::runs::Run;

/// The largest file in bytes; a larger one is not lull's.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Upper bounds of the histograms' buckets, milliseconds.
pub const BUCKETS_MS: [u64; 12] = [
    50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000, 60_000,
];

/// All outcomes, so that each exists from the start with the value zero: those of `--json`,
/// and, as the last three, those of [`Run::outcome`].
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

/// Everything counted since the file was created. Sums saturate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// The number of attempts by outcome.
    pub outcomes: BTreeMap<String, u64>,
    pub rounds: u64,
    pub pages: u64,
    pub bytes: u64,
    /// The number of pauses that were longer than their limit.
    pub over_limit: u64,
    pub predicted: Histogram,
    pub observed: Histogram,
}

/// A histogram of durations with the buckets [`BUCKETS_MS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// The count of each bucket alone, not cumulative; the last one has no upper bound.
    pub buckets: [u64; BUCKETS_MS.len() + 1],
    pub sum_ms: u64,
}

impl Counts {
    /// Reads the file.
    ///
    /// # Errors
    /// If there is no file, or it is not lull's.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(path)?
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    pub fn add(&mut self, run: &Run) {
        let outcome = run.outcome();
        if OUTCOMES.contains(&outcome) {
            more(self.outcomes.entry(outcome.to_owned()).or_default(), 1);
        }
        more(&mut self.rounds, run.rounds.len() as u64);
        more(&mut self.pages, run.observed.pages_sent());
        let bytes = run.observed.ended.as_ref().map(|ended| ended.bytes_sent);
        more(&mut self.bytes, bytes.unwrap_or(0));
        if let Some(ms) = run.predicted_ms() {
            self.predicted.add(ms);
        }
        if let Some(ms) = run.observed_ms() {
            self.observed.add(ms);
            // The pause is rounded up.
            more(
                &mut self.over_limit,
                u64::from(
                    run.limit_us()
                        .is_some_and(|limit| ms > limit.div_ceil(1_000)),
                ),
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
