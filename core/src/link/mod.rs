//! The link between dom0 and the stub: one layout that both are built from.
//!
//! ```text
//! dom0 writes            pages of the stub, mapped by both           stub writes
//! ───────────            ─────────────────────────────────           ───────────
//! config, to_stub ring   Link                                        to_dom0 ring, log, crash, zero pages
//! dirty bitmap           BITMAP_VA    one bit a pfn
//! PTEs (not contents)    WINDOW_VA    1,024 read-only frames a slot
//!                        PAYLOAD_VA   1,024 pages a slot             copies of the guest's pages
//! ```
//!
//! Everything shared is an atomic, so neither side can be made to read torn or
//! cached values by the other. Each side keeps its own ring index to itself:
//! what the peer wrote is an allegation until it has been checked here.
//!
//! The stub edits no page table and needs no address from dom0: the places are
//! constants, dom0's domain builder makes them so.

mod config;
mod crash;
mod log;
mod message;
mod ring;

use core::sync::atomic::AtomicU64;

pub use config::{Settings, Startup};
pub use crash::{CrashKind, CrashRecord, Registers, TEXT_BYTES as CRASH_TEXT_BYTES};
pub use log::{LOG_BYTES, LogReader, LogRing, LogWriter};
pub use message::{ActionKind, BadMessage, ToDom0, ToStub};
pub use ring::{Consumer, Corrupt, Full, Producer, RING_ENTRIES, Ring, Words};

use crate::batch::BATCH_PAGES;

/// The layout version, in the link's header and in the stub's ELF note. dom0 rejects a stub
/// of any other version.
pub const VERSION: u64 = 11;

/// First word of the link: "lulllink", little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"lulllink");

/// The number of batches in flight, which lets mapping, copying and writing overlap.
pub const SLOTS: usize = 4;

/// The start of the image (the linker script's base). The pages below are not mapped, so a
/// null pointer faults.
pub const IMAGE_VA: u64 = 0x10_0000;
/// The largest size of the loaded image, in bytes.
pub const IMAGE_BYTES_MAX: u64 = 128 << 10;
/// The end of the boot stack. The page below the stack is not mapped.
pub const STACK_END_VA: u64 = 0x30_0000;
/// The size of the stack in bytes.
pub const STACK_BYTES: u64 = 32 << 10;
/// The stub's shared_info page, provided by Xen.
pub const SHARED_INFO_VA: u64 = 0x40_0000;
/// The address of the [`Link`].
pub const LINK_VA: u64 = 0x50_0000;
/// The dirty bitmap: bit n of 64-bit word w is pfn 64 w + n.
pub const BITMAP_VA: u64 = 0x4000_0000;
/// The largest size of the bitmap in bytes: 512 MiB cover a guest of 16 TiB.
pub const BITMAP_BYTES_MAX: u64 = 512 << 20;
/// The windows onto the guest's frames, one per slot, back to back.
pub const WINDOW_VA: u64 = 0x8000_0000;
/// The payload slots, back to back.
pub const PAYLOAD_VA: u64 = 0xc000_0000;
/// The size of a window or payload slot in bytes: one batch of pages.
pub const SLOT_BYTES: u64 = BATCH_PAGES as u64 * crate::units::PAGE_SIZE;

/// The shared control pages, at [`LINK_VA`] in the stub.
#[repr(C, align(4096))]
pub struct Link {
    /// Written by dom0 before the stub starts, and constant from then on.
    pub settings: Settings,
    /// Events, produced by dom0.
    pub to_stub: Ring,
    /// Actions and batches, produced by the stub.
    pub to_dom0: Ring,
    /// Written once by the stub before it dies.
    pub crash: CrashRecord,
    /// Frames of defmt, produced by the stub.
    pub log: LogRing,
    /// The pfns the stub wants in each slot's window.
    pub wanted: [WantedList; SLOTS],
    /// The zero pages of each slot's window, written by the stub.
    pub zeros: [ZeroPages; SLOTS],
}

/// The frames of one batch that the stub wants mapped.
#[repr(C, align(4096))]
pub struct WantedList {
    /// The pfns, strictly ascending through a round.
    pub pfns: [AtomicU64; BATCH_PAGES],
}

/// Which pages of a slot's window are all zero, if dom0 has asked for it.
#[repr(C)]
pub struct ZeroPages {
    /// Bit n of word w stands for page 64 w + n of the window.
    pub words: [AtomicU64; BATCH_PAGES / 64],
}

#[cfg(any(test, feature = "test-support"))]
impl Link {
    /// An unused link in ordinary memory.
    pub const fn empty() -> Self {
        Self {
            settings: Settings::empty(),
            to_stub: Ring::empty(),
            to_dom0: Ring::empty(),
            crash: CrashRecord::empty(),
            log: LogRing::empty(),
            wanted: [const {
                WantedList {
                    pfns: [const { AtomicU64::new(0) }; BATCH_PAGES],
                }
            }; SLOTS],
            zeros: [const {
                ZeroPages {
                    words: [const { AtomicU64::new(0) }; BATCH_PAGES / 64],
                }
            }; SLOTS],
        }
    }
}

/// The size of a [`Link`] in pages.
pub const LINK_PAGES: u64 = size_of::<Link>() as u64 / crate::units::PAGE_SIZE;

const _: () = assert!(size_of::<Link>().is_multiple_of(4096));
const _: () = assert!(IMAGE_VA + IMAGE_BYTES_MAX <= STACK_END_VA - STACK_BYTES - 4096);
const _: () = assert!(LINK_VA + size_of::<Link>() as u64 <= BITMAP_VA);
const _: () = assert!(BITMAP_VA + BITMAP_BYTES_MAX <= WINDOW_VA);
const _: () = assert!(WINDOW_VA + SLOTS as u64 * SLOT_BYTES <= PAYLOAD_VA);
const _: () = assert!(PAYLOAD_VA + SLOTS as u64 * SLOT_BYTES <= 1 << 32);
