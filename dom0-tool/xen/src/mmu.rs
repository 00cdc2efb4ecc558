//! Page tables of another domain: the windows.

use std::io;

use super::DomId;
use super::buffer::{HypercallBuffer, Plain};
use super::privcmd::{Xen, number};

/// `struct mmu_update` (`xen/include/public/xen.h`, 4.17): the machine address
/// of a page-table entry, the low two bits saying which operation, and its new
/// value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MmuUpdate {
    /// Machine address of the entry; low bits 0 are `MMU_NORMAL_PT_UPDATE`.
    pub ptr: u64,
    /// New value.
    pub val: u64,
}

// SAFETY: two integers, no padding.
unsafe impl Plain for MmuUpdate {}

/// Entry bits of the architecture: present, writable, accessed, dirty, no
/// execute. Xen adds the user bit itself.
pub mod pte {
    /// The entry maps something.
    pub const PRESENT: u64 = 1;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// User mode may use it; a 64-bit PV kernel runs in user mode, so the
    /// levels above the last need it.
    pub const USER: u64 = 1 << 2;
    /// Has been used.
    pub const ACCESSED: u64 = 1 << 5;
    /// Has been written.
    pub const DIRTY: u64 = 1 << 6;
    /// Holds no code.
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// How far an update came.
#[derive(Debug)]
pub struct Updated {
    /// Entries changed, from the front.
    pub done: usize,
    /// Why the next one was not; `None` when all were.
    pub stopped: Option<io::Error>,
}

impl Xen {
    /// Writes the first `count` of `updates` into page tables of `owner`; the
    /// frames named in them belong to `frames_of`. Xen checks each entry; the
    /// first it refuses ends the call (`HYPERVISOR_mmu_update`, both halves of
    /// `foreigndom`).
    pub fn mmu_update(
        &self,
        updates: &HypercallBuffer<MmuUpdate>,
        first: usize,
        count: usize,
        owner: DomId,
        frames_of: DomId,
    ) -> Updated {
        assert!(
            first + count <= updates.len(),
            "more updates than there are"
        );
        // Page-table owner + 1 in the upper half, frame owner in the lower.
        let foreign = (u64::from(owner) + 1) << 16 | u64::from(frames_of);
        let address = updates.address() + (first * size_of::<MmuUpdate>()) as u64;
        let mut done = 0_u32;
        let args = [address, count as u64, 0, foreign, 0];
        // SAFETY: `count` updates lie at `address`, as just checked; `done` is
        // the counter of the third argument.
        let answer = unsafe { self.hypercall_with(number::MMU_UPDATE, args, 2, &mut done) };
        let done = done as usize;
        Updated {
            done: done.min(count),
            stopped: answer.err(),
        }
    }
}
