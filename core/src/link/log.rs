//! The log: a ring of bytes the stub fills with defmt frames and dom0 drains.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The capacity of the log in bytes; a power of two.
pub const LOG_BYTES: usize = 16 << 10;

const MASK: u32 = LOG_BYTES as u32 - 1;

/// The half of the log that lies in shared memory.
#[repr(C, align(64))]
pub struct LogRing {
    produced: AtomicU32,
    lost: AtomicU32,
    _pad: [u32; 14],
    consumed: AtomicU32,
    _pad2: [u32; 15],
    bytes: [AtomicU8; LOG_BYTES],
}

#[cfg(any(test, feature = "test-support"))]
impl LogRing {
    /// An empty log in ordinary memory.
    pub const fn empty() -> Self {
        Self {
            produced: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            _pad: [0; 14],
            consumed: AtomicU32::new(0),
            _pad2: [0; 15],
            bytes: [const { AtomicU8::new(0) }; LOG_BYTES],
        }
    }
}

/// The stub's end. A log that is not drained loses bytes and counts them; it
/// never makes the stub wait.
pub struct LogWriter {
    next: u32,
}

impl LogWriter {
    /// The writing end of a log that is still empty.
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    /// Appends as many bytes as fit and counts the rest as lost.
    pub fn write(&mut self, log: &LogRing, bytes: &[u8]) {
        let consumed = log.consumed.load(Ordering::Acquire);
        for (done, byte) in (0_u32..).zip(bytes) {
            let slot = log.bytes.get((self.next & MASK) as usize);
            let (Some(slot), true) = (slot, self.next.wrapping_sub(consumed) <= MASK) else {
                let rest = (bytes.len() as u32).saturating_sub(done);
                log.lost.fetch_add(rest, Ordering::Relaxed);
                break;
            };
            slot.store(*byte, Ordering::Relaxed);
            self.next = self.next.wrapping_add(1);
        }
        log.produced.store(self.next, Ordering::Release);
    }
}

impl Default for LogWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// dom0's end of the log.
pub struct LogReader<'a> {
    log: &'a LogRing,
    next: u32,
}

impl<'a> LogReader<'a> {
    /// The reading end of a log from which nothing has been read yet.
    pub fn new(log: &'a LogRing) -> Self {
        Self { log, next: 0 }
    }

    /// Takes up to `buffer.len()` bytes and returns their number. An impossible producer
    /// index is treated as a full log: the bytes are then garbage, which the frame decoder
    /// is built to handle.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let produced = self.log.produced.load(Ordering::Acquire);
        let waiting = produced.wrapping_sub(self.next).min(LOG_BYTES as u32) as usize;
        let count = waiting.min(buffer.len());
        for byte in buffer.iter_mut().take(count) {
            if let Some(slot) = self.log.bytes.get((self.next & MASK) as usize) {
                *byte = slot.load(Ordering::Relaxed);
            }
            self.next = self.next.wrapping_add(1);
        }
        self.log.consumed.store(self.next, Ordering::Release);
        count
    }

    /// The number of bytes that the stub could not write so far.
    pub fn lost(&self) -> u32 {
        self.log.lost.load(Ordering::Relaxed)
    }
}
