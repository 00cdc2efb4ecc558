//! Files that are replaced as a whole or not at all, even when the power fails.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Replaces `file`, which need not exist, with `content`. The new file keeps the mode
/// and owner of the old one; without an old one it gets `mode`. Only one process at a
/// time may replace a given file.
///
/// # Errors
/// Returns the kernel's error; `file` is then unchanged.
pub fn replace(file: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let fresh = file.with_extension("new");
    // A symbolic link is replaced itself, not its target.
    let before = match fs::symlink_metadata(file) {
        Ok(before) => Some(before).filter(|before| !before.is_symlink()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    create(
        &fresh,
        content,
        || file.to_owned(),
        |new| {
            if let Some(before) = &before {
                fchown(new, Some(before.uid()), Some(before.gid()))?;
            }
            let mode = before.map_or(mode, |before| before.mode() & 0o777);
            new.set_permissions(Permissions::from_mode(mode))
        },
    )?;
    Ok(())
}

/// Writes `content` to `fresh`, and renames that to the `name` that is free by then. The
/// name is in the same folder. Returns it.
///
/// # Errors
/// Returns the kernel's error; `fresh` is then gone.
pub fn write_as(
    fresh: &Path,
    content: &[u8],
    mode: u32,
    name: impl FnOnce() -> PathBuf,
) -> io::Result<PathBuf> {
    create(fresh, content, name, |new| {
        new.set_permissions(Permissions::from_mode(mode))
    })
}

fn create(
    fresh: &Path,
    content: &[u8],
    name: impl FnOnce() -> PathBuf,
    set_rights: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<PathBuf> {
    // Always create the file anew. In a folder that others can write to (the node
    // exporter's), an existing one may be a link to somewhere else.
    let _ = fs::remove_file(fresh);
    let written = File::create_new(fresh).and_then(|mut new| {
        set_rights(&new)?;
        new.write_all(content)?;
        new.sync_all()?;
        let name = name();
        fs::rename(fresh, &name)?;
        Ok(name)
    });
    match written {
        Ok(name) => {
            File::open(name.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            Ok(name)
        }
        Err(error) => {
            // Do not leave a partial file behind, for example on a full disk.
            let _ = fs::remove_file(fresh);
            Err(error)
        }
    }
}

/// Removes `file` and syncs its folder to disk.
///
/// # Errors
/// Returns the kernel's error.
pub fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file)?;
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_owner_stay_and_nothing_is_left_beside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        replace(&file, b"one", 0o644).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        replace(&file, b"two", 0o644).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&file).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a.prom"), folder.path().join("other"));
        fs::write(&other, b"theirs").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join("a.new")).unwrap();
        replace(&file, b"ours", 0o644).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"theirs");
        assert_eq!(fs::read(&file).unwrap(), b"ours");
    }

    #[test]
    fn a_link_is_replaced_and_no_bits_but_rights_are_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a.prom"), folder.path().join("other"));
        fs::write(&other, b"theirs").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o4777)).unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        replace(&file, b"ours", 0o644).unwrap();
        assert_eq!(fs::symlink_metadata(&file).unwrap().mode() & 0o7777, 0o644);
        replace(&other, b"ours", 0o644).unwrap();
        assert_eq!(fs::metadata(&other).unwrap().mode() & 0o7777, 0o777);
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let (fresh, file) = (folder.path().join("7.part"), folder.path().join("a"));
        let written = write_as(&fresh, b"one", 0o600, || {
            assert_eq!(fs::read(&fresh).unwrap(), b"one");
            file.clone()
        });
        assert_eq!(written.unwrap(), file);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let taken = folder.path().join("folder");
        fs::create_dir(&taken).unwrap();
        assert!(write_as(&fresh, b"two", 0o600, || taken).is_err());
        assert!(!fresh.exists(), "nothing partial is left");
    }

    #[test]
    fn what_cannot_be_replaced_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::create_dir(&file).unwrap();
        assert!(replace(&file, b"one", 0o644).is_err());
        assert!(file.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
