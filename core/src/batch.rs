//! Batch: up to [`BATCH_PAGES`] pfns that travel together.

use heapless::Vec;

use crate::units::Pfn;

/// Pfns in a batch at most: `MAX_BATCH_SIZE` of Xen's own sender
/// (`tools/libs/guest/xg_sr_common.h`, 4.17), so that the destination sees
/// records of the shape it is used to.
pub const BATCH_PAGES: usize = 1_024;

/// The number of batches that a small round is cut into. While one is copied, another is
/// written and a third put into place; as a single batch the round would do these one after
/// the other, inside the pause.
const PARTS: u64 = 4;

/// The pages of such a batch at least. Each batch costs a mapping and a round of messages.
const LEAST_PAGES: u64 = 64;

/// Returns the pages of each batch of a round with `dirty` pages.
pub const fn batch_pages(dirty: u64) -> usize {
    let part = dirty.div_ceil(PARTS);
    if part >= BATCH_PAGES as u64 {
        BATCH_PAGES
    } else if part > LEAST_PAGES {
        part as usize
    } else {
        LEAST_PAGES as usize
    }
}

/// The pfns of one record of the stream, strictly ascending when filled by
/// [`Scan::fill`](crate::bitmap::Scan::fill).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pfns: Vec<Pfn, BATCH_PAGES>,
    /// The number of pfns with which it counts as full, [`BATCH_PAGES`] at most.
    limit: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// A batch without pfns.
    pub const fn new() -> Self {
        Self {
            pfns: Vec::new(),
            limit: BATCH_PAGES,
        }
    }

    /// Sets the number of pfns with which the batch is full: 1 to [`BATCH_PAGES`].
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(1, BATCH_PAGES);
    }

    /// Appends `pfn`.
    ///
    /// # Errors
    /// Gives `pfn` back when the batch is full.
    pub fn push(&mut self, pfn: Pfn) -> Result<(), Pfn> {
        if self.is_full() {
            return Err(pfn);
        }
        self.pfns.push(pfn)
    }

    /// The pfns, in the order they were pushed.
    pub fn as_slice(&self) -> &[Pfn] {
        &self.pfns
    }

    /// How many pfns there are.
    pub fn len(&self) -> usize {
        self.pfns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pfns.is_empty()
    }

    /// Whether [`push`](Self::push) would fail.
    pub fn is_full(&self) -> bool {
        self.pfns.len() >= self.limit
    }

    /// Empties the batch, so that it can be filled again.
    pub fn clear(&mut self) {
        self.pfns.clear();
    }
}
