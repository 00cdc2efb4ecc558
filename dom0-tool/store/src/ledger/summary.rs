//! The ledger in figures: the parts of each guest's pauses on the way to each destination,
//! and how well they were predicted.

use lull_wire::events::Landing;
use serde::Serialize;

use super::book::Book;
use super::costs::{bound, median};
use super::entry::Entry;

/// The version of the object that `--json` prints.
const SCHEMA: u32 = 1;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
pub struct Summary {
    schema: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The rows, sorted by destination, guest and kind of landing.
    pub rows: Vec<Row>,
}

/// One guest's pauses on the way to one destination, with one kind of landing.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row {
    /// The name of the destination.
    pub destination: String,
    /// The name of the guest; absent for probe guests.
    pub guest: Option<String>,
    /// The kind of landing, attempted or completed.
    pub landing: Landing,
    /// The number of pauses, including those after which the guest was resumed at the
    /// source.
    pub pauses: usize,
    /// The number of pauses after which the guest ran at the destination.
    pub moves: usize,
    /// The age of the newest pause in seconds.
    pub newest_age_s: u64,
    /// The age of the oldest pause in seconds.
    pub oldest_age_s: u64,
    /// The upper bounds that follow from these pauses.
    pub bounds: Bounds,
    /// How well these pauses were predicted.
    pub foresight: Foresight,
}

/// Upper bounds in milliseconds, rounded up. Absent if there are no figures.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "as everywhere in lull's JSON")]
pub struct Bounds {
    /// From the request to suspend until the guest has stopped.
    pub suspend_ms: Option<u64>,
    /// Reading the final bitmap.
    pub final_bitmap_ms: Option<u64>,
    /// CPU state, parameters and end of the stream.
    pub cpu_state_ms: Option<u64>,
    /// From the end of the stream until the guest runs at the destination.
    pub landing_ms: Option<u64>,
    /// The part of the landing that follows READY.
    pub after_ready_ms: Option<u64>,
    /// From the decision to give up until the guest runs at the source.
    pub resume_ms: Option<u64>,
}

/// How the expected and predicted pauses compare with the observed ones.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Foresight {
    /// The number of observed pauses whose length was expected from history.
    pub expected: usize,
    /// The median of |expected − observed| / observed, in percent.
    pub median_error_percent: Option<f64>,
    /// The 90th percentile of the same error, in percent.
    pub p90_error_percent: Option<f64>,
    /// The number of observed pauses that had a predicted upper bound.
    pub predicted: usize,
    /// The number of those that exceeded the bound, or would have exceeded it if the late
    /// destination had not been given up.
    pub beyond: usize,
}

impl Summary {
    /// Summarises the entries that still count, of one destination or of all.
    pub(super) fn of(book: &Book, destination: Option<&str>, now: u64) -> Self {
        let mut rows = Vec::new();
        for (to, entries) in &book.destinations {
            if destination.is_some_and(|wanted| wanted != to) {
                continue;
            }
            let counts = || entries.iter().filter(|entry| entry.counts(now));
            let whose = |entry: &Entry| (entry.guest.clone(), entry.landing);
            let mut all: Vec<_> = counts().map(whose).collect();
            all.sort_unstable();
            all.dedup();
            for one in all {
                let own: Vec<_> = counts().filter(|entry| whose(entry) == one).collect();
                rows.push(Row::of(to, one, &own, now));
            }
        }
        Self {
            schema: SCHEMA,
            kind: "ledger",
            rows,
        }
    }
}

