//! What earlier pauses took: the bounds for the parts of a pause that do not
//! depend on the guest's pages.
//!
//! The helper cannot see the landing, which is most of a classic pause; only
//! the front end, which hears the destination report, can. So it writes down
//! what each pause was made of ([`entry`]), also of a guest that was resumed at
//! the source, and the next attempt goes by the worst of that ([`known`]).

mod book;
mod costs;
mod entry;
mod known;
mod show;
mod summary;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lull_base::suggest::nearest;
use lull_base::{atomic_file, file_lock};
use lull_wire::events::Landing;
use thiserror::Error;

pub use costs::Costs;
pub use entry::Entry;
pub use known::Known;
pub use show::{Options, main};
pub use summary::{Foresight, Row};

use crate::kept::folder::make_private;
use book::{Book, SCHEMA};
use summary::Summary;

/// Where the ledger is kept.
pub const FILE: &str = "/var/lib/lull/ledger.json";

/// A larger file is not ours: an entry takes some four hundred bytes.
const LARGEST: u64 = 4 << 20;

/// How long the lock is waited for: nobody holds it for longer than a write.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the ledger could not be kept. A migration never fails for it.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct LedgerError {
    path: PathBuf,
    source: io::Error,
}

/// One pause, foreseen and seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// Whose; of a probe guest, none.
    pub guest: Option<String>,
    /// See [`Entry`].
    pub predicted_ms: u64,
    /// See [`Entry`].
    pub observed_ms: u64,
}

/// The file.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
}

impl Ledger {
    /// The ledger in this file, which need not exist.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// What is known of `guest`'s pause on the way to `destination`. Of a file that
    /// cannot be read or understood `tell` is told; whoever next adds to it sets the
    /// latter aside.
    pub fn known(
        &self,
        destination: &str,
        guest: &str,
        landing: Landing,
        tell: impl FnMut(&str),
    ) -> Known {
        self.read_if_possible(tell)
            .known(destination, guest, landing, now())
    }

    /// What is known of `guest`'s pause when nobody says where it goes: the
    /// worst of all destinations. As for [`Self::known`], `tell` is told.
    pub fn known_wherever(&self, guest: &str, tell: impl FnMut(&str)) -> Known {
        self.read_if_possible(tell).known_wherever(guest, now())
    }

    /// Adds what a pause was made of.
    ///
    /// # Errors
    /// When the file cannot be locked, read or written; it is then as it was.
    pub fn add(
        &self,
        destination: &str,
        entry: Entry,
        tell: impl FnOnce(&str),
    ) -> Result<(), LedgerError> {
        self.change(tell, |book| book.add(destination, entry, now()))
    }

    /// Forgets all that is known of `destination`: how many pauses that was.
    ///
    /// # Errors
    /// When the file cannot be locked, read or written; it is then as it was.
    pub fn forget(&self, destination: &str, tell: impl FnOnce(&str)) -> Result<usize, LedgerError> {
        self.change(tell, |book| {
            let forgotten = book.destinations.remove(destination);
            forgotten.map_or(0, |entries| entries.len())
        })
    }

    /// Forgets all pauses of `guest`, wherever it went: how many that were.
    ///
    /// # Errors
    /// When the file cannot be locked, read or written; it is then as it was.
    pub fn forget_guest(&self, guest: &str, tell: impl FnOnce(&str)) -> Result<usize, LedgerError> {
        self.change(tell, |book| {
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

    /// Destinations whose names are like that one; none if it is known itself.
    pub fn like(&self, destination: &str) -> Vec<String> {
        let book = self.read_if_possible(|_| {});
        if book.destinations.contains_key(destination) {
            return Vec::new();
        }
        nearest(destination, book.destinations.keys().map(String::as_str))
    }

    /// In figures: all of it, or what is known of one destination.
    pub fn summary(&self, destination: Option<&str>, tell: impl FnMut(&str)) -> Summary {
        Summary::of(&self.read_if_possible(tell), destination, now())
    }

    /// Every pause that was both predicted and observed, and still counts.
    pub fn foreseen(&self, tell: impl FnMut(&str)) -> Vec<Foreseen> {
        let book = self.read_if_possible(tell);
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
        tell: impl FnOnce(&str),
        change: impl FnOnce(&mut Book) -> T,
    ) -> Result<T, LedgerError> {
        self.try_change(tell, change).map_err(|source| LedgerError {
            path: self.file.clone(),
            source,
        })
    }

    fn try_change<T>(
        &self,
        tell: impl FnOnce(&str),
        change: impl FnOnce(&mut Book) -> T,
    ) -> io::Result<T> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        make_private(folder)?;
        // Two migrations may end together.
        let lock = file_lock::file(&self.file.with_extension("lock"))?;
        if !file_lock::lock(&lock, PATIENCE)? {
            return Err(io::Error::other("another lull holds the lock"));
        }
        let mut book = match self.read()? {
            Ok(book) => book,
            Err(why) => self.set_aside(&why, tell),
        };
        book.schema = SCHEMA;
        let changed = change(&mut book);
        let mut text = serde_json::to_vec_pretty(&book)?;
        text.push(b'\n');
        atomic_file::replace(&self.file, &text, 0o644)?;
        Ok(changed)
    }

    /// To go by, never to be written back: a ledger that only cannot be read
    /// at this moment is not to be replaced, nor is one that a newer lull wrote
    /// moved by who only looks.
    fn read_if_possible(&self, mut tell: impl FnMut(&str)) -> Book {
        let why = match self.read() {
            Ok(Ok(book)) => return book,
            Ok(Err(why)) => format!("is not understood ({why})"),
            Err(error) => format!("cannot be read ({error})"),
        };
        tell(&format!(
            "the ledger {} {why}; going on without history",
            self.file.display()
        ));
        Book::default()
    }

    /// Makes way for a new ledger.
    fn set_aside(&self, why: &io::Error, tell: impl FnOnce(&str)) -> Book {
        let aside = self.file.with_extension("unreadable");
        let moved = match fs::rename(&self.file, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("left where it is ({error})"),
        };
        tell(&format!(
            "the ledger {} is not understood ({why}) and was {moved}; beginning a new one",
            self.file.display()
        ));
        Book::default()
    }

    /// What is there, or why that is not understood.
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
            .take(LARGEST)
            .read_to_string(&mut text)?;
        let book: Book = serde_json::from_str(&text)?;
        if !(1..=SCHEMA).contains(&book.schema) {
            let schema = format!("schema {}", book.schema);
            return Err(io::Error::new(io::ErrorKind::InvalidData, schema));
        }
        Ok(book)
    }
}

/// Seconds since 1970, by the wall clock.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
