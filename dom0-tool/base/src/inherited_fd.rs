//! File descriptors that this process inherited, given by number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// Whether descriptor `number` is a socket or a pipe, and thus leads to another
/// process.
pub fn is_socket_or_pipe(number: RawFd) -> bool {
    let file = std::fs::metadata(format!("/proc/self/fd/{number}"));
    file.is_ok_and(|file| file.file_type().is_socket() || file.file_type().is_fifo())
}

/// Whether the environment variable `variable` holds the number of a socket.
pub fn is_named_socket(variable: &str) -> bool {
    let number = std::env::var(variable);
    let path = |number: String| format!("/proc/self/fd/{}", number.trim());
    number.is_ok_and(|number| {
        number.bytes().all(|byte| byte.is_ascii_digit())
            && std::fs::metadata(path(number)).is_ok_and(|file| file.file_type().is_socket())
    })
}

/// Takes ownership of the descriptor whose number is in an environment variable.
pub fn named(variable: &str) -> Option<OwnedFd> {
    adopt(number(variable)?).ok()
}

/// Takes ownership of descriptor `number` and sets close-on-exec on it.
///
/// # Errors
/// Returns EBADF if the descriptor is not open, or is standard input, output or error.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let fd = own(number)?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

fn own(number: RawFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{number}");
    // The link of a deleted file leads nowhere, so it is not followed.
    if number <= 2 || std::fs::symlink_metadata(path).is_err() {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the descriptor is open, and it was handed to this process to own; nothing
    // else here uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The descriptors that this process inherited by accident: all but the standard ones and
/// `kept`. Drop them to close them; programs that are started until then inherit them. Call
/// this before the process opens any descriptor of its own.
///
/// A process that outlives the command that started it must not hold what a shell had open:
/// a lock would stay locked, and the reader of a pipe would wait for its end.
pub fn foreign(kept: &[RawFd]) -> Vec<OwnedFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    // The list is complete before its own descriptor is closed, and that number is then no
    // longer open.
    let numbers: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let others = numbers.into_iter().filter(|number| !kept.contains(number));
    others.filter_map(|number| own(number).ok()).collect()
}

/// The descriptor whose number is in an environment variable, if there is one.
pub fn number(variable: &str) -> Option<RawFd> {
    std::env::var(variable).ok()?.parse().ok()
}
