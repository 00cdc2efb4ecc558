//! The pipes the stream goes through.

use std::os::fd::AsFd;

use rustix::pipe::fcntl_setpipe_size;

/// Four times what Linux gives a pipe. At 64 KiB, writer and reader take turns
/// for every sixteen pages, which shows where switching is dear. Not more: what
/// waits in a pipe when the helper has written its last byte is still to be
/// sent while the guest stands still.
const BYTES: usize = 256 << 10;

/// Enlarges a pipe, if the system lets us; a small one is only slower.
pub fn enlarge(pipe: impl AsFd) {
    let _ = fcntl_setpipe_size(pipe, BYTES);
}
