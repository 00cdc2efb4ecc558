//! The guest's frames as the destination has them, in a fast landing.

use lull_base::bit_set::BitSet;

use super::balloon::{Balloon, Change};
use super::depopulated::Depopulated;
use crate::failure::Failure;

/// Which frames have a page at the destination, which of these were never sent, and what the
/// destination does not know yet.
pub struct DestinationFrames {
    /// Bitmap of the frames that have a page there.
    present: Vec<u64>,
    /// Those of them that still hold what Xen has handed out.
    unwritten: BitSet,
    /// Depopulated frames that the destination does not know of yet. A guest may give
    /// back all its memory at once, so they are sent a few at a time.
    depopulated: Depopulated,
    balloon: Balloon,
}

impl DestinationFrames {
    /// No frame is there yet. The guest has frames below `guest_pfns`, and `tot_pages`
    /// pages.
    pub fn new(guest_pfns: u64, tot_pages: u64) -> Self {
        Self {
            present: vec![0; guest_pfns.div_ceil(64) as usize],
            unwritten: BitSet::below(guest_pfns),
            depopulated: Depopulated::none(guest_pfns),
            balloon: Balloon::listed(tot_pages),
        }
    }

    /// Records that these frames are named in the stream. They get pages whose contents are
    /// whatever Xen hands out.
    pub fn name(&mut self, frames: &[u64]) {
        self.send(frames);
        for gfn in frames {
            self.unwritten.insert(*gfn);
        }
    }

    /// Records that the pages of these frames are sent.
    pub fn send(&mut self, frames: &[u64]) {
        self.mark(frames, true);
    }

    /// Records that the request to depopulate these frames was sent to the destination.
    pub fn depopulate(&mut self, frames: &[u64]) {
        self.mark(frames, false);
    }

    fn mark(&mut self, frames: &[u64], present: bool) {
        for gfn in frames {
            // The frame lies within the guest: that was checked when the stub asked for it.
            if let Some(word) = self.present.get_mut((gfn / 64) as usize) {
                let bit = 1 << (gfn % 64);
                *word = if present { *word | bit } else { *word & !bit };
            }
            if present {
                self.depopulated.populate(*gfn);
            }
            self.unwritten.remove(*gfn);
        }
    }

    /// Checks that each frame of the copy was sent. The stub says which frames it copies, and
    /// dom0 only counts them.
    ///
    /// # Errors
    /// When one was not.
    pub fn check_all_sent(&self) -> Result<(), Failure> {
        match self.unwritten.first() {
            Some(gfn) => Err(Failure::NeverSent(gfn)),
            None => Ok(()),
        }
    }

    /// Records that the guest has `pages` pages now.
    pub fn see_pages(&mut self, pages: u64) {
        self.balloon.see(pages);
    }

    /// Whether memory was given to the guest, or taken from it, since its frames were listed.
    pub fn is_ballooning(&self) -> bool {
        self.balloon.change() != Change::None
    }

    /// Records a new list of the frames that have a page at the source, as a bitmap. Returns
    /// the frames to send whatever the dirty log says of them.
    pub fn list(&mut self, now: &[u64]) -> Vec<u64> {
        let gained = match self.balloon.change() {
            // Any frame may hold another page by now.
            Change::BothWays => now.to_vec(),
            _ => self.depopulated.gained(now, &self.present),
        };
        self.balloon.list();
        self.depopulated.list(now, &self.present);
        gained
    }

    /// Whether there are depopulated frames that the destination does not know of.
    pub fn has_depopulated(&mut self) -> bool {
        !self.depopulated.is_none()
    }

    /// Takes up to `most` of these frames, and counts them as depopulated at the
    /// destination. The result is empty when none is left.
    pub fn take_depopulated(&mut self, most: usize) -> Vec<u64> {
        let depopulated = self.depopulated.take(most);
        self.depopulate(&depopulated);
        depopulated
    }
}
