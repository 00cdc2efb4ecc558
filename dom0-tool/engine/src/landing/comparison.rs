//! The comparison of all memory for `--debug`, in a fast landing.

use crate::failure::Failure;

/// What the destination has found so far.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The number of pages to compare.
    pages: usize,
    /// The number of frames that differ.
    differing: u64,
    /// The first of them.
    first: u64,
}

impl Comparison {
    /// A comparison of so many pages, of which nothing is known.
    pub const fn of(pages: usize) -> Self {
        Self {
            pages,
            differing: 0,
            first: 0,
        }
    }

    /// Adds the answer to one batch: so many frames differ, beginning with `first`.
    pub fn add(&mut self, differing: u32, first: u64) {
        if differing > 0 && self.differing == 0 {
            self.first = first;
        }
        self.differing += u64::from(differing);
    }

    /// The result as a line for the log, once all is answered.
    ///
    /// # Errors
    /// When the destination's copy differs.
    pub fn result(&self) -> Result<String, Failure> {
        match self.differing {
            0 => Ok(format!(
                "{} pages compared with the destination's: all are equal, and no frame \
                 without a page has one there",
                self.pages
            )),
            differing => Err(Failure::Differ {
                differing,
                first: self.first,
            }),
        }
    }
}
