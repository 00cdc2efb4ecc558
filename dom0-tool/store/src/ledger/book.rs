//! The content of the ledger file: entries by destination, and which of them are kept.

use std::collections::BTreeMap;

use lull_wire::events::Landing;
use serde::{Deserialize, Serialize};

use super::entry::Entry;

/// Schema 1 had neither dates nor guests: its entries are read as a probe guest's, dated
/// when they are read. Schema 2 knew one kind of fast landing, with xl's handshake last.
pub const SCHEMA: u32 = 3;

/// The last schema in which `fast` meant that.
const HANDSHAKE_LAST: u32 = 2;

/// The number of entries kept per guest and destination; the newest are kept.
pub const KEPT: usize = 16;

/// The number of entries kept in all; the newest are kept. A file of that many entries
/// stays far below the size limit for reading.
pub const KEPT_IN_ALL: usize = 4_096;

/// The content of the ledger file, in memory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    pub schema: u32,
    /// The entries of each destination, oldest first.
    pub destinations: BTreeMap<String, Vec<Entry>>,
}

impl Book {
    /// The same book with its entries as this schema has them. A figure that includes the
    /// handshake must not be taken for one that does not.
    pub fn in_this_schema(mut self) -> Self {
        if self.schema <= HANDSHAKE_LAST {
            for entry in self.destinations.values_mut().flatten() {
                if entry.landing == Landing::Fast {
                    entry.landing = Landing::FastHandshakeLast;
                }
            }
        }
        self.schema = SCHEMA;
        self
    }

    /// Adds an entry, then drops expired and surplus entries.
    pub fn add(&mut self, destination: &str, mut entry: Entry, now: u64) {
        entry.at.get_or_insert(now);
        for entries in self.destinations.values_mut() {
            entries.retain(|entry| entry.counts(now));
            // Entries of schema 1 have no date.
            for undated in entries.iter_mut() {
                undated.at.get_or_insert(now);
            }
        }
        let entries = self.destinations.entry(destination.to_owned()).or_default();
        entries.push(entry);
        forget_all_but_the_newest(entries);
        while self.destinations.values().map(Vec::len).sum::<usize>() > KEPT_IN_ALL {
            self.forget_the_oldest();
        }
        self.destinations.retain(|_, entries| !entries.is_empty());
    }

    fn forget_the_oldest(&mut self) {
        let lists = self.destinations.values_mut();
        let with_date = lists.filter_map(|entries| Some((entries.first()?.at, entries)));
        if let Some((_, entries)) = with_date.min_by_key(|(at, _)| *at) {
            entries.remove(0);
        }
    }
}

/// Drops the oldest surplus entries of the guest whose entry came last.
fn forget_all_but_the_newest(entries: &mut Vec<Entry>) {
    let Some(guest) = entries.last().map(|newest| newest.guest.clone()) else {
        return;
    };
    let own = entries.iter().filter(|entry| entry.guest == guest).count();
    let mut surplus = own.saturating_sub(KEPT);
    entries.retain(|entry| {
        let goes = surplus > 0 && entry.guest == guest;
        surplus -= usize::from(goes);
        !goes
    });
}
