//! The crash record: a documented binary interface between a dying stub and
//! dom0, which prints it.

use core::sync::atomic::{AtomicU64, Ordering};

/// The most bytes of text that a record holds.
pub const TEXT_BYTES: usize = 512;

/// What the stub leaves behind. All words are little-endian 64-bit:
///
/// | word | meaning |
/// |---|---|
/// | 0 | kind: 0 none, 1 panic, 2 fault, 3 link broken |
/// | 1..=6 | vector, error code, rip, rsp, rflags, fault address |
/// | 7 | bytes of text |
/// | 8..72 | UTF-8 text |
#[repr(C, align(64))]
pub struct CrashRecord {
    kind: AtomicU64,
    registers: [AtomicU64; 6],
    text_len: AtomicU64,
    text: [AtomicU64; TEXT_BYTES / 8],
}

#[cfg(any(test, feature = "test-support"))]
impl CrashRecord {
    /// The record of a stub that lives, in ordinary memory.
    pub const fn empty() -> Self {
        Self {
            kind: AtomicU64::new(0),
            registers: [const { AtomicU64::new(0) }; 6],
            text_len: AtomicU64::new(0),
            text: [const { AtomicU64::new(0) }; TEXT_BYTES / 8],
        }
    }
}

/// Why the stub died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashKind {
    /// The stub's own code panicked.
    Panic,
    /// The processor raised an exception in the stub.
    Fault,
    /// dom0 sent a message that is not valid.
    Link,
}

/// The processor state at a fault; zero otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// The exception's vector, 14 for a page fault.
    pub vector: u64,
    /// The error code of the exception.
    pub error: u64,
    /// The address of the instruction that faulted.
    pub rip: u64,
    /// The stack pointer at the fault.
    pub rsp: u64,
    /// The processor flags at the fault.
    pub rflags: u64,
    /// The address that faulted (`cr2` as Xen keeps it), for a page fault.
    pub address: u64,
}

impl CrashRecord {
    /// Writes the record; text beyond 512 bytes is cut. The kind is written last.
    pub fn write(&self, kind: CrashKind, registers: Registers, text: &[u8]) {
        let r = registers;
        let values = [r.vector, r.error, r.rip, r.rsp, r.rflags, r.address];
        for (slot, value) in self.registers.iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
        let kept = text.len().min(TEXT_BYTES);
        self.text_len.store(kept as u64, Ordering::Relaxed);
        for (slot, bytes) in self.text.iter().zip(text.chunks(8)) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            slot.store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
        let kind = match kind {
            CrashKind::Panic => 1,
            CrashKind::Fault => 2,
            CrashKind::Link => 3,
        };
        self.kind.store(kind, Ordering::Release);
    }

    /// Reads the record: its kind, the registers, and the number of bytes of text copied
    /// into `text`. `None` if there is no record or its kind is unknown.
    pub fn read(&self, text: &mut [u8; TEXT_BYTES]) -> Option<(CrashKind, Registers, usize)> {
        let kind = match self.kind.load(Ordering::Acquire) {
            1 => CrashKind::Panic,
            2 => CrashKind::Fault,
            3 => CrashKind::Link,
            _ => return None,
        };
        for (to, from) in text.chunks_mut(8).zip(&self.text) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes());
        }
        let [vector, error, rip, rsp, rflags, address] = &self.registers;
        let registers = Registers {
            vector: vector.load(Ordering::Relaxed),
            error: error.load(Ordering::Relaxed),
            rip: rip.load(Ordering::Relaxed),
            rsp: rsp.load(Ordering::Relaxed),
            rflags: rflags.load(Ordering::Relaxed),
            address: address.load(Ordering::Relaxed),
        };
        let len = self.text_len.load(Ordering::Relaxed).min(TEXT_BYTES as u64) as usize;
        Some((kind, registers, len))
    }
}
