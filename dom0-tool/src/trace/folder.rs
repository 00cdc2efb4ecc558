//! The folder of traces: each whole or not at all, and never too many.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::xen::DomId;

/// Where traces are kept.
pub const PATH: &str = "/var/lib/lull/traces";

/// Traces kept, the newest.
pub const KEPT: usize = 64;

/// Bytes of traces kept, all together; the newest is kept whatever its size.
pub const TOTAL: u64 = 256 << 20;

/// What a trace's file name ends in.
const SUFFIX: &str = "jsonl";

/// And while it is being written.
const UNFINISHED: &str = "unfinished";

/// A folder of traces.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Writes a trace, named after the time and the domain, and forgets old
    /// ones.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is left.
    pub fn keep(&self, domain: DomId, trace: &[u8]) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.path)?;
        // Before as well as after: the disk may be full of them.
        self.forget(trace.len() as u64, KEPT - 1);
        let fresh = self
            .path
            .join(format!("{}-{domain}.{UNFINISHED}", std::process::id()));
        let written = self.write(&fresh, domain, trace);
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    fn write(&self, fresh: &Path, domain: DomId, trace: &[u8]) -> io::Result<PathBuf> {
        let mut file = File::create(fresh)?;
        file.write_all(trace)?;
        file.sync_all()?;
        let path = self.free_name(domain);
        fs::rename(fresh, &path)?;
        File::open(&self.path)?.sync_all()?;
        Ok(path)
    }

    /// `2026-11-23T15-34-44Z-7.jsonl`: by name is by time. A domain is not
    /// migrated twice in a second, save by a test.
    fn free_name(&self, domain: DomId) -> PathBuf {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let stem = format!("{}-{domain}", now.to_string().replace(':', "-"));
        let plain = self.path.join(format!("{stem}.{SUFFIX}"));
        std::iter::once(plain)
            .chain((2..).map(|n| self.path.join(format!("{stem}-{n}.{SUFFIX}"))))
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.path.join(SUFFIX))
    }

    /// Removes the oldest, until `room` bytes and a trace more would fit.
    fn forget(&self, room: u64, most: usize) {
        let mut traces = self.traces();
        // Newest first.
        traces.sort_by(|a, b| b.cmp(a));
        let mut total = room;
        for (index, (name, bytes)) in traces.iter().enumerate() {
            total = total.saturating_add(*bytes);
            if index >= most || total > TOTAL {
                let _ = fs::remove_file(self.path.join(name));
            }
        }
    }

    /// Names and sizes of the traces there are.
    fn traces(&self) -> Vec<(std::ffi::OsString, u64)> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| Path::new(&entry.file_name()).extension() == Some(OsStr::new(SUFFIX)))
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                metadata
                    .is_file()
                    .then(|| (entry.file_name(), metadata.len()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_there_whole_under_a_name_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("deep/traces"));
        let first = folder.keep(7, b"one\n").unwrap();
        let second = folder.keep(7, b"two\n").unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read(first).unwrap(), b"one\n");
        assert_eq!(fs::read(second).unwrap(), b"two\n");
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 2);
    }

    #[test]
    fn old_traces_are_forgotten_by_count() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path());
        for number in 0..KEPT + 5 {
            let name = format!("2020-01-01T00-00-{number:03}Z-1.jsonl");
            fs::write(root.path().join(name), b"old").unwrap();
        }
        fs::write(root.path().join("notes.txt"), b"not ours").unwrap();
        let kept = folder.keep(7, b"new").unwrap();
        assert_eq!(folder.traces().len(), KEPT);
        assert!(kept.exists() && root.path().join("notes.txt").exists());
        assert!(!root.path().join("2020-01-01T00-00-000Z-1.jsonl").exists());
    }

    #[test]
    fn old_traces_are_forgotten_by_size() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path());
        for number in 0..3 {
            let name = root.path().join(format!("2020-01-0{number}-1.jsonl"));
            // Holes: no disk is filled.
            File::create(name).unwrap().set_len(TOTAL / 2 - 10).unwrap();
        }
        folder.keep(7, b"new").unwrap();
        assert_eq!(folder.traces().len(), 3);
        assert!(!root.path().join("2020-01-00-1.jsonl").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_and_nothing_more() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(Folder::at(file.join("traces")).keep(7, b"new").is_err());
    }
}
