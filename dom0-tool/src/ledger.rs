//! What earlier migrations took, by destination: the bounds for the parts of a
//! pause that do not depend on the guest's pages.
//!
//! The helper cannot see the landing, which is most of a classic pause; only
//! the front end, which hears the destination report, can. So it writes down
//! what each moved guest's pause was made of, and the next attempt assumes the
//! worst of that, and a quarter more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::events::PauseParts;

/// Where the ledger is kept.
pub const FILE: &str = "/var/lib/lull/ledger.json";

/// Assumed of what follows READY where nothing is known: xl renames the guest,
/// says GO, and the destination renames and unpauses its own. It took 140 ms in
/// the rig, under emulation, over ssh.
const AFTER_READY: Duration = Duration::from_millis(200);

/// Entries kept for a destination, the newest.
const KEPT: usize = 16;

/// A larger file is not ours: sixteen entries take about two kilobytes.
const LARGEST: u64 = 4 << 20;

/// Upper bounds of the fixed parts of a pause, for the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// From the request until the guest has stopped.
    pub suspend: Duration,
    /// Reading the final dirty bitmap.
    pub final_bitmap: Duration,
    /// CPU state, parameters, end of the stream.
    pub cpu_state: Duration,
    /// From there until the guest runs at the destination.
    pub landing: Duration,
    /// Making it run on at the source, when the attempt is given up.
    pub resume: Duration,
}

impl Costs {
    /// Assumed of a destination never moved to. From the rig's measurements of
    /// stock `xl migrate` under emulation, where everything is slow: the
    /// suspend took 130 ms, and about as long the last pages and the CPU state
    /// together; landing 2.7 s, of which 2.5 s was one network interface's
    /// hotplug script, and the rest is ssh round trips. Reading a bitmap and
    /// resuming are a few hypercalls.
    pub const ASSUMED: Self = Self {
        suspend: Duration::from_millis(200),
        final_bitmap: Duration::from_millis(10),
        cpu_state: Duration::from_millis(50),
        landing: Duration::from_secs(3),
        resume: Duration::from_millis(50),
    };

    /// As the helper finds them in [`COSTS`](crate::helper::orders::COSTS): whole microseconds, in the order of
    /// the fields, with commas.
    pub fn to_variable(self) -> String {
        [
            self.suspend,
            self.final_bitmap,
            self.cpu_state,
            self.landing,
            self.resume,
        ]
        .map(|part| part.as_micros().to_string())
        .join(",")
    }
}

/// What one moved guest's pause was made of. Absent: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    suspend_ms: Option<u64>,
    final_bitmap_ms: Option<u64>,
    cpu_state_ms: Option<u64>,
    landing_ms: Option<u64>,
    #[serde(default)]
    resume_ms: Option<u64>,
    /// Part of the landing.
    #[serde(default)]
    after_ready_ms: Option<u64>,
}

impl Entry {
    /// With the last part of the landing, from READY.
    pub fn with_after_ready(self, after_ready_ms: Option<u64>) -> Self {
        Self {
            after_ready_ms,
            ..self
        }
    }
}

impl From<&PauseParts> for Entry {
    fn from(parts: &PauseParts) -> Self {
        Self {
            suspend_ms: parts.suspend_ms,
            final_bitmap_ms: parts.final_bitmap_ms,
            cpu_state_ms: parts.cpu_state_ms,
            landing_ms: parts.landing_ms,
            resume_ms: None,
            after_ready_ms: None,
        }
    }
}

/// What stands in the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    schema: u32,
    destinations: BTreeMap<String, Vec<Entry>>,
}

const SCHEMA: u32 = 1;

/// Why the ledger could not be kept. A migration never fails for it.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct LedgerError {
    path: PathBuf,
    source: io::Error,
}

/// What is known of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Bounds from this many earlier pauses.
    From(usize, Costs),
    /// Nothing: [`Costs::ASSUMED`].
    Nothing,
}

impl Known {
    /// The bounds to go by.
    pub const fn costs(self) -> Costs {
        match self {
            Self::From(_, costs) => costs,
            Self::Nothing => Costs::ASSUMED,
        }
    }
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

    /// What is known of `destination`. A file that cannot be understood is set
    /// aside, and `tell` is told.
    pub fn known(&self, destination: &str, tell: impl FnOnce(&str)) -> Known {
        let book = self.read(tell);
        match book.destinations.get(destination).map(Vec::as_slice) {
            None | Some([]) => Known::Nothing,
            Some(entries) => Known::From(entries.len(), bounds(entries)),
        }
    }

    /// Upper bound of the time from `destination`'s READY until the guest runs
    /// there.
    pub fn after_ready(&self, destination: &str) -> Duration {
        let book = self.try_read().unwrap_or_default();
        let entries = book.destinations.get(destination);
        let seen = entries.into_iter().flatten();
        seen.filter_map(|entry| entry.after_ready_ms)
            .max()
            .map_or(AFTER_READY, worst)
    }

    /// Adds what a pause was made of.
    ///
    /// # Errors
    /// When the file cannot be locked or written; it is then as it was.
    pub fn add(
        &self,
        destination: &str,
        entry: Entry,
        tell: impl FnOnce(&str),
    ) -> Result<(), LedgerError> {
        self.try_add(destination, entry, tell)
            .map_err(|source| LedgerError {
                path: self.file.clone(),
                source,
            })
    }

