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
    adopt(std::env::var(variable).ok()?.parse().ok()?).ok()
}

/// Takes ownership of descriptor `number` and sets close-on-exec on it.
///
/// # Errors
/// Returns EBADF if the descriptor is not open, or is standard input, output or error.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let open = std::path::Path::new(&format!("/proc/self/fd/{number}")).exists();
    if number <= 2 || !open {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the descriptor is open, and it was handed to this process to own; nothing
    // else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}
