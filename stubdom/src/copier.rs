//! A round under way: it scans, requests frames, and copies pages.

use core::sync::atomic::Ordering;

use lull_core::batch::{BATCH_PAGES, Batch, batch_pages};
use lull_core::bitmap::{Bitmap, Progress, Scan};
use lull_core::link::{CrashKind, Link, SLOTS, ToDom0, ZeroPages};

use crate::abi::memory;
use crate::crash::die;

/// The state of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    /// dom0 is mapping the frames that were requested.
    Wanted,
    /// dom0 is writing the payload to the stream.
    Filled,
}

/// Scans the bitmap of the round and keeps every slot busy.
pub struct Copier {
    slots: [Slot; SLOTS],
    bitmap_words: usize,
    guest_pfns: u64,
    /// `None` when the bitmap has been scanned to its end.
    scan: Option<Scan>,
    batch: Batch,
}

impl Copier {
    /// Returns a copier without a bitmap.
    pub fn new(guest_pfns: u64) -> Self {
        Self {
            slots: [Slot::Free; SLOTS],
            bitmap_words: guest_pfns.div_ceil(64) as usize,
            guest_pfns,
            scan: None,
            batch: Batch::new(),
        }
    }

    /// Starts on the bitmap that dom0 has put in place; `pages` of its bits are set.
    pub fn start(&mut self, pages: u64) {
        self.batch.set_limit(batch_pages(pages));
        self.scan = Some(Scan::new());
    }

    /// Scans for as long as a slot is free and asks dom0 for the frames found.
    pub fn want(&mut self, link: &Link, mut send: impl FnMut(ToDom0)) {
        while let Some(scan) = &mut self.scan {
            let Some(slot) = self.slots.iter().position(|slot| *slot == Slot::Free) else {
                return;
            };
            let words = memory::bitmap(self.bitmap_words);
            let Ok(bitmap) = Bitmap::new(words, self.guest_pfns) else {
                die(CrashKind::Link, format_args!("the bitmap is too short"));
            };
            self.batch.clear();
            let progress = scan.fill(&bitmap, &mut self.batch);
            let pfns = self.batch.as_slice();
            if !pfns.is_empty() {
                for (wanted, pfn) in link.wanted[slot].pfns.iter().zip(pfns) {
                    wanted.store(pfn.0, Ordering::Relaxed);
                }
                self.slots[slot] = Slot::Wanted;
                send(ToDom0::Map {
                    slot: slot as u8,
                    count: pfns.len() as u32,
                });
            }
            if progress == Progress::Done {
                self.scan = None;
                send(ToDom0::Scanned);
            }
        }
    }

    /// Copies the pages that dom0 has mapped. Pages that are all zero are marked in `zeros`
    /// instead, if dom0 has asked for it.
    pub fn copy(&mut self, slot: u8, pages: u32, zeros: Option<&ZeroPages>) -> ToDom0 {
        self.expect(slot, Slot::Wanted);
        let pages = (pages as usize).min(BATCH_PAGES);
        match zeros {
            None => memory::copy_pages(usize::from(slot), 0, 0, pages),
            Some(zeros) => copy_but_zeros(usize::from(slot), pages, zeros),
        }
        self.slots[usize::from(slot)] = Slot::Filled;
        ToDom0::Filled { slot }
    }

    /// Frees a slot whose payload has been written.
    pub fn free(&mut self, slot: u8) {
        self.expect(slot, Slot::Filled);
        self.slots[usize::from(slot)] = Slot::Free;
    }

    fn expect(&self, slot: u8, state: Slot) {
        if self.slots[usize::from(slot)] != state {
            die(
                CrashKind::Link,
                format_args!("slot {slot} is not in that state"),
            );
        }
    }
}

/// Copies the pages that are not all zero, one behind the other, and marks the others. A
/// page that the guest writes after it was found to be zero is dirty again, and is looked at
/// again in the next round.
fn copy_but_zeros(slot: usize, pages: usize, zeros: &ZeroPages) {
    let mut copied = 0;
    for (word, first) in zeros.words.iter().zip((0..).step_by(64)) {
        let mut marks = 0_u64;
        for page in first..pages.min(first + 64) {
            if memory::is_zero(slot, page) {
                marks |= 1 << (page - first);
            } else {
                memory::copy_pages(slot, page, copied, 1);
                copied += 1;
            }
        }
        word.store(marks, Ordering::Relaxed);
    }
}
