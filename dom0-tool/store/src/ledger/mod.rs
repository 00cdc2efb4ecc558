//! What earlier pauses took. This gives the bounds for the parts of a pause that do not
//! depend on the guest's pages.
//!
//! The helper cannot see the landing, which is most of a classic pause; only the front end
//! sees the destination's report. The front end therefore records the parts of
//! each pause ([`entry`]), also for a guest that was resumed at the source. The next
//! attempt uses the worst of them ([`known`]).

mod book;
mod costs;
mod entry;
mod known;
mod summary;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lull_base::suggest::nearest;
use lull_base::{atomic_file, file_lock};
use lull_wire::events::Landing;
use thiserror::Error;

pub use costs::{Costs, Machine, saturating_micros};
pub use entry::{Entry, Took};
pub use known::{Known, Subject};
pub use summary::{Foresight, Row, Summary};

use crate::spool::folder::make_private;
use book::{Book, SCHEMA};

/// The path of the ledger.
pub const FILE: &str = "/var/lib/lull/ledger.json";

/// The largest ledger in bytes; a larger file is not lull's. An entry takes some four
/// hundred bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// How long to wait for the lock. It is never held for longer than one write.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Why the ledger could not be updated. A migration never fails because of it.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct LedgerError {
    path: PathBuf,
    source: io::Error,
}

/// One pause, predicted and observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// The name of the guest; absent for a probe guest.
    pub guest: Option<String>,
    /// See `predicted_ms` of [`Entry`].
    pub predicted_ms: u64,
    /// See `observed_ms` of [`Entry`].
    pub observed_ms: u64,
}

/// The ledger, a file that all commands and helpers of a host share.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
}

