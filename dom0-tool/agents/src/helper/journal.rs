//! The systemd journal, when a service started this helper. libvirt's daemon is such a
//! service: its own error, which also goes to the journal, only says that the migration
//! failed.

use std::ffi::OsStr;
use std::io;

/// systemd sets this variable to the device and inode of the stream that it gave the
/// service (`systemd.exec(5)`).
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether standard error goes to the journal.
pub fn is_our_stderr() -> bool {
    let stream = std::env::var_os(VARIABLE);
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else {
        return false;
    };
    stream.is_some_and(|stream| names(&stream, stderr.st_dev, stderr.st_ino))
}

fn names(stream: &OsStr, device: u64, inode: u64) -> bool {
    stream == OsStr::new(&format!("{device}:{inode}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_same_file_is_the_journal() {
        assert!(names(OsStr::new("8:4711"), 8, 4711));
        for other in ["", "8:471", "9:4711", "4711"] {
            assert!(!names(OsStr::new(other), 8, 4711), "{other}");
        }
    }
}
