//! Memory that Xen may write to while a hypercall runs.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::{io, ptr, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::PAGE;

/// Plain data: every bit pattern is valid, and there is no padding.
///
/// # Safety
/// Implement only for types with these properties.
pub unsafe trait Plain: Copy {}

// SAFETY: integers have no padding and no invalid values.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// Opens `/dev/xen/hypercall` once: a process that makes hypercalls later may no longer
/// be allowed to open files.
fn device() -> io::Result<&'static File> {
    static DEVICE: OnceLock<File> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(device);
    }
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/xen/hypercall")?;
    Ok(DEVICE.get_or_init(|| device))
}

/// An array in pages that the kernel keeps in place. `/dev/xen/hypercall` provides
/// anonymous memory that is never swapped, moved or split at a fork. Ordinary locked
/// memory may still move, and a hypercall then fails with EFAULT.
pub struct HypercallBuffer<T: Plain> {
    start: *mut T,
    len: usize,
    bytes: usize,
}

impl<T: Plain> HypercallBuffer<T> {
    /// Allocates a zeroed array of `len` elements, with room for at least one.
    pub fn new(len: usize) -> io::Result<Self> {
        let size = len.max(1).checked_mul(size_of::<T>());
        let size = size.and_then(|size| size.checked_next_multiple_of(PAGE));
        let bytes = size.ok_or(io::ErrorKind::OutOfMemory)?;
        let device = device()?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: this is a new mapping of memory that nothing else uses, at an address
        // that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), bytes, prot, flags, device, 0) }?;
        Ok(Self {
            start: start.cast(),
            len,
            bytes,
        })
    }

    /// The address of the buffer, to pass to hypercalls.
    pub fn address(&self) -> u64 {
        self.start as u64
    }
}

impl<T: Plain> Deref for HypercallBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is a mapping of at least `len` elements that lives as long as
        // `self`; Plain makes any content valid; Xen writes only during a hypercall,
        // which takes the buffer by address while no reference is in use.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for HypercallBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes it the only reference.
        unsafe { slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Plain> Drop for HypercallBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: this unmaps the mapping made in `new`, with its length, and it is not
        // used again.
        let unmapped = unsafe { munmap(self.start.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
