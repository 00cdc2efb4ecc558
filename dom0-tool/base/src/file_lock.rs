//! Files that only one lull at a time may change.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Between two tries.
const TRY: Duration = Duration::from_millis(50);

/// Opens a file that is there to be locked. Only root can: whoever may open it may
/// lock it.
///
/// # Errors
/// What the kernel says.
pub fn file(path: &Path) -> io::Result<File> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Locks `file` until it is closed; says whether it was to be had within
/// `patience`.
///
/// # Errors
/// What the kernel says, but that another has it.
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