impl Ledger {
    /// The ledger in this file, which need not exist.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// What is known about `guest`'s pause on the way to `destination`. An unreadable or
    /// corrupt ledger is reported through `warn`; a corrupt one is moved aside on the next
    /// change.
    pub fn known<'g>(
        &self,
        destination: &str,
        guest: impl Into<Subject<'g>>,
        landing: Landing,
        warn: impl FnMut(&str),
    ) -> Known {
        self.read_if_possible(warn)
            .known(destination, guest, landing, now())
    }

    /// What is known about `guest`'s pause when the destination is unknown: the worst of
    /// all destinations. Reports through `warn` as [`Self::known`] does.
    pub fn known_wherever<'g>(
        &self,
        guest: impl Into<Subject<'g>>,
        warn: impl FnMut(&str),
    ) -> Known {
        self.read_if_possible(warn).known_wherever(guest, now())
    }

    /// Records the parts of a pause.
    ///
    /// # Errors
    /// If the file cannot be locked, read or written; it is then unchanged.
    pub fn add(
        &self,
        destination: &str,
        entry: Entry,
        warn: impl FnOnce(&str),
    ) -> Result<(), LedgerError> {
        self.change(warn, |book| book.add(destination, entry, now()))
    }

    /// Forgets all that is known about `destination` and returns the number of pauses
    /// removed.
    ///
    /// # Errors
    /// If the file cannot be locked, read or written; it is then unchanged.
    pub fn forget(&self, destination: &str, warn: impl FnOnce(&str)) -> Result<usize, LedgerError> {
        self.change(warn, |book| {
            let forgotten = book.destinations.remove(destination);
            forgotten.map_or(0, |entries| entries.len())
        })
    }

    /// Forgets all pauses of `guest` at all destinations and returns the number of pauses
    /// removed.
    ///
    /// # Errors
    /// If the file cannot be locked, read or written; it is then unchanged.
    pub fn forget_guest(&self, guest: &str, warn: impl FnOnce(&str)) -> Result<usize, LedgerError> {
        self.change(warn, |book| {
            let mut forgotten = 0;
            for entries in book.destinations.values_mut() {
                let before = entries.len();
                entries.retain(|entry| !entry.is_of(guest));
                forgotten += before - entries.len();
            }
            book.destinations.retain(|_, entries| !entries.is_empty());
            forgotten
        })
    }

    /// Known destinations with a similar name; none if `destination` is known itself.
    pub fn like(&self, destination: &str) -> Vec<String> {
        let book = self.read_if_possible(|_| {});
        if book.destinations.contains_key(destination) {
            return Vec::new();
        }
        nearest(destination, book.destinations.keys().map(String::as_str))
    }

    /// The figures of the whole ledger or of one destination.
    pub fn summary(&self, destination: Option<&str>, warn: impl FnMut(&str)) -> Summary {
        Summary::of(&self.read_if_possible(warn), destination, now())
    }

    /// Every pause that still counts and was both predicted and observed.
    pub fn foreseen(&self, warn: impl FnMut(&str)) -> Vec<Foreseen> {
        let book = self.read_if_possible(warn);
        let now = now();
        let entries = book.destinations.into_values().flatten();
        let foreseen = |entry: Entry| {
            Some(Foreseen {
                predicted_ms: entry.predicted_ms?,
                observed_ms: entry.observed_ms?,
                guest: entry.guest,
            })
        };
        entries
            .filter(|entry| entry.counts(now))
            .filter_map(foreseen)
            .collect()
    }

    fn change<T>(
        &self,
        warn: impl FnOnce(&str),
        change: impl FnOnce(&mut Book) -> T,
    ) -> Result<T, LedgerError> {
        self.try_change(warn, change).map_err(|source| LedgerError {
            path: self.file.clone(),
            source,
        })
    }

    fn try_change<T>(
        &self,
        warn: impl FnOnce(&str),
        change: impl FnOnce(&mut Book) -> T,
    ) -> io::Result<T> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        make_private(folder)?;
        // Two migrations may end at the same time.
        let lock = file_lock::file(&self.file.with_extension("lock"))?;
        if !file_lock::lock(&lock, TIMEOUT)? {
            return Err(io::Error::other("another lull holds the lock"));
        }
        let mut book = match self.read()? {
            Ok(book) => book,
            Err(why) => self.set_aside(&why, warn),
        };
        book.schema = SCHEMA;
        let changed = change(&mut book);
        let mut text = serde_json::to_vec_pretty(&book)?;
        text.push(b'\n');
        atomic_file::replace(&self.file, &text, 0o644)?;
        Ok(changed)
    }

    /// Reads for lookup only; the result must never be written back. A ledger that is
    /// unreadable only at this moment must not be replaced, and a lookup must not move
    /// aside a ledger that a newer lull wrote.
    fn read_if_possible(&self, mut warn: impl FnMut(&str)) -> Book {
        let why = match self.read() {
            Ok(Ok(book)) => return book,
            Ok(Err(why)) => format!("is not understood ({why})"),
            Err(error) => format!("cannot be read ({error})"),
        };
        warn(&format!(
            "the ledger {} {why}; going on without history",
            self.file.display()
        ));
        Book::default()
    }

    /// Moves the file aside to make room for a new ledger.
    fn set_aside(&self, why: &io::Error, warn: impl FnOnce(&str)) -> Book {
        let aside = self.file.with_extension("unreadable");
        let moved = match fs::rename(&self.file, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("left where it is ({error})"),
        };
        warn(&format!(
            "the ledger {} is not understood ({why}) and was {moved}; beginning a new one",
            self.file.display()
        ));
        Book::default()
    }

    /// Reads the file; the inner error says why its content is not valid.
    fn read(&self) -> io::Result<Result<Book, io::Error>> {
        use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};

        match self.try_read() {
            Err(error) if error.kind() == NotFound => Ok(Ok(Book::default())),
            Err(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => Ok(Err(error)),
            read => read.map(Ok),
        }
    }

    fn try_read(&self) -> io::Result<Book> {
        let mut text = String::new();
        File::open(&self.file)?
            .take(MAX_FILE_BYTES)
            .read_to_string(&mut text)?;
        let book: Book = serde_json::from_str(&text)?;
        if !(1..=SCHEMA).contains(&book.schema) {
            let schema = format!("schema {}", book.schema);
            return Err(io::Error::new(io::ErrorKind::InvalidData, schema));
        }
        Ok(book.in_this_schema())
    }
}

/// Seconds since 1970, from the wall clock.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
