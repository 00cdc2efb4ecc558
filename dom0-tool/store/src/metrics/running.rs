//! The running attempts. Each holds a lock on a file of its own, and the kernel releases
//! the lock when the process ends, for whatever reason.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lull_base::file_lock;

/// A running attempt; it counts until this value is dropped.
#[derive(Debug)]
pub struct Running {
    path: PathBuf,
    _file: File,
}

impl Running {
    /// Registers this process once.
    pub(super) fn enter(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(std::process::id().to_string());
        let file = file_lock::file(&path)?;
        match file_lock::lock(&file, Duration::ZERO)? {
            true => Ok(Self { path, _file: file }),
            false => Err(io::Error::other("it is counted already")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The number of running attempts. Removes the files of dead processes; the caller holds
/// the lock under which new files are created.
pub fn count(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let lives = |path: &Path| match File::open(path) {
        Ok(file) => !matches!(file_lock::lock(&file, Duration::ZERO), Ok(true)),
        Err(_) => false,
    };
    let mut count = 0;
    for entry in entries.flatten() {
        if lives(&entry.path()) {
            count += 1;
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    count
}
