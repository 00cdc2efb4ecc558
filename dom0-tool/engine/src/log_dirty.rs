//! The guest's dirty log, which is on for as long as [`LogDirty`] lives.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::{Duration, Instant};

use lull_xen::buffer::HypercallBuffer;
use lull_xen::domctl::{Clean, ShadowOp};
use lull_xen::version::Version;
use lull_xen::{DomId, Xen};
use rustix::io::Errno;

use crate::stub::Stub;

/// The guest's log-dirty mode. Dropping this switches it off.
pub struct LogDirty<'x> {
    xen: &'x Xen,
    domid: DomId,
    /// The last dirty bitmap. dom0 counts the pages here, where the stub cannot change it.
    bitmap: RefCell<Option<HypercallBuffer<u64>>>,
    /// The last count that Xen gave since the log was cleared, in pages.
    counted: Cell<u64>,
}

/// Another program has switched the log off, or off and on again. A stock sender does so
/// when it begins. The guest's earlier writes are no longer known.
#[derive(Debug, thiserror::Error)]
#[error(
    "another program has switched the guest's dirty log off: {now} pages are counted where \
     there were {before}"
)]
pub struct LogReset {
    before: u64,
    now: u64,
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Another program has reset the log.
    #[error(transparent)]
    Reset(#[from] LogReset),
    /// Xen refuses the operation.
    #[error(transparent)]
    Xen(#[from] io::Error),
}

/// Since this release the count falls when the guest gives a dirty page back
/// (`xen/arch/x86/mm/p2m.c`). From then on, only a fall to almost zero is a reset.
const FALLS_SINCE: (u32, u32) = (4, 22);

/// Whether the log forgot pages that were counted. Xen keeps its count, but not its bitmap,
/// over OFF and ON (`xen/arch/x86/mm/paging.c`, 4.17; seen), so there are fewer bits than
/// counted pages. All pages of a PEEK are bits of the CLEAN that follows. The tolerance is
/// for frames beyond the bitmap, and on 4.22 for pages that were given back.
fn has_forgotten(counted: u64, bits: u64) -> bool {
    counted > bits + bits / 8 + 64
}

/// Whether the log was reset between two counts, without a CLEAN between them.
fn is_reset(xen: Version, before: u64, now: u64) -> bool {
    match (xen.major, xen.minor) < FALLS_SINCE {
        true => now < before,
        false => before >= 1_024 && now < before / 8,
    }
}

/// Why the dirty log is not available, in the operator's terms.
#[derive(Debug, thiserror::Error)]
pub enum LogDirtyError {
    /// The hypervisor was built without what this guest's type needs.
    #[error("this hypervisor cannot log what the guest writes (built without shadow paging?)")]
    Unsupported,
    /// A device of the host is passed through to the guest.
    #[error(
        "the hypervisor refuses to log what the guest writes: is a PCI device passed through, \
         or another migration of it under way?"
    )]
    Refused,
    /// The guest's destruction has begun.
    #[error("the guest is being destroyed")]
    BeingDestroyed,
    /// Xen refuses for another reason.
    #[error("the dirty log could not be switched on: {0}")]
    Other(io::Error),
}

impl<'x> LogDirty<'x> {
    /// Switches the log on. A log that a dead sender has left on is switched off first,
    /// because nothing reads its count any more.
    ///
    /// # Errors
    /// See [`LogDirtyError`].
    pub fn enable(xen: &'x Xen, domid: DomId) -> Result<Self, LogDirtyError> {
        let on = || xen.shadow_op(domid, ShadowOp::EnableLogDirty);
        let switched = on().or_else(|_| {
            xen.shadow_op(domid, ShadowOp::Off)?;
            on()
        });
        match switched {
            Ok(()) => Ok(Self::of(xen, domid)),
            Err(error) => Err(LogDirtyError::from_xen(error, xen, domid)),
        }
    }
}

impl<'x> LogDirty<'x> {
    /// Switches the log on, unless it is on already: another program then relies on it.
    ///
    /// # Errors
    /// See [`LogDirtyError`].
    pub fn enable_unless_on(xen: &'x Xen, domid: DomId) -> Result<Self, LogDirtyError> {
        match xen.shadow_op(domid, ShadowOp::EnableLogDirty) {
            Ok(()) => Ok(Self::of(xen, domid)),
            Err(error) => Err(LogDirtyError::from_xen(error, xen, domid)),
        }
    }

