//! A single-producer, single-consumer ring of fixed messages.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The number of messages a ring holds; a power of two.
pub const RING_ENTRIES: usize = 64;

const MASK: u32 = RING_ENTRIES as u32 - 1;

/// A message as it is stored in a ring.
pub type Words = [u64; 4];

/// The half of a ring that lies in shared memory. The indices run freely; entry `i & 63`
/// holds message `i`.
#[repr(C, align(64))]
pub struct Ring {
    produced: AtomicU32,
    /// Keeps the two indices in different cache lines.
    _pad: [u32; 15],
    consumed: AtomicU32,
    _pad2: [u32; 15],
    entries: [[AtomicU64; 4]; RING_ENTRIES],
}

#[cfg(any(test, feature = "test-support"))]
impl Ring {
    /// A ring in ordinary memory, from which nothing has been read.
    pub const fn empty() -> Self {
        Self {
            produced: AtomicU32::new(0),
            _pad: [0; 15],
            consumed: AtomicU32::new(0),
            _pad2: [0; 15],
            entries: [const { [const { AtomicU64::new(0) }; 4] }; RING_ENTRIES],
        }
    }
}

/// The ring is full. Returns the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub Words);

/// The peer's index is impossible. The ring must not be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// The writing end. Its own index is private, so the peer cannot change it.
pub struct Producer<'a> {
    ring: &'a Ring,
    next: u32,
}

impl<'a> Producer<'a> {
    /// The writing end of a ring that is still empty.
    pub fn new(ring: &'a Ring) -> Self {
        Self { ring, next: 0 }
    }

    /// The number of messages that fit now, going by the peer's index.
    pub fn room(&self) -> usize {
        let consumed = self.ring.consumed.load(Ordering::Acquire);
        RING_ENTRIES.saturating_sub(self.next.wrapping_sub(consumed) as usize)
    }

    /// Appends a message and publishes it. If the peer claims to have consumed more than
    /// was produced, the ring counts as full from then on.
    pub fn push(&mut self, words: Words) -> Result<(), Full> {
        let consumed = self.ring.consumed.load(Ordering::Acquire);
        if self.next.wrapping_sub(consumed) > MASK {
            return Err(Full(words));
        }
        let Some(entry) = self.ring.entries.get((self.next & MASK) as usize) else {
            return Err(Full(words));
        };
        for (slot, word) in entry.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.next = self.next.wrapping_add(1);
        self.ring.produced.store(self.next, Ordering::Release);
        Ok(())
    }
}

/// The reading end. Its own index is private, so the peer cannot change it.
pub struct Consumer<'a> {
    ring: &'a Ring,
    next: u32,
}

impl<'a> Consumer<'a> {
    /// The reading end of a ring from which nothing has been read yet.
    pub fn new(ring: &'a Ring) -> Self {
        Self { ring, next: 0 }
    }

    /// Takes the oldest message, if there is one.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer claims more messages than the ring holds.
    pub fn pop(&mut self) -> Result<Option<Words>, Corrupt> {
        let produced = self.ring.produced.load(Ordering::Acquire);
        let waiting = produced.wrapping_sub(self.next);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > RING_ENTRIES as u32 {
            return Err(Corrupt);
        }
        let entry = self
            .ring
            .entries
            .get((self.next & MASK) as usize)
            .ok_or(Corrupt)?;
        let mut words = [0; 4];
        for (word, slot) in words.iter_mut().zip(entry) {
            *word = slot.load(Ordering::Relaxed);
        }
        self.next = self.next.wrapping_add(1);
        self.ring.consumed.store(self.next, Ordering::Release);
        Ok(Some(words))
    }

    /// Whether the ring is empty. A pending message is not taken.
    pub fn is_empty(&self) -> bool {
        self.ring.produced.load(Ordering::Acquire) == self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_in_order_and_a_full_ring_gives_the_message_back() {
        let ring = Ring::empty();
        let (mut tx, mut rx) = (Producer::new(&ring), Consumer::new(&ring));
        for lap in 0..5_u64 {
            for i in 0..RING_ENTRIES as u64 {
                assert_eq!(tx.push([lap, i, 0, 7]), Ok(()));
            }
            assert_eq!(tx.push([9; 4]), Err(Full([9; 4])));
            for i in 0..RING_ENTRIES as u64 {
                assert_eq!(rx.pop(), Ok(Some([lap, i, 0, 7])));
            }
            assert_eq!(rx.pop(), Ok(None));
        }
    }

    #[test]
    fn a_lying_producer_is_noticed() {
        let ring = Ring::empty();
        let mut rx = Consumer::new(&ring);
        ring.produced.store(65, Ordering::Relaxed);
        assert_eq!(rx.pop(), Err(Corrupt));
    }

    #[test]
    fn a_lying_consumer_gains_no_room() {
        let ring = Ring::empty();
        let mut tx = Producer::new(&ring);
        ring.consumed.store(1, Ordering::Relaxed);
        assert_eq!(tx.push([1; 4]), Err(Full([1; 4])));
    }
}
