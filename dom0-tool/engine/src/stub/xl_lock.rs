//! xl's lock. xl takes it before it frees memory for a new domain and releases it once all
//! of that domain exists. For a domain that migrates here, that is when it has arrived.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lull_wire::xl_conf;
use rustix::fs::{FlockOperation, fcntl_lock};

/// The lock's path unless xl.conf sets another (`XL_LOCK_FILE`, `tools/xl/xl.h`, and
/// `XEN_LOCK_DIR` as Debian's 4.17 and 4.20 set it).
const USUAL: &str = "/var/lock/xl";

/// xl's lock, held until this is dropped or the process ends. The process must not close
/// another handle to the same file meanwhile, because that would release the lock.
#[derive(Debug)]
pub struct XlLock {
    _file: File,
}

impl XlLock {
    /// Takes the lock, unless another process has it.
    ///
    /// # Errors
    /// When the file cannot be opened, or locking fails for another reason.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        // Open the file as xl does (`acquire_lock`, `tools/xl/xl_vmcontrol.c`, 4.17).
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

/// The path of the lock according to xl.conf.
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
        // A POSIX write lock on the whole file (proc_locks(5)).
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
