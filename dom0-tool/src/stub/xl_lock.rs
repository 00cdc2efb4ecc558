//! xl's lock: xl holds it from before it frees memory for a new domain until all of
//! that domain is there, which for one that migrates here is until it has arrived.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::xl_conf;

/// Where it is unless xl.conf says otherwise (`XL_LOCK_FILE`, `tools/xl/xl.h`, and
/// `XEN_LOCK_DIR` as Debian's 4.17 and 4.20 set it).
const USUAL: &str = "/var/lock/xl";

/// Held until it is dropped, or until the process ends. Another handle to the same
/// file must not be closed meanwhile: that would let go of it.
#[derive(Debug)]
pub struct XlLock {
    _file: File,
}

impl XlLock {
    /// Takes it, unless another process has it.
    ///
    /// # Errors
    /// When it cannot be opened or taken for another reason.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        // As xl makes it (`acquire_lock`, `tools/xl/xl_vmcontrol.c`, 4.17).
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o200)
            .open(path)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where it is, by xl.conf.
pub fn path(conf: &str) -> PathBuf {
    let named = xl_conf::assigned(conf, "lockfile")
        .and_then(|(_, value)| xl_conf::quoted(&value).map(PathBuf::from));
    named.unwrap_or_else(|| USUAL.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::{fs, process};

    use super::*;

    #[test]
    fn it_is_where_xl_conf_says() {
        assert_eq!(path("lockfile=\"/run/xl\""), Path::new("/run/xl"));
        assert_eq!(path("#lockfile=\"/run/xl\""), Path::new(USUAL));
    }

    #[test]
    fn it_is_xls_kind_of_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xl");
        let held = XlLock::try_take(&path).unwrap();
        let file = fs::metadata(&path).unwrap().ino();
        // POSIX's, for writing, of the whole file (proc_locks(5)).
        let is_it = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words[1..5] == ["POSIX", "ADVISORY", "WRITE", &process::id().to_string()]
                && words[5].ends_with(&format!(":{file}"))
                && words[6..] == ["0", "EOF"]
        };
        let is_locked = || {
            fs::read_to_string("/proc/locks")
                .unwrap()
                .lines()
                .any(is_it)
        };
        assert!(held.is_some() && is_locked());
        drop(held);
        assert!(!is_locked());
    }
}
