//! Files that only one lull at a time may change.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Between two tries.
const TRY: Duration = Duration::from_millis(50);

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
