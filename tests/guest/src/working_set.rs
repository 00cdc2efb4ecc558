//! All pages of the model, with the version last written to each: a page alone does not
//! show that its last write was lost.

use std::sync::Mutex;

use crate::page::{Damage, Page};

/// The number of pages that are written or checked before other threads get their turn.
const TURN: u64 = 64;

/// The pages, shared by the dirtier and the verifier.
pub struct WorkingSet {
    pages: Mutex<Pages>,
    reserve: u64,
}

struct Pages {
    pages: Vec<Page>,
    versions: Vec<u64>,
}

impl WorkingSet {
    /// Reserves the pages and touches every one.
    pub fn new(reserve: u64) -> Self {
        let pages = (0..reserve).map(Page::new).collect();
        let versions = (0..reserve).map(|_| 0).collect();
        Self {
            pages: Mutex::new(Pages { pages, versions }),
            reserve,
        }
    }

    /// Returns the number of pages.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Writes `count` pages from `first` on, in a cycle within the first `span`; returns
    /// the page to go on with.
    pub fn write(&self, first: u64, count: u64, span: u64) -> u64 {
        let span = span.clamp(1, self.reserve);
        let mut next = first % span;
        let mut left = count;
        while left > 0 {
            let Ok(mut guard) = self.pages.lock() else {
                return next;
            };
            let Pages { pages, versions } = &mut *guard;
            for _ in 0..left.min(TURN) {
                let slot = next as usize;
                versions[slot] += 1;
                pages[slot].write(versions[slot]);
                next = (next + 1) % span;
            }
            left -= left.min(TURN);
        }
        next
    }

    /// Checks one page.
    ///
    /// # Errors
    /// With the kind of damage.
    pub fn check(&self, index: u64) -> Result<(), Damage> {
        let guard = self.pages.lock().map_err(|_| Damage::Content)?;
        let slot = index as usize;
        guard.pages[slot].check(index, guard.versions[slot])
    }
}
