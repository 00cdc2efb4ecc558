//! The folder of one boot, with logs, keys and the control socket. A process that is killed
//! leaves the folder behind; the next boot removes it.

use std::fs;
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

/// The prefix of the folder's name; the id of the process that uses the folder follows.
const PREFIX: &str = "lull-rig-";

/// Creates a folder for this boot.
pub fn create() -> Result<TempDir> {
    sweep(&std::env::temp_dir());
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// Removes the folders whose process has ended.
fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
