//! Descriptors that another process passes over a socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Receives a message into `bytes`. Returns its length in bytes, and the descriptors passed
/// with it: as many as `space` holds, which `rustix::cmsg_space!` measures.
///
/// # Errors
/// When nothing can be received.
pub fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    space: &mut [MaybeUninit<u8>],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = RecvAncillaryBuffer::new(space);
    let message = &mut [IoSliceMut::new(bytes)];
    let received = recvmsg(socket, message, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let passed = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((received.bytes, passed.flatten().collect()))
}
