//! Updates of another domain's page tables, which map the windows.

use std::io;

use super::DomId;
use super::buffer::{HypercallBuffer, Plain};
use super::privcmd::{Xen, number};

/// `struct mmu_update` (`xen/include/public/xen.h`, 4.17): the machine address of a
/// page-table entry, whose low two bits select the operation, and the entry's new
/// value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MmuUpdate {
    /// Machine address of the entry; low bits of 0 mean `MMU_NORMAL_PT_UPDATE`.
    pub ptr: u64,
    /// New value of the entry.
    pub val: u64,
}

// SAFETY: the structure is two integers without padding.
unsafe impl Plain for MmuUpdate {}

/// Architectural bits of a page-table entry: present, writable, accessed, dirty, no
/// execute. Xen adds the user bit itself.
pub mod pte {
    /// The entry maps something.
    pub const PRESENT: u64 = 1;
    /// The page may be written through this entry.
    pub const WRITABLE: u64 = 1 << 1;
    /// User mode may access the page. A 64-bit PV kernel runs in user mode, so the
    /// levels above the last need this bit.
    pub const USER: u64 = 1 << 2;
    /// The page has been accessed.
    pub const ACCESSED: u64 = 1 << 5;
    /// The page has been written.
    pub const DIRTY: u64 = 1 << 6;
    /// The page cannot be executed.
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// The result of an update.
#[derive(Debug)]
pub struct Updated {
    /// Number of entries changed, counted from the front.
    pub done: usize,
    /// Why the next entry was not changed; `None` if all were.
    pub stopped: Option<io::Error>,
}

impl Xen {
    /// Writes `count` of `updates`, from index `first` on, into page tables of `owner`.
    /// The frames named in them belong to `frames_of`. Xen checks each entry, and the
    /// first one it refuses ends the call (`HYPERVISOR_mmu_update`, both halves of
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
        // The upper half holds the page-table owner + 1, the lower half the frame
        // owner.
        let foreign = (u64::from(owner) + 1) << 16 | u64::from(frames_of);
        let address = updates.address() + (first * size_of::<MmuUpdate>()) as u64;
        let mut done = 0_u32;
        let args = [address, count as u64, 0, foreign, 0];
        // SAFETY: `count` updates lie at `address`, as checked above; `done` is the
        // counter that the third argument points to.
        let answer = unsafe { self.hypercall_with(number::MMU_UPDATE, args, 2, &mut done) };
        let done = done as usize;
        Updated {
            done: done.min(count),
            stopped: answer.err(),
        }
    }
}
