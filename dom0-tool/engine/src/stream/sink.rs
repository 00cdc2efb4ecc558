//! The non-blocking destination of the stream; the caller polls.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::pipe::enlarge;

/// The descriptor that libxl handed over.
///
/// The descriptor is shared with libxl, which needs it blocking. So a pipe is opened a
/// second time, which gives a non-blocking description of its own. A socket gets a
/// non-blocking flag with each call.
pub enum Sink {
    /// A pipe with a description of its own, or a file.
    File(File),
    /// A socket, shared with libxl.
    Socket(OwnedFd),
}

impl Sink {
    /// Takes over the descriptor.
    ///
    /// # Errors
    /// When its type cannot be read, or it cannot be opened again.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Socket => Ok(Self::Socket(fd)),
            FileType::Fifo => {
                enlarge(&fd);
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let pipe = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
                Ok(Self::File(pipe.into()))
            }
            _ => Ok(Self::File(fd.into())),
        }
    }

    /// Writes what can be written without blocking.
    ///
    /// # Errors
    /// WouldBlock when nothing can be written now. Any other error ends the stream.
    pub(crate) fn write(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write_vectored(bytes),
            Self::Socket(socket) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let mut control = SendAncillaryBuffer::default();
                Ok(sendmsg(socket, bytes, &mut control, flags)?)
            }
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Socket(socket) => socket.as_fd(),
        }
    }
}
