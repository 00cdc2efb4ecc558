//! The batches under way. This module also checks that the frames of a round are those that
//! the hypervisor counted.

use std::sync::atomic::Ordering;

use lull_core::link::{SLOTS, WantedList, ZeroPages};

use super::peer::ProtocolViolation;

/// The state of a slot's batch.
#[derive(Debug, Default)]
enum Slot {
    /// The slot holds no batch.
    #[default]
    Free,
    /// The window is mapped, and the stub copies these frames. The request says whether it
    /// marks those that are all zero.
    Mapped {
        requested: u32,
        pfns: Vec<u64>,
        marks_zeros: bool,
    },
    /// The payload waits to be written, or is being written.
    Writing {
        requested: u32,
        pages: u32,
        zeros: u32,
    },
}

/// The frames that the stub has copied, in ascending order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The frames whose pages are in the payload, in this order.
    pub pages: Vec<u64>,
    /// The frames whose pages are all zero.
    pub zeros: Vec<u64>,
}

/// How a batch was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The number of frames that the stub had asked for.
    pub requested: u32,
    /// The number of those whose pages were sent.
    pub pages: u32,
    /// The number of those that are all zero.
    pub zeros: u32,
}

/// All slots, and the progress of the round they belong to.
pub struct Slots {
    slots: [Slot; SLOTS],
    guest_pfns: u64,
    /// The number of bits set in the round's bitmap.
    round_pages: u64,
    /// The number of frames that the stub has asked for in this round.
    requested: u64,
    /// The next frame that the stub may ask for. All frames below it are done in this
    /// round.
    next_pfn: u64,
    /// Whether the stub still has to ask for frames of this round.
    scanning: bool,
    /// The number of frames that the stub has dealt with in all rounds.
    filled: u64,
}

impl Slots {
    /// All slots free, before the first round.
    pub fn new(guest_pfns: u64) -> Self {
        Self {
            slots: Default::default(),
            guest_pfns,
            round_pages: 0,
            requested: 0,
            next_pfn: 0,
            scanning: false,
            filled: 0,
        }
    }

    /// The number of frames that the stub has dealt with in all rounds.
    pub const fn filled_in_all(&self) -> u64 {
        self.filled
    }

    /// Starts a round of `pages` frames.
    pub fn start_round(&mut self, pages: u64) {
        self.round_pages = pages;
        self.requested = 0;
        self.next_pfn = 0;
        self.scanning = pages > 0;
    }

    /// Copies the list of frames that the stub wants out of shared memory, and checks it.
    /// The frames must lie within the guest and ascend strictly through the round. There
    /// must be no more of them than were counted.
    pub fn want(
        &mut self,
        slot: u8,
        count: u32,
        list: &WantedList,
    ) -> Result<Vec<u64>, ProtocolViolation> {
        if !matches!(self.slots[usize::from(slot)], Slot::Free) {
            return Err(ProtocolViolation::Slot(slot));
        }
        let pfns: Vec<u64> = list
            .pfns
            .iter()
            .take(count as usize)
            .map(|pfn| pfn.load(Ordering::Relaxed))
            .collect();
        for pfn in &pfns {
            if *pfn < self.next_pfn || *pfn >= self.guest_pfns {
                return Err(ProtocolViolation::Frame(*pfn));
            }
            self.next_pfn = pfn + 1;
        }
        self.requested += u64::from(count);
        if !self.scanning || self.requested > self.round_pages {
            return Err(self.count_is_off());
        }
        Ok(pfns)
    }

    /// Records that the frames of the slot are mapped, and whether the stub is to mark those
    /// that are all zero.
    pub fn mapped(&mut self, slot: u8, requested: u32, pfns: Vec<u64>, marks_zeros: bool) {
        self.slots[usize::from(slot)] = Slot::Mapped {
            requested,
            pfns,
            marks_zeros,
        };
    }

    /// Records that the stub has copied the slot's frames, and returns the frames. The marks
    /// are copied out of shared memory once; those beyond the batch have no meaning.
    pub fn filled(&mut self, slot: u8, zeros: &ZeroPages) -> Result<Copied, ProtocolViolation> {
        let state = &mut self.slots[usize::from(slot)];
        match std::mem::take(state) {
            Slot::Mapped {
                requested,
                pfns,
                marks_zeros,
            } => {
                let copied = match marks_zeros {
                    true => split(pfns, zeros),
                    false => Copied {
                        pages: pfns,
                        zeros: Vec::new(),
                    },
                };
                self.filled = self.filled.saturating_add(requested.into());
                *state = Slot::Writing {
                    requested,
                    pages: copied.pages.len() as u32,
                    zeros: copied.zeros.len() as u32,
                };
                Ok(copied)
            }
            other => {
                *state = other;
                Err(ProtocolViolation::Slot(slot))
            }
        }
    }

    /// Whether the slot holds no batch.
    pub fn is_free(&self, slot: usize) -> bool {
        matches!(self.slots[slot], Slot::Free)
    }

    /// Frees a slot whose payload is written.
    pub fn written(&mut self, slot: usize) -> Batch {
        match std::mem::take(&mut self.slots[slot]) {
            Slot::Writing {
                requested,
                pages,
                zeros,
            } => Batch {
                requested,
                pages,
                zeros,
            },
            _ => unreachable!("only payload being written gets written"),
        }
    }