impl Row {
    fn of(
        destination: &str,
        (guest, landing): (Option<String>, Landing),
        entries: &[&Entry],
        now: u64,
    ) -> Self {
        let worst = |part: fn(&Entry) -> Option<u64>| {
            let seen: Vec<u64> = entries.iter().filter_map(|entry| part(entry)).collect();
            Some(bound(&seen)?.as_micros().div_ceil(1_000) as u64)
        };
        let ages = || entries.iter().map(|entry| entry.age(now));
        Self {
            destination: destination.to_owned(),
            guest,
            landing,
            pauses: entries.len(),
            moves: entries.iter().filter(|entry| !entry.resumed).count(),
            newest_age_s: ages().min().unwrap_or(0),
            oldest_age_s: ages().max().unwrap_or(0),
            bounds: Bounds {
                suspend_ms: worst(|entry| entry.suspend_ms),
                final_bitmap_ms: worst(|entry| entry.final_bitmap_ms),
                cpu_state_ms: worst(|entry| entry.cpu_state_ms),
                landing_ms: worst(|entry| entry.landing_ms),
                after_ready_ms: worst(|entry| entry.after_ready_ms),
                resume_ms: worst(|entry| entry.resume_ms),
            },
            foresight: Foresight::of(entries),
        }
    }
}

impl Foresight {
    fn of(entries: &[&Entry]) -> Self {
        let observed = |foreseen: fn(&Entry) -> Option<u64>| {
            entries
                .iter()
                .filter_map(move |entry| foreseen(entry).zip(entry.observed_ms))
        };
        let mut errors: Vec<u64> = observed(|entry| entry.expected_ms)
            .filter_map(|(expected, observed)| per_mille(expected.abs_diff(observed), observed))
            .collect();
        errors.sort_unstable();
        // The smallest value that nine tenths do not exceed.
        let ninetieth = (errors.len() * 9).div_ceil(10).checked_sub(1);
        let percent = |per_mille: u64| per_mille as f64 / 10.0;
        let predicted = || observed(|entry| entry.predicted_ms);
        Self {
            expected: errors.len(),
            median_error_percent: median(&errors).map(percent),
            p90_error_percent: ninetieth
                .and_then(|at| errors.get(at).copied())
                .map(percent),
            predicted: predicted().count(),
            beyond: predicted()
                .filter(|(predicted, observed)| observed > predicted)
                .count(),
        }
    }
}

fn per_mille(part: u64, whole: u64) -> Option<u64> {
    let scaled = u128::from(part) * 1_000;
    let ratio = scaled.checked_div(u128::from(whole))?;
    Some(u64::try_from(ratio).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_000_000_000;

    fn moved(expected: Option<u64>, predicted: u64, observed: u64) -> Entry {
        Entry {
            guest: Some("web1".to_owned()),
            landing_ms: Some(observed / 2),
            expected_ms: expected,
            predicted_ms: Some(predicted),
            observed_ms: Some(observed),
            ..Entry::default()
        }
    }

    #[test]
    fn errors_are_relative_to_what_was_observed() {
        let mut book = Book::default();
        book.add("host2", moved(None, 500, 400), NOW - 60);
        for (expected, observed) in [(300, 400), (400, 400), (440, 400), (1_000, 400)] {
            book.add("host2", moved(Some(expected), 900, observed), NOW);
        }
        book.add("host2", moved(Some(100), 399, 400), NOW);
        let summary = Summary::of(&book, None, NOW);
        let [row] = summary.rows.as_slice() else {
            panic!("one row: {summary:?}");
        };
        assert_eq!((row.pauses, row.moves), (6, 6));
        assert_eq!((row.newest_age_s, row.oldest_age_s), (0, 60));
        assert_eq!(row.bounds.landing_ms, Some(227));
        assert_eq!(row.bounds.suspend_ms, None);
        // The errors are 25, 0, 10, 150 and 75 %.
        assert_eq!(
            row.foresight,
            Foresight {
                expected: 5,
                median_error_percent: Some(25.0),
                p90_error_percent: Some(150.0),
                predicted: 6,
                beyond: 1,
            }
        );
    }

    #[test]
    fn a_pause_that_ended_here_is_no_move_and_is_not_compared() {
        let mut book = Book::default();
        let refused = Entry {
            resumed: true,
            suspend_ms: Some(79),
            resume_ms: Some(3),
            ..Entry::default()
        };
        book.add("host2", refused, NOW);
        let summary = Summary::of(&book, Some("host2"), NOW);
        assert_eq!((summary.rows[0].pauses, summary.rows[0].moves), (1, 0));
        assert_eq!(summary.rows[0].foresight, Foresight::default());
        assert!(Summary::of(&book, Some("host3"), NOW).rows.is_empty());
    }
}
