//! Locks on files that only one lull process at a time may change.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Interval between two attempts to take a lock.
const TRY: Duration = Duration::from_millis(50);

/// Opens a lock file for reading and writing, and creates it if needed. Only root can open
/// it, because any process that can open it can also lock it.
///
/// # Errors
/// Returns the kernel's error.
pub fn file(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Locks `file` until it is closed. Returns whether the lock was acquired within
/// `patience`.
///
/// # Errors
/// Returns the kernel's error, except when another process holds the lock.
pub fn lock(file: &File, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() >= until => return Ok(false),
            Err(Errno::WOULDBLOCK) => thread::sleep(TRY),
            Err(error) => return Err(error.into()),
        }
    }
}
