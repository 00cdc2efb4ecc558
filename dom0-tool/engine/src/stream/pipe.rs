//! Sizes the pipes that carry the stream.

use std::os::fd::AsFd;

use rustix::pipe::fcntl_setpipe_size;

/// Four times the default size of a Linux pipe. At 64 KiB, writer and reader take turns
/// every sixteen pages, which is noticeable where context switches are expensive. A larger
/// pipe would lengthen the pause: the bytes that wait in it after the helper's last write
/// are still to be sent while the guest stands still.
const BYTES: usize = 256 << 10;

/// Enlarges a pipe if the system permits it. A small pipe is only slower.
pub fn enlarge(pipe: impl AsFd) {
    let _ = fcntl_setpipe_size(pipe, BYTES);
}
