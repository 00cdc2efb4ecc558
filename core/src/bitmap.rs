//! The dirty bitmap: bit `n % 64` of word `n / 64` is pfn `n`, as
//! `XEN_DOMCTL_SHADOW_OP_CLEAN` writes it on a little-endian machine.

use core::{num::NonZeroU64, slice::ChunksExact};

use bitvec::{order::Lsb0, slice::BitSlice};

use crate::{batch::Batch, units::Pfn};

const BITS: u64 = 64;

/// Words tested at once while skipping clean memory: one cache line. Away from dirty pages
/// the loop itself would otherwise cost more than the memory reads.
const RUN: usize = 8;
const LONG_RUN: usize = 2 * RUN;

/// A dirty bitmap that covers a given number of pfns. It borrows the words in place.
///
/// Bits past the last pfn are never read: the hypervisor does not write them, so they hold
/// stale values.
#[derive(Debug, Clone, Copy)]
pub struct Bitmap<'a> {
    /// The words of which every bit stands for a pfn.
    whole: &'a [u64],
    /// The partial last word; its bits past the last pfn are cleared.
    last: u64,
    /// All words that hold at least one pfn, for the typed view.
    words: &'a [u64],
    nr_pfns: u64,
}

/// The slice has fewer bits than the bitmap needs to cover all pfns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BitmapTooShort;

impl core::fmt::Display for BitmapTooShort {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the bitmap has fewer bits than the guest has pfns")
    }
}

impl core::error::Error for BitmapTooShort {}

impl<'a> Bitmap<'a> {
    /// The first `nr_pfns` bits of `words`. Words past them are ignored.
    ///
    /// # Errors
    /// When `words` holds fewer than `nr_pfns` bits.
    pub fn new(words: &'a [u64], nr_pfns: u64) -> Result<Self, BitmapTooShort> {
        let index = |n: u64| usize::try_from(n).map_err(|_| BitmapTooShort);
        let words = words
            .get(..index(nr_pfns.div_ceil(BITS))?)
            .ok_or(BitmapTooShort)?;
        let (whole, last) = words
            .split_at_checked(index(nr_pfns / BITS)?)
            .ok_or(BitmapTooShort)?;
        let last = last.first().map_or(0, |word| word & below(nr_pfns % BITS));
        Ok(Self {
            whole,
            last,
            words,
            nr_pfns,
        })
    }

    /// The number of pfns covered, dirty or not.
    pub const fn nr_pfns(&self) -> u64 {
        self.nr_pfns
    }

    /// The number of dirty pages, that is of bits set.
    pub fn dirty_count(&self) -> u64 {
        self.whole
            .iter()
            .chain(core::iter::once(&self.last))
            .fold(0, |sum: u64, word| {
                sum.saturating_add(u64::from(word.count_ones()))
            })
    }

    /// Whether `pfn` is dirty. A pfn past the end is not.
    pub fn is_dirty(&self, pfn: Pfn) -> bool {
        usize::try_from(pfn.0)
            .ok()
            .and_then(|index| self.bits()?.get(index).map(|bit| *bit))
            .unwrap_or(false)
    }

    /// A typed view for everything outside the hot loop. `None` for a bitmap longer than
    /// `bitvec` can address (2^61 bits).
    pub fn bits(&self) -> Option<&'a BitSlice<u64, Lsb0>> {
        let end = usize::try_from(self.nr_pfns).ok()?;
        BitSlice::try_from_slice(self.words).ok()?.get(..end)
    }
}

/// A mask of the `count` lowest bits; all bits for 64 and more.
const fn below(count: u64) -> u64 {
    match NonZeroU64::new(BITS.saturating_sub(count)) {
        Some(unused) if count > 0 => u64::MAX >> (unused.get() % BITS),
        Some(_) => 0,
        None => u64::MAX,
    }
}

fn is_clean(words: &[u64]) -> bool {
    words.iter().fold(0, |any, word| any | word) == 0
}

