//! Batch: up to [`BATCH_PAGES`] pfns that travel together.

use heapless::Vec;

use crate::units::Pfn;

/// Pfns in a batch at most: `MAX_BATCH_SIZE` of Xen's own sender
/// (`tools/libs/guest/xg_sr_common.h`, 4.17), so that the destination sees
/// records of the shape it is used to.
pub const BATCH_PAGES: usize = 1_024;

/// The pfns of one record of the stream, strictly ascending when filled by
/// [`Scan::fill`](crate::bitmap::Scan::fill).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pfns: Vec<Pfn, BATCH_PAGES>,
}

impl Batch {
    /// A batch without pfns.
    pub const fn new() -> Self {
        Self { pfns: Vec::new() }
    }

    /// Appends `pfn`.
    ///
    /// # Errors
    /// Gives `pfn` back when the batch is full.
    pub fn push(&mut self, pfn: Pfn) -> Result<(), Pfn> {
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
        self.pfns.is_full()
    }

    /// Empties the batch, so that it can be filled again.
    pub fn clear(&mut self) {
        self.pfns.clear();
    }
}
