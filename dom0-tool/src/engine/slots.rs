//! The batches under way. This module also checks that the frames of a round are those that
//! the hypervisor counted.

use std::sync::atomic::Ordering;

use lull_core::link::{SLOTS, WantedList};

use super::peer::ProtocolViolation;

/// The state of a slot's batch.
#[derive(Debug, Default)]
enum Slot {
    /// The slot holds no batch.
    #[default]
    Free,
    /// The window is mapped, and the stub copies these frames.
    Mapped { requested: u32, pfns: Vec<u64> },
    /// The payload waits to be written, or is being written.
    Writing { requested: u32, pages: u32 },
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

    /// Records that the frames of the slot are mapped.
    pub fn mapped(&mut self, slot: u8, requested: u32, pfns: Vec<u64>) {
        self.slots[usize::from(slot)] = Slot::Mapped { requested, pfns };
    }

    /// Records that the stub has copied the slot's frames, and returns the frames.
    pub fn filled(&mut self, slot: u8) -> Result<Vec<u64>, ProtocolViolation> {
        let state = &mut self.slots[usize::from(slot)];
        match std::mem::take(state) {
            Slot::Mapped { requested, pfns } => {
                let pages = pfns.len() as u32;
                self.filled = self.filled.saturating_add(requested.into());
                *state = Slot::Writing { requested, pages };
                Ok(pfns)
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

    /// Frees a slot whose payload is written. Returns the frames asked for and the pages
    /// written.
    pub fn written(&mut self, slot: usize) -> (u32, u32) {
        match std::mem::take(&mut self.slots[slot]) {
            Slot::Writing { requested, pages } => (requested, pages),
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

    #[test]
    fn an_honest_round_goes_through() {
        let mut slots = Slots::new(100);
        slots.start_round(3);
        assert!(slots.stub_is_busy());
        assert_eq!(slots.want(0, 2, &list(&[5, 7])).unwrap(), [5, 7]);
        assert_eq!(slots.want(1, 1, &list(&[99])).unwrap(), [99]);
        slots.scanned().unwrap();
        slots.mapped(0, 2, vec![5]);
        assert!(slots.stub_is_busy());
        assert_eq!(slots.filled(0).unwrap(), [5]);
        assert_eq!(slots.written(0), (2, 1));
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
        slots.mapped(0, 1, vec![1]);
        assert!(matches!(
            slots.want(0, 1, &list(&[2])),
            Err(ProtocolViolation::Slot(0))
        ));
        assert!(matches!(slots.filled(1), Err(ProtocolViolation::Slot(1))));
    }
}
