//! The event channel between the stub and dom0.

use core::sync::atomic::{AtomicU64, Ordering};

use lull_core::link::SHARED_INFO_VA;
use xen_sys::shared_info;

use super::hypercall::{self, Port};

/// The stub's end of the channel to dom0. Upcalls stay masked, so an event shows only as a
/// pending bit.
pub struct Channel {
    port: Port,
}

impl Channel {
    /// Returns the channel on `port`, which dom0 has set up.
    pub fn new(port: Port) -> Self {
        Self { port }
    }

    /// Notifies dom0 that there are messages to read.
    pub fn notify(&self) {
        hypercall::notify(self.port);
    }

    /// Sleeps until dom0 signals; returns at once if dom0 has signalled since the last
    /// [`Self::clear`].
    pub fn wait(&self) {
        hypercall::poll(self.port);
    }

    /// Clears a signal. It must be called before the stub looks for messages.
    pub fn clear(&self) {
        let bit = 1 << (self.port % 64);
        pending(self.port).fetch_and(!bit, Ordering::AcqRel);
    }
}

/// Returns the word of `evtchn_pending` with the bit of `port`.
fn pending(port: Port) -> &'static AtomicU64 {
    let info = SHARED_INFO_VA as *const shared_info;
    // SAFETY: the builder maps the page; the address of a field is taken, no
    // reference to the structure is made.
    let words = unsafe { &raw const (*info).evtchn_pending }.cast::<AtomicU64>();
    let word = (port / 64) as usize % 64;
    // SAFETY: the array has 64 words, shared with Xen, which changes them
    // atomically.
    unsafe { &*words.wrapping_add(word) }
}

/// Returns the address of the last page fault, which Xen stores for vCPU 0.
pub fn fault_address() -> u64 {
    let info = SHARED_INFO_VA as *const shared_info;
    // SAFETY: as in `pending`: the address of a field.
    let word = unsafe { &raw const (*info).vcpu_info[0].arch.cr2 };
    // SAFETY: an aligned 64-bit word of a mapped page.
    unsafe { word.read_volatile() }
}
