//! A folder of records. Each record is complete or absent, and their number is bounded.

use std::cmp::Reverse;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lull_base::{atomic_file, processes};

/// The bounds of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The number of newest files kept.
    pub files: usize,
    /// The total size in bytes. The newest file is kept whatever its size.
    pub bytes: u64,
}

/// The extension of a record's file name.
const SUFFIX: &str = "jsonl";

/// The extension while the record is being written.
const UNFINISHED: &str = "unfinished";

/// Creates a folder, and those above it, that only its owner can read. An existing folder
/// gets the same mode. Records contain guests' names, their destinations and how busy they
/// are.
///
/// # Errors
/// The error of the kernel.
pub fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let there = fs::metadata(folder)?;
    let is_ours = there.uid() == rustix::process::geteuid().as_raw();
    if is_ours && there.mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A folder of records.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    most: Retention,
}

impl Folder {
    /// The folder at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>, most: Retention) -> Self {
        Self {
            path: path.into(),
            most,
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record, named after the time and `whose` it is, and deletes old ones.
    ///
    /// # Errors
    /// If it cannot be written; no part of it is then left behind.
    pub fn keep(&self, whose: &str, record: &[u8]) -> io::Result<PathBuf> {
        make_private(&self.path)?;
        self.forget_unfinished();
        // Before as well as after: old records may have filled the disk.
        self.forget(record.len() as u64, self.most.files - 1);
        let fresh = self
            .path
            .join(format!("{}.{UNFINISHED}", std::process::id()));
        atomic_file::write_as(&fresh, record, 0o600, || self.free_name(&file_name(whose)))
    }

    /// `2026-11-23T15-34-44Z-7.jsonl`: sorting by name sorts by time. A guest is not
    /// migrated twice in a second, except by a test.
    fn free_name(&self, whose: &str) -> PathBuf {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let stem = format!("{}-{whose}", now.to_string().replace(':', "-"));
        let plain = self.path.join(format!("{stem}.{SUFFIX}"));
        std::iter::once(plain)
            .chain((2..).map(|n| self.path.join(format!("{stem}-{n}.{SUFFIX}"))))
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.path.join(SUFFIX))
    }

    /// The paths of one owner's records, newest first, by the names that
    /// [`keep`](Self::keep) gives them.
    pub fn records_of(&self, whose: &str) -> impl Iterator<Item = PathBuf> {
        let name = file_name(whose);
        let is_its = move |path: &PathBuf| {
            let stem = path.file_stem().and_then(OsStr::to_str);
            let rest = stem
                .and_then(|stem| stem.split_once("Z-"))
                .and_then(|(_, whose)| whose.strip_prefix(&name));
            rest.is_some_and(|rest| {
                let number = rest.strip_prefix('-');
                rest.is_empty()
                    || number.is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
            })
        };
        let records = self.records().into_iter();
        records.map(|(name, _)| self.path.join(name)).filter(is_its)
    }

    /// Removes partial files that a killed process left behind.
    fn forget_unfinished(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            let writer = path.file_stem().and_then(OsStr::to_str);
            let writer = writer.and_then(|stem| stem.parse::<u32>().ok());
            let lives = writer.is_some_and(processes::is_lulls);
            if path.extension() == Some(OsStr::new(UNFINISHED)) && !lives {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes the oldest records until `room` bytes and one more record fit.
    fn forget(&self, room: u64, most: usize) {
        let mut total = room;
        for (index, (name, bytes)) in self.records().iter().enumerate() {
            total = total.saturating_add(*bytes);
            if index >= most || total > self.most.bytes {
                let _ = fs::remove_file(self.path.join(name));
            }
        }
    }

    /// The names and sizes of the records, newest first.
    pub fn records(&self) -> Vec<(OsString, u64)> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Vec::new();
        };
        let mut records: Vec<_> = entries
            .flatten()
            .filter(|entry| Path::new(&entry.file_name()).extension() == Some(OsStr::new(SUFFIX)))
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                metadata
                    .is_file()
                    .then(|| (entry.file_name(), metadata.len()))
            })
            .collect();
        // Without the extension, which would otherwise sort after `-2`.
        let stem = |name: &OsString| Path::new(name).with_extension("").into_os_string();
        records.sort_by_cached_key(|(name, _)| Reverse(stem(name)));
        records
    }
}

/// `whose` with everything replaced that a file name cannot contain, because a guest may
/// have any name.
fn file_name(whose: &str) -> String {
    whose
        .chars()
        .take(64)
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const RETENTION: Retention = Retention {
        files: 8,
        bytes: 1 << 20,
    };

    #[test]
    fn a_record_is_there_whole_under_a_name_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("deep/traces"), RETENTION);
        let first = folder.keep("7", b"one\n").unwrap();
        let second = folder.keep("7", b"two\n").unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read(first).unwrap(), b"one\n");
        assert_eq!(fs::read(second).unwrap(), b"two\n");
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 2);
    }

    #[test]
    fn old_records_are_forgotten_by_count() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path(), RETENTION);
        for number in 0..RETENTION.files + 5 {
            let name = format!("2020-01-01T00-00-{number:03}Z-1.jsonl");
            fs::write(root.path().join(name), b"old").unwrap();
        }
        fs::write(root.path().join("notes.txt"), b"not ours").unwrap();
        let kept = folder.keep("7", b"new").unwrap();
        assert_eq!(folder.records().len(), RETENTION.files);
        assert!(kept.exists() && root.path().join("notes.txt").exists());
        assert!(!root.path().join("2020-01-01T00-00-000Z-1.jsonl").exists());
    }

    #[test]
    fn old_records_are_forgotten_by_size() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path(), RETENTION);
        for number in 0..3 {
            let name = root.path().join(format!("2020-01-0{number}-1.jsonl"));
            // The file is sparse and does not fill the disk.
            File::create(name)
                .unwrap()
                .set_len(RETENTION.bytes / 2 - 10)
                .unwrap();
        }
        folder.keep("7", b"new").unwrap();
        assert_eq!(folder.records().len(), 3);
        assert!(!root.path().join("2020-01-00-1.jsonl").exists());
    }

    #[test]
    fn what_the_dead_left_half_written_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let at = |pid: u32| root.path().join(format!("{pid}.{UNFINISHED}"));
        // No process has a number above 2^22, and process 1 is not lull.
        for pid in [1, 4_194_305] {
            fs::write(at(pid), b"half").unwrap();
        }
        Folder::at(root.path(), RETENTION)
            .keep("7", b"new")
            .unwrap();
        assert!(!at(1).exists() && !at(4_194_305).exists());
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_and_nothing_more() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(
            Folder::at(file.join("traces"), RETENTION)
                .keep("7", b"new")
                .is_err()
        );
    }

    #[test]
    fn no_guest_is_called_a_path() {
        assert_eq!(file_name("web1.lan"), "web1.lan");
        assert_eq!(file_name("../é b"), "..___b");
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path(), RETENTION);
        let kept = folder.keep("../../x", b"new").unwrap();
        assert_eq!(kept.parent(), Some(root.path()));
    }
}
