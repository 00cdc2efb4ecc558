//! The rounds of an attempt so far, and what each of them achieved.

use heapless::Deque;

use crate::units::{Micros, PageRate};

/// The number of rounds that [`History`] remembers.
pub const HISTORY_ROUNDS: usize = 32;

/// One round, from its bitmap to the count at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RoundRecord {
    /// The round's number; 0 is the full pass.
    pub round: u32,
    /// Pages marked in the round's bitmap.
    pub pages: u64,
    /// The marked pages that were populated and went to the stream.
    pub pages_sent: u64,
    /// Pages dirty at the end of the round.
    pub dirtied: u64,
    /// Time from the bitmap being in place to the count at the end.
    pub duration: Micros,
    /// The round's own average rate, rounded down; `None` if it sent nothing.
    pub transfer_rate: Option<PageRate>,
    /// Upper bound of the pause, had the guest been asked to stop at the end of this round.
    pub predicted_downtime: Micros,
    /// The pause expected at that point.
    pub expected_downtime: Micros,
}

/// The last [`HISTORY_ROUNDS`] rounds, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    records: Deque<RoundRecord, HISTORY_ROUNDS>,
}

impl History {
    /// A history without rounds.
    pub const fn new() -> Self {
        Self {
            records: Deque::new(),
        }
    }

    /// Iterates over the rounds, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &RoundRecord> {
        self.records.iter()
    }

    /// The most recent round.
    pub fn last(&self) -> Option<&RoundRecord> {
        self.records.back()
    }

    /// The number of rounds remembered.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no round has ended yet.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends a round; drops the oldest if the history is full.
    pub fn push(&mut self, record: RoundRecord) {
        push_latest(&mut self.records, record);
    }
}

/// Appends `item`, dropping the oldest when full.
pub(crate) fn push_latest<T, const N: usize>(items: &mut Deque<T, N>, item: T) {
    if items.is_full() {
        let _oldest = items.pop_front();
    }
    // There is room now, unless N is zero; then nothing is stored.
    let _full = items.push_back(item);
}
