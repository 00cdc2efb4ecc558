//! Maps the guest's frames read-only into the stub's page table.

use std::io;

use lull_core::batch::BATCH_PAGES;
use lull_core::link::SLOTS;
use lull_xen::buffer::HypercallBuffer;
use lull_xen::mmu::{MmuUpdate, pte};
use lull_xen::{DomId, PAGE, Xen};
use rustix::io::Errno;

use crate::stub::Stub;

/// Present, read-only and not executable. Xen adds the user bit that a PV kernel needs.
const RIGHTS: u64 = pte::PRESENT | pte::ACCESSED | pte::NO_EXECUTE;

/// The errors by which Xen reports that a frame has no page: EPERM and EINVAL for a hole,
/// ENOENT for a frame that is paged out (`xen/arch/x86/mm.c`, 4.17).
const NO_PAGE: [Errno; 3] = [Errno::PERM, Errno::INVAL, Errno::NOENT];

/// dom0's list of page-table updates, used for one slot at a time.
pub struct Windows {
    updates: HypercallBuffer<MmuUpdate>,
    /// For each slot's window, the number of pages that may be mapped.
    shown: [usize; SLOTS],
}

impl Windows {
    /// Creates the list, with all windows unmapped.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            updates: HypercallBuffer::new(BATCH_PAGES)?,
            shown: [0; SLOTS],
        })
    }

    /// Maps `pfns` of guest `domid` one after the other in the slot's window, over its previous
    /// contents. Frames without a page are removed from `pfns` and returned.
    ///
    /// # Errors
    /// When Xen refuses for a reason other than a missing page.
    pub fn map(
        &mut self,
        xen: &Xen,
        stub: &Stub<'_>,
        domid: DomId,
        slot: usize,
        pfns: &mut Vec<u64>,
    ) -> io::Result<Vec<u64>> {
        let mut left_out = Vec::new();
        self.shown[slot] = self.shown[slot].max(pfns.len());
        let mut done = 0;
        while done < pfns.len() {
            for (page, pfn) in pfns.iter().enumerate().skip(done) {
                self.updates[page] = MmuUpdate {
                    ptr: stub.window_entry(slot, page),
                    val: (pfn * PAGE as u64) | RIGHTS,
                };
            }
            let left = pfns.len() - done;
            let updated = xen.mmu_update(&self.updates, done, left, stub.domid(), domid);
            done += updated.done;
            match updated.stopped {
                None if updated.done < left => {
                    return Err(io::Error::other("fewer frames mapped than asked for"));
                }
                None => {}
                Some(error) if done < pfns.len() && is_no_page(&error) => {
                    left_out.push(pfns.remove(done));
                }
                Some(error) => return Err(error),
            }
        }
        Ok(left_out)
    }

    /// Unmaps all pages of the slot's window.
    ///
    /// # Errors
    /// When Xen refuses.
    pub fn clear(&mut self, xen: &Xen, stub: &Stub<'_>, slot: usize) -> io::Result<()> {
        let shown = self.shown[slot];
        if shown == 0 {
            return Ok(());
        }
        for page in 0..shown {
            self.updates[page] = MmuUpdate {
                ptr: stub.window_entry(slot, page),
                val: 0,
            };
        }
        let updated = xen.mmu_update(&self.updates, 0, shown, stub.domid(), stub.domid());
        if let Some(error) = updated.stopped {
            return Err(error);
        }
        self.shown[slot] = 0;
        Ok(())
    }
}

fn is_no_page(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| NO_PAGE.contains(&errno))
}
