//! Windows: the guest's frames, read-only, in the stub's page table.

use std::io;

use lull_core::batch::BATCH_PAGES;
use lull_core::link::SLOTS;
use lull_xen::buffer::HypercallBuffer;
use lull_xen::mmu::{MmuUpdate, pte};
use lull_xen::{DomId, PAGE, Xen};
use rustix::io::Errno;

use crate::stub::Stub;

/// Read-only, no code; Xen adds the user bit a PV kernel needs.
const RIGHTS: u64 = pte::PRESENT | pte::ACCESSED | pte::NO_EXECUTE;

/// Errors by which Xen says that there is no page behind a frame: EPERM and EINVAL for a
/// hole, ENOENT for one that is paged out (`xen/arch/x86/mm.c`, 4.17).
const NO_PAGE: [Errno; 3] = [Errno::PERM, Errno::INVAL, Errno::NOENT];

/// dom0's list of updates, one slot at a time.
pub struct Windows {
    updates: HypercallBuffer<MmuUpdate>,
    /// Of each slot's window, how many pages may show something.
    shown: [usize; SLOTS],
}

impl Windows {
    /// Nothing mapped yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            updates: HypercallBuffer::new(BATCH_PAGES)?,
            shown: [0; SLOTS],
        })
    }

    /// Maps `pfns` of `guest` one after the other in the slot's window, over
    /// whatever was there. Frames without a page are taken out of `pfns`, and handed
    /// back.
    ///
    /// # Errors
    /// When Xen refuses for another reason.
    pub fn map(
        &mut self,
        xen: &Xen,
        stub: &Stub<'_>,
        guest: DomId,
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
            let updated = xen.mmu_update(&self.updates, done, left, stub.domid(), guest);
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

    /// The slot's window shows nothing any more.
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