    fn try_add(&self, destination: &str, entry: Entry, tell: impl FnOnce(&str)) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        // Two migrations may end together.
        let lock = File::create(self.file.with_extension("lock"))?;
        take(&lock)?;
        let mut book = self.read(tell);
        book.schema = SCHEMA;
        let entries = book.destinations.entry(destination.to_owned()).or_default();
        entries.push(entry);
        entries.drain(..entries.len().saturating_sub(KEPT));
        self.replace(folder, &book)
    }

    /// Whole or not at all, also when the power fails.
    fn replace(&self, folder: &Path, book: &Book) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        serde_json::to_writer_pretty(&file, book)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        File::open(folder)?.sync_all()
    }

    fn read(&self, tell: impl FnOnce(&str)) -> Book {
        let why = match self.try_read() {
            Ok(book) => return book,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Book::default(),
            Err(error) => error,
        };
        let aside = self.file.with_extension("unreadable");
        let moved = match fs::rename(&self.file, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("left where it is ({error})"),
        };
        tell(&format!(
            "the ledger {} is not understood ({why}) and was {moved}; going on without history",
            self.file.display()
        ));
        Book::default()
    }

    fn try_read(&self) -> io::Result<Book> {
        let mut text = String::new();
        File::open(&self.file)?
            .take(LARGEST)
            .read_to_string(&mut text)?;
        let book: Book = serde_json::from_str(&text)?;
        if book.schema != SCHEMA {
            return Err(io::Error::other(format!("schema {}", book.schema)));
        }
        Ok(book)
    }
}

/// Waits at most a second: nobody holds it for longer than a write.
fn take(lock: &File) -> io::Result<()> {
    for _ in 0..20 {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("another lull holds the lock"))
}

fn bounds(entries: &[Entry]) -> Costs {
    let bound = |part: fn(&Entry) -> Option<u64>, assumed| {
        entries.iter().filter_map(part).max().map_or(assumed, worst)
    };
    Costs {
        suspend: bound(|entry| entry.suspend_ms, Costs::ASSUMED.suspend),
        final_bitmap: bound(|entry| entry.final_bitmap_ms, Costs::ASSUMED.final_bitmap),
        cpu_state: bound(|entry| entry.cpu_state_ms, Costs::ASSUMED.cpu_state),
        landing: bound(|entry| entry.landing_ms, Costs::ASSUMED.landing),
        resume: bound(|entry| entry.resume_ms, Costs::ASSUMED.resume),
    }
}

/// A quarter more than the worst seen, which may have been shown rounded down.
fn worst(ms: u64) -> Duration {
    let micros = ms.saturating_add(1).saturating_mul(1_250);
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(folder.path().join("deep/ledger.json"));
        (folder, ledger)
    }

    fn landed(ms: u64) -> Entry {
        Entry {
            landing_ms: Some(ms),
            ..Entry::default()
        }
    }

    fn silent(said: &str) {
        panic!("unexpected: {said}");
    }

    #[test]
    fn without_history_the_documented_bounds_are_assumed() {
        let (_folder, ledger) = ledger();
        assert_eq!(ledger.known("host2", silent), Known::Nothing);
        assert_eq!(
            Known::Nothing.costs().to_variable(),
            "200000,10000,50000,3000000,50000"
        );
    }

    #[test]
    fn the_worst_seen_and_a_quarter_more_is_the_bound() {
        let (_folder, ledger) = ledger();
        for ms in [399, 799, 199] {
            ledger.add("host2", landed(ms), silent).unwrap();
        }
        let Known::From(3, costs) = ledger.known("host2", silent) else {
            panic!("three entries");
        };
        assert_eq!(costs.landing, Duration::from_secs(1));
        assert_eq!(costs.suspend, Costs::ASSUMED.suspend);
        assert_eq!(ledger.known("host3", silent), Known::Nothing);
    }

    #[test]
    fn what_follows_ready_is_learned_too() {
        let (_folder, ledger) = ledger();
        assert_eq!(ledger.after_ready("host2"), AFTER_READY);
        let entry = landed(799).with_after_ready(Some(79));
        ledger.add("host2", entry, silent).unwrap();
        ledger.add("host2", landed(799), silent).unwrap();
        assert_eq!(ledger.after_ready("host2"), Duration::from_millis(100));
    }

    #[test]
    fn old_entries_are_forgotten() {
        let (_folder, ledger) = ledger();
        ledger.add("host2", landed(60_000), silent).unwrap();
        for _ in 0..KEPT {
            ledger.add("host2", landed(79), silent).unwrap();
        }
        let costs = ledger.known("host2", silent).costs();
        assert_eq!(costs.landing, Duration::from_millis(100));
    }

    #[test]
    fn garbage_is_set_aside_and_said() {
        for garbage in ["", "{", "[]", r#"{"schema":9,"destinations":{}}"#, "\u{0}"] {
            let (_folder, ledger) = ledger();
            fs::create_dir_all(ledger.file.parent().unwrap()).unwrap();
            fs::write(&ledger.file, garbage).unwrap();
            let mut said = String::new();
            let known = ledger.known("host2", |line| said.push_str(line));
            assert_eq!(known, Known::Nothing);
            assert!(said.contains("set aside"), "{said}");
            assert!(ledger.file.with_extension("unreadable").exists());
            ledger.add("host2", landed(1), silent).unwrap();
        }
    }

    proptest! {
        #[test]
        fn a_bound_is_never_below_what_was_seen(ms: u64) {
            prop_assert!(worst(ms) >= Duration::from_millis(ms).min(Duration::from_micros(u64::MAX)));
        }
    }
}
