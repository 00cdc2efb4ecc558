//! Who runs: each has a file that it keeps locked, which ends with it whatever
//! it dies of.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lull_base::file_lock;

/// One that runs, as long as this lives.
#[derive(Debug)]
pub struct Running {
    path: PathBuf,
    /// Locked.
    _file: File,
}

impl Running {
    /// This process, once.
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

/// How many there are. Files of the dead are removed; whoever asks holds the
/// lock under which the living create theirs.
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
