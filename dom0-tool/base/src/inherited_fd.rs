//! File descriptors that came with this process, by number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// Whether descriptor `number` leads to another process, and to no file.
pub fn is_socket_or_pipe(number: RawFd) -> bool {
    let file = std::fs::metadata(format!("/proc/self/fd/{number}"));
    file.is_ok_and(|file| file.file_type().is_socket() || file.file_type().is_fifo())
}

/// Whether the number in an environment variable is a socket's.
pub fn is_named_socket(variable: &str) -> bool {
    let number = std::env::var(variable);
    let path = |number: String| format!("/proc/self/fd/{}", number.trim());
    number.is_ok_and(|number| {
        number.bytes().all(|byte| byte.is_ascii_digit())
            && std::fs::metadata(path(number)).is_ok_and(|file| file.file_type().is_socket())
    })
}

/// Takes over the descriptor whose number stands in an environment variable.
pub fn named(variable: &str) -> Option<OwnedFd> {
    adopt(std::env::var(variable).ok()?.parse().ok()?).ok()
}

/// Takes over descriptor `number` and closes it in whatever this process
/// starts.
///
/// # Errors
/// EBADF when it is not open; standard input, output and error are refused.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let open = std::path::Path::new(&format!("/proc/self/fd/{number}")).exists();
    if number <= 2 || !open {
        return Err(Errno::BADF.into());
    }
    // SAFETY: it is open, and the number was handed to this process for it to
    // own; nothing else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}