    /// Records that the stub has scanned the bitmap to its end.
    pub fn scanned(&mut self) -> Result<(), ProtocolViolation> {
        if !self.scanning || self.requested != self.round_pages {
            return Err(self.count_is_off());
        }
        self.scanning = false;
        Ok(())
    }

    fn count_is_off(&self) -> ProtocolViolation {
        ProtocolViolation::Count {
            asked: self.requested,
            counted: self.round_pages,
        }
    }

    /// Whether the stub has work to do: a window to copy, or more of the bitmap to scan.
    pub fn stub_is_busy(&self) -> bool {
        let any = |wanted: fn(&Slot) -> bool| self.slots.iter().any(wanted);
        any(|slot| matches!(slot, Slot::Mapped { .. }))
            || (self.scanning && any(|slot| matches!(slot, Slot::Free)))
    }
}

/// Splits the frames of a window by the stub's marks.
fn split(pfns: Vec<u64>, marks: &ZeroPages) -> Copied {
    let marks = marks.words.iter().map(|word| word.load(Ordering::Relaxed));
    let mut copied = Copied::default();
    for (pfns, marks) in pfns.chunks(64).zip(marks) {
        for (bit, pfn) in pfns.iter().enumerate() {
            match marks >> bit & 1 {
                0 => copied.pages.push(*pfn),
                _ => copied.zeros.push(*pfn),
            }
        }
    }
    copied
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn list(pfns: &[u64]) -> WantedList {
        let list = WantedList {
            pfns: [const { AtomicU64::new(0) }; 1024],
        };
        for (to, from) in list.pfns.iter().zip(pfns) {
            to.store(*from, Ordering::Relaxed);
        }
        list
    }

    fn marks(words: &[u64]) -> ZeroPages {
        let marks = ZeroPages {
            words: [const { AtomicU64::new(0) }; 16],
        };
        for (to, from) in marks.words.iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
        marks
    }

    #[test]
    fn frames_that_are_zero_are_told_from_the_others() {
        let mut slots = Slots::new(1_000);
        let pfns: Vec<u64> = (100..200).collect();
        let words = [1 << 63 | 0b110, 1 << 35 | 1 << 36, 7];
        for marks_zeros in [true, false] {
            slots.start_round(100);
            slots.want(0, 100, &list(&pfns)).unwrap();
            slots.mapped(0, 100, pfns.clone(), marks_zeros);
            let copied = slots.filled(0, &marks(&words)).unwrap();
            // Page 100 of the window, which was marked too, holds no frame.
            let zeros = if marks_zeros {
                vec![101, 102, 163, 199]
            } else {
                vec![]
            };
            let mut pages = pfns.clone();
            pages.retain(|pfn| !zeros.contains(pfn));
            let batch = Batch {
                requested: 100,
                pages: pages.len() as u32,
                zeros: zeros.len() as u32,
            };
            assert_eq!(copied, Copied { pages, zeros });
            assert_eq!(slots.written(0), batch);
        }
    }

    #[test]
    fn an_honest_round_goes_through() {
        let mut slots = Slots::new(100);
        slots.start_round(3);
        assert!(slots.stub_is_busy());
        assert_eq!(slots.want(0, 2, &list(&[5, 7])).unwrap(), [5, 7]);
        assert_eq!(slots.want(1, 1, &list(&[99])).unwrap(), [99]);
        slots.scanned().unwrap();
        slots.mapped(0, 2, vec![5], false);
        assert!(slots.stub_is_busy());
        assert_eq!(slots.filled(0, &marks(&[])).unwrap().pages, [5]);
        assert_eq!(slots.written(0).requested, 2);
        assert!(!slots.stub_is_busy());
    }

    #[test]
    fn frames_twice_backwards_outside_or_too_many_are_lies() {
        let fresh = || {
            let mut slots = Slots::new(100);
            slots.start_round(2);
            slots
        };
        assert!(matches!(
            fresh().want(0, 2, &list(&[7, 7])),
            Err(ProtocolViolation::Frame(7))
        ));
        assert!(matches!(
            fresh().want(0, 2, &list(&[7, 6])),
            Err(ProtocolViolation::Frame(6))
        ));
        assert!(matches!(
            fresh().want(0, 1, &list(&[100])),
            Err(ProtocolViolation::Frame(100))
        ));
        assert!(matches!(
            fresh().want(0, 1, &list(&[u64::MAX])),
            Err(ProtocolViolation::Frame(_))
        ));
        assert!(matches!(
            fresh().want(0, 3, &list(&[1, 2, 3])),
            Err(ProtocolViolation::Count { .. })
        ));
        let mut slots = fresh();
        slots.want(0, 1, &list(&[7])).unwrap();
        assert!(matches!(
            slots.want(1, 1, &list(&[7])),
            Err(ProtocolViolation::Frame(7))
        ));
        assert!(matches!(
            slots.scanned(),
            Err(ProtocolViolation::Count {
                asked: 1,
                counted: 2
            })
        ));
    }

    #[test]
    fn a_slot_in_use_is_not_given_twice_and_one_not_mapped_is_not_filled() {
        let mut slots = Slots::new(100);
        slots.start_round(10);
        slots.want(0, 1, &list(&[1])).unwrap();
        slots.mapped(0, 1, vec![1], false);
        assert!(matches!(
            slots.want(0, 1, &list(&[2])),
            Err(ProtocolViolation::Slot(0))
        ));
        assert!(matches!(
            slots.filled(1, &marks(&[])),
            Err(ProtocolViolation::Slot(1))
        ));
    }
}