/// Skips clean runs and returns the next run that has a dirty bit.
fn next_dirty<'a>(runs: &mut ChunksExact<'a, u64>) -> Option<&'a [u64]> {
    runs.find(|run| !is_clean(run))
}

/// Whether a scan has anything left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// The batch is full; there may be more.
    BatchFull,
    /// Every dirty pfn was handed out.
    Done,
}

/// The position of a scan. It does not borrow the bitmap, which must not change between the
/// first and the last [`fill`](Self::fill) of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Scan {
    /// Every pfn below this one has been scanned.
    next: u64,
}

impl Scan {
    /// A scan that starts at the first pfn.
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    /// Appends dirty pfns to `batch` until it is full or none are left, in
    /// strictly ascending order, each exactly once over the whole scan.
    ///
    /// Costs one pass over the words scanned plus a step per dirty pfn.
    pub fn fill(&mut self, bitmap: &Bitmap<'_>, batch: &mut Batch) -> Progress {
        let from = usize::try_from(self.next / BITS).unwrap_or(usize::MAX);
        let mut words = bitmap.whole.get(from..).unwrap_or(&[]);

        // The rest of the word in which the last batch ended.
        if !self.next.is_multiple_of(BITS)
            && let Some((word, rest)) = words.split_first()
        {
            words = rest;
            let seen = below(self.next % BITS);
            if self.word(word & !seen, batch) == Progress::BatchFull {
                return Progress::BatchFull;
            }
        }

        let mut runs = words.chunks_exact(LONG_RUN);
        while let Some(long_run) = next_dirty(&mut runs) {
            let behind = runs.len().saturating_mul(LONG_RUN);
            let after = behind.saturating_add(runs.remainder().len());
            let end = bitmap.whole.len().saturating_sub(after);
            self.next = (end.saturating_sub(LONG_RUN) as u64).saturating_mul(BITS);
            for run in long_run.chunks_exact(RUN) {
                let end = self.next.saturating_add(BITS.saturating_mul(RUN as u64));
                if !is_clean(run) && self.run(run, batch) == Progress::BatchFull {
                    return Progress::BatchFull;
                }
                self.next = end;
            }
        }
        let rest = runs.remainder();
        let start = bitmap.whole.len().saturating_sub(rest.len());
        self.next = self.next.max((start as u64).saturating_mul(BITS));
        for word in rest {
            if self.word(*word, batch) == Progress::BatchFull {
                return Progress::BatchFull;
            }
        }

        if self.next < bitmap.nr_pfns {
            let seen = below(self.next % BITS);
            if self.word(bitmap.last & !seen, batch) == Progress::BatchFull {
                return Progress::BatchFull;
            }
        }
        Progress::Done
    }

    /// Takes the bits of a dirty run; pfn `next` lies in its first word. Leaves `next`
    /// somewhere in the run unless the batch is full.
    #[inline(always)]
    fn run(&mut self, run: &[u64], batch: &mut Batch) -> Progress {
        let first = self.next;
        for (word, base) in run.iter().zip((first..).step_by(BITS as usize)) {
            if *word != 0 {
                self.next = base;
                if self.word(*word, batch) == Progress::BatchFull {
                    return Progress::BatchFull;
                }
            }
        }
        Progress::Done
    }

    /// Takes the bits of `word`, which contains pfn `next`, and moves `next` past it.
    #[inline(always)]
    fn word(&mut self, mut word: u64, batch: &mut Batch) -> Progress {
        let base = self.next & !(BITS - 1);
        while word != 0 {
            let pfn = base | u64::from(word.trailing_zeros());
            if batch.push(Pfn(pfn)).is_err() {
                self.next = pfn;
                return Progress::BatchFull;
            }
            word &= word.wrapping_sub(1);
        }
        self.next = base.saturating_add(BITS);
        Progress::Done
    }
}
