//! What the rounds so far have brought.

use heapless::Deque;

use crate::units::{Micros, PageRate};

/// Rounds that [`History`] remembers.
pub const HISTORY_ROUNDS: usize = 32;

/// One round, from its bitmap to the count at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RoundRecord {
    /// 0 is the full pass.
    pub round: u32,
    /// Pages its bitmap named.
    pub pages: u64,
    /// Those of them that were populated and went to the stream.
    pub pages_sent: u64,
    /// Pages dirty at its end.
    pub dirtied: u64,
    /// From the bitmap in place to the count.
    pub duration: Micros,
    /// Its own average, rounded down; `None` when it sent nothing.
    pub transfer_rate: Option<PageRate>,
    /// Upper bound of the pause, had the guest been asked to stop at its end.
    pub predicted_downtime: Micros,
    /// The pause then expected.
    pub expected_downtime: Micros,
}

/// The last [`HISTORY_ROUNDS`] rounds, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    records: Deque<RoundRecord, HISTORY_ROUNDS>,
}

impl History {
    /// No rounds yet.
    pub const fn new() -> Self {
        Self {
            records: Deque::new(),
        }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &RoundRecord> {
        self.records.iter()
    }

    /// The round that ended last.
    pub fn last(&self) -> Option<&RoundRecord> {
        self.records.back()
    }

    /// Rounds remembered.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no round has ended yet.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends a round, forgetting the oldest if need be.
    pub fn push(&mut self, record: RoundRecord) {
        push_latest(&mut self.records, record);
    }
}

/// Appends `item`, dropping the oldest when full.
pub(crate) fn push_latest<T, const N: usize>(items: &mut Deque<T, N>, item: T) {
    if items.is_full() {
        let _oldest = items.pop_front();
    }
    // There is room now, unless N is zero: then nothing is remembered.
    let _full = items.push_back(item);
}
