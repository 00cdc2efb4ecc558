//! Mappings of another domain's pages into this process.

use std::ffi::c_void;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{ptr, slice};

use lull_core::link::Link;
use rustix::ioctl::{self, Direction, Updater, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{DomId, PAGE, Xen};

/// `struct privcmd_mmapbatch_v2` (`linux/include/uapi/xen/privcmd.h`).
#[repr(C)]
struct MmapBatch {
    num: u32,
    dom: u16,
    _pad: u16,
    addr: u64,
    frames: *const u64,
    errors: *mut i32,
}

const _: () = assert!(size_of::<MmapBatch>() == 32);

/// `IOCTL_PRIVCMD_MMAPBATCH_V2`, whose size field is the size of the structure.
pub const MMAPBATCH_V2: ioctl::Opcode =
    opcode::from_components(Direction::None, b'P', 4, size_of::<MmapBatch>());

/// A memory layout that may be shared with another domain.
///
/// # Safety
/// Implement only for types for which every bit pattern is valid and that change only
/// through atomics.
pub unsafe trait Shared {}

// SAFETY: the structure consists of atomics and of padding made of integers.
unsafe impl Shared for Link {}

/// Pages of another domain, mapped for reading and writing until dropped. The domain
/// can change them at any time, so nothing here returns a plain reference to a running
/// domain's memory.
pub struct ForeignPages {
    start: *mut c_void,
    bytes: usize,
}

impl ForeignPages {
    /// Maps `frames` (machine frames of a PV domain, gfns of others) of `dom`
    /// contiguously.
    ///
    /// # Errors
    /// Returns the kernel's error, or an error that names the first frame that could
    /// not be mapped.
    pub fn map(xen: &Xen, dom: DomId, frames: &[u64]) -> io::Result<Self> {
        let bytes = frames.len().checked_mul(PAGE).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: this is a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), bytes, prot, flags, xen.device(), 0) }?;
        let pages = Self { start, bytes };
        let mut errors = vec![0_i32; frames.len()];
        let mut batch = MmapBatch {
            num: u32::try_from(frames.len()).map_err(io::Error::other)?,
            dom,
            _pad: 0,
            addr: start as u64,
            frames: frames.as_ptr(),
            errors: errors.as_mut_ptr(),
        };
        // SAFETY: the opcode belongs to MmapBatch; its arrays have `num`
        // elements and outlive the call.
        let request = unsafe { Updater::<MMAPBATCH_V2, MmapBatch>::new(&mut batch) };
        // SAFETY: as above; the kernel fills the area mapped just now.
        let mapped = unsafe { ioctl::ioctl(xen.device(), request) };
        if let Some(failed) = errors.iter().position(|error| *error != 0) {
            let (frame, error) = (frames[failed], errors[failed]);
            let error = io::Error::from_raw_os_error(error.wrapping_neg());
            let text = format!("frame {frame:#x} of domain {dom} cannot be mapped: {error}");
            return Err(io::Error::other(text));
        }
        mapped?;
        Ok(pages)
    }

    /// Copies `bytes` into the mapping at `offset`.
    ///
    /// # Panics
    /// Panics if the bytes do not fit, which is a bug of the caller.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "write past the mapping"
        );
        let to = self.start.cast::<u8>().wrapping_add(offset);
        // SAFETY: the target lies within the mapping, as checked above; the source is
        // local memory.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Reads once from `from` into these bytes of the mapping. Returns the number of bytes
    /// read: 0 at the end of the input.
    ///
    /// # Errors
    /// Returns the kernel's error.
    ///
    /// # Panics
    /// Panics if the range exceeds the mapping, which is a bug of the caller.
    pub fn read_from(&mut self, from: BorrowedFd<'_>, range: Range<usize>) -> io::Result<usize> {
        assert!(
            range.start <= range.end && range.end <= self.bytes,
            "read past the mapping"
        );
        let to = self
            .start
            .cast::<MaybeUninit<u8>>()
            .wrapping_add(range.start);
        // SAFETY: the slice lies within the mapping, as checked above, and this is the only
        // reference to it. The other domain may change the bytes at any time, so no code here
        // reads them: only the kernel writes there.
        let place = unsafe { slice::from_raw_parts_mut(to, range.len()) };
        let (read, _) = rustix::io::read(from, place)?;
        Ok(read.len())
    }

    /// Writes `words` into the mapping from `offset` on.
    ///
    /// # Panics
    /// Panics if the words are not aligned or not within the mapping, which is a bug of
    /// the caller.
    pub fn store(&self, offset: usize, words: &[u64]) {
        let end = offset.checked_add(size_of_val(words));
        assert!(
            offset.is_multiple_of(8) && end.is_some_and(|end| end <= self.bytes),
            "past the mapping"
        );
        for (place, word) in (offset..).step_by(8).zip(words) {
            let place = self.start.cast::<u8>().wrapping_add(place);
            // SAFETY: the word lies within the mapping, which lives as long as the
            // reference, and is aligned, as checked above. The access is atomic, so the
            // other domain's accesses are no data race.
            let place = unsafe { AtomicU64::from_ptr(place.cast()) };
            place.store(*word, Ordering::Relaxed);
        }
    }

    /// Sets the bits of `word` in the word at `offset`, and returns how many of them
    /// were not set before.
    ///
    /// # Panics
    /// Panics if `offset` is not that of a word of the mapping, which is a bug of the
    /// caller.
    pub fn set_bits(&self, offset: usize, word: u64) -> u32 {
        assert!(
            offset.is_multiple_of(8) && offset < self.bytes,
            "past the mapping"
        );
        let place = self.start.cast::<u8>().wrapping_add(offset);
        // SAFETY: the word lies within the mapping, which is a whole number of pages
        // and lives as long as the reference, and is aligned, as checked above. The
        // access is atomic, so the other domain's writes are no data race.
        let place = unsafe { AtomicU64::from_ptr(place.cast()) };
        (word & !place.fetch_or(word, Ordering::Relaxed)).count_ones()
    }

    /// A copy of everything mapped.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: both are `bytes` long, and the target was allocated just now.
        unsafe { ptr::copy_nonoverlapping(self.start.cast(), bytes.as_mut_ptr(), self.bytes) };
        bytes
    }

    /// The start of the mapping as a `T`.
    pub fn shared<T: Shared>(&self) -> &T {
        assert!(size_of::<T>() <= self.bytes, "mapping too small");
        // SAFETY: the mapping is page aligned, large enough, and lives as long as
        // `self`; Shared guarantees that the other domain's writes are no data race.
        unsafe { &*self.start.cast::<T>() }
    }

    /// A slice of `len` bytes from `offset` on, for a system call that writes them out.
    ///
    /// # Panics
    /// Panics if the slice exceeds the mapping, which is a bug of the caller.
    pub fn io_slice(&self, offset: usize, len: usize) -> IoSlice<'_> {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "slice past the mapping"
        );
        let from = self.start.cast::<u8>().wrapping_add(offset);
        // SAFETY: the slice lies within the mapping, as checked above, and the mapping
        // lives as long as the slice. The other domain may change the bytes at any
        // time, so no code here reads them: the slice is only for a system call.
        IoSlice::new(unsafe { slice::from_raw_parts(from, len) })
    }
}

impl Drop for ForeignPages {
    fn drop(&mut self) {
        // SAFETY: this unmaps the mapping made in `map`, with its length, and it is not
        // used again.
        let unmapped = unsafe { munmap(self.start, self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