    const fn of(xen: &'x Xen, domid: DomId) -> Self {
        Self {
            xen,
            domid,
            bitmap: RefCell::new(None),
            counted: Cell::new(0),
        }
    }

    /// How many pages are dirty since the last CLEAN.
    ///
    /// # Errors
    /// When Xen refuses, or another program has reset the log.
    pub fn count(&self) -> Result<u64, Unread> {
        let now = self.xen.dirty_count(self.domid)?;
        self.check(now)?;
        self.counted.set(now);
        Ok(now)
    }

    fn check(&self, now: u64) -> Result<(), LogReset> {
        let before = self.counted.get();
        match is_reset(self.xen.version, before, now) {
            true => Err(LogReset { before, now }),
            false => Ok(()),
        }
    }

    /// Leaves the log switched on, because another program has taken it over.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl LogDirtyError {
    fn from_xen(error: io::Error, xen: &Xen, domid: DomId) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP) => Self::Unsupported,
            // Since 4.18 Xen returns one error for both cases. Up to 4.17 it returns none
            // for a guest that is being destroyed (xen/arch/x86/mm/paging.c).
            Some(Errno::INVAL) if xen.is_being_destroyed(domid) => Self::BeingDestroyed,
            Some(Errno::INVAL) => Self::Refused,
            _ => Self::Other(error),
        }
    }
}

impl LogDirty<'_> {
    /// Copies the log of `guest_pfns` frames to the stub's bitmap and clears it. Returns
    /// how many pages are dirty, and how long the call took.
    ///
    /// # Errors
    /// When Xen refuses, or another program has reset the log.
    pub(crate) fn clean(
        &self,
        stub: &Stub<'_>,
        guest_pfns: u64,
        clean: Clean,
    ) -> Result<Cleaned, Unread> {
        let words = guest_pfns.div_ceil(64) as usize;
        let mut kept = self.bitmap.borrow_mut();
        // The buffer is allocated in the first round, so never while the guest is stopped.
        let bitmap = match &mut *kept {
            Some(bitmap) if bitmap.len() >= words => bitmap,
            other => other.insert(HypercallBuffer::new(words)?),
        };
        let start = Instant::now();
        let (dirty, counted) = self
            .xen
            .clean_dirty_log(self.domid, bitmap, guest_pfns, clean)?;
        self.check(counted)?;
        let before = self.counted.replace(0);
        if has_forgotten(before, dirty) {
            return Err(LogReset { before, now: dirty }.into());
        }
        stub.write_bitmap(&bitmap[..words]);
        Ok(Cleaned {
            dirty,
            took: start.elapsed(),
        })
    }
}

/// The result of [`LogDirty::clean`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cleaned {
    /// The number of bits set, in pages.
    pub dirty: u64,
    /// How long the CLEAN and the copy took.
    pub took: Duration,
}

impl Drop for LogDirty<'_> {
    fn drop(&mut self) {
        // The error is ignored: a guest that has gone has no log.
        let _ = self.xen.shadow_op(self.domid, ShadowOp::Off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_xen::version::KNOWN;

    #[test]
    fn bits_that_are_far_fewer_than_were_counted_were_forgotten() {
        assert!(!has_forgotten(2_154, 2_154) && !has_forgotten(0, 0));
        assert!(!has_forgotten(2_300, 2_154), "some lie beyond the bitmap");
        assert!(has_forgotten(4_371, 2_217), "as seen");
        assert!(has_forgotten(2_000, 0));
    }

    #[test]
    fn a_count_that_falls_without_a_clean_was_reset() {
        for xen in KNOWN {
            assert!(
                !is_reset(xen, 2_000, 2_000) && !is_reset(xen, 0, 0),
                "{xen}"
            );
            assert!(is_reset(xen, 2_000, 3), "{xen}");
            // Since 4.22 a dirty page that was given back is not counted.
            assert_eq!(is_reset(xen, 2_000, 1_999), xen.minor < 22, "{xen}");
        }
    }
}
