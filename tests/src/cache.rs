//! Keeps what is expensive to build in the user's cache folder. An entry's key is a hash of
//! everything that it was built from, and the hash of its content is checked at each use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The file that lists each file of an entry with its hash, as `sha256sum` prints it.
const MANIFEST: &str = "SHA256SUMS";

/// The number of entries of a kind that are kept; that suffices for some branches side by
/// side.
const KEPT: usize = 4;

/// Builds the key of an entry.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds one input. The label separates it from its neighbours.
    #[must_use]
    pub fn with(mut self, label: &str, content: &[u8]) -> Self {
        self.0
            .update(format!("{label}:{}:", content.len()).as_bytes());
        self.0.update(content);
        self
    }

    /// Returns the key: sixteen hexadecimal digits.
    pub fn finish(self) -> String {
        let mut hex = String::new();
        for byte in self.0.finalize().iter().take(8) {
            hex.push_str(&format!("{byte:02x}"));
        }
        hex
    }
}

/// Returns the rig's cache folder.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn folder() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set: no place for the cache"),
    };
    Ok(base.join("lull-rig"))
}

/// Returns the entry of that name if it exists and is intact. Otherwise `build` makes it in
/// an empty folder, which is then moved into place in one step.
///
/// # Errors
/// Any error of `build`, or a cache folder that cannot be written.
pub fn entry(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    entry_in(&folder()?, name, build)
}

fn entry_in(folder: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let place = folder.join(name);
    if place.is_dir() {
        if is_whole(&place) {
            return Ok(place);
        }
        eprintln!("cache: {} is damaged, building it anew", place.display());
        fs::remove_dir_all(&place)?;
    }
    let scratch = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(folder)?;
    let fresh = scratch.path().join(name);
    fs::create_dir(&fresh)?;
    build(&fresh)?;
    write_manifest(&fresh)?;
    match fs::rename(&fresh, &place) {
        Ok(()) => {
            drop_old(folder, name);
            Ok(place)
        }
        // Another rig was faster; its entry has the same inputs.
        Err(_) if is_whole(&place) => Ok(place),
        Err(error) => Err(error).with_context(|| format!("cannot fill {}", place.display())),
    }
}

/// Deletes all but the newest entries of a kind (the part of their names before the last
/// dash). A rig that still uses a deleted entry has it open, or builds it anew.
fn drop_old(folder: &Path, name: &str) {
    let kind = name.rsplit_once('-').map_or(name, |(kind, _)| kind);
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut entries: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let other = entry.file_name().to_string_lossy().into_owned();
            other.rsplit_once('-').is_some_and(|(k, _)| k == kind)
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    entries.sort();
    for (_, path) in entries.iter().rev().skip(KEPT) {
        // An entry that cannot be removed only costs space.
        let _ = fs::remove_dir_all(path);
    }
}

fn write_manifest(place: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let output = Command::new("sha256sum")
        .arg("--")
        .args(&names)
        .current_dir(place)
        .output()
        .context("cannot start sha256sum")?;
    if !output.status.success() {
        bail!(
            "sha256sum: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    fs::write(place.join(MANIFEST), output.stdout)?;
    Ok(())
}

fn is_whole(place: &Path) -> bool {
    Command::new("sha256sum")
        .args(["--check", "--status", "--strict", MANIFEST])
        .current_dir(place)
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_built_once_and_anew_when_damaged() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut builds = 0;
        for damage in [false, false, true, false] {
            let place = entry_in(folder.path(), "thing-1", |place| {
                builds += 1;
                Ok(fs::write(place.join("content"), "whole")?)
            })?;
            assert_eq!(fs::read_to_string(place.join("content"))?, "whole");
            if damage {
                fs::write(place.join("content"), "torn")?;
            }
        }
        assert_eq!(builds, 2);
        Ok(())
    }

    #[test]
    fn a_build_that_fails_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        assert!(entry_in(folder.path(), "thing-1", |_| bail!("no network")).is_err());
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
        Ok(())
    }
}
