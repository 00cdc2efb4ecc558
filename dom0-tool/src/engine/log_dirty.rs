//! The guest's dirty log, on for as long as this lives.

use std::io;

use crate::xen::domctl::ShadowOp;
use crate::xen::{DomId, Xen};

/// Switched off when dropped.
pub struct LogDirty<'x> {
    xen: &'x Xen,
    guest: DomId,
}

/// Why the dirty log cannot be had, in the operator's terms.
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
    /// Anything else.
    #[error("the dirty log could not be switched on: {0}")]
    Other(io::Error),
}

impl<'x> LogDirty<'x> {
    /// Switches it on. One left on by a sender that died is switched off
    /// first: it has been counting for nobody.
    ///
    /// # Errors
    /// See [`LogDirtyError`].
    pub fn enable(xen: &'x Xen, guest: DomId) -> Result<Self, LogDirtyError> {
        let on = || xen.shadow_op(guest, ShadowOp::EnableLogDirty);
        let switched = on().or_else(|_| {
            xen.shadow_op(guest, ShadowOp::Off)?;
            on()
        });
        match switched {
            Ok(()) => Ok(Self { xen, guest }),
            Err(error) => Err(match error.raw_os_error() {
                Some(95) => LogDirtyError::Unsupported,
                Some(22) => LogDirtyError::Refused,
                _ => LogDirtyError::Other(error),
            }),
        }
    }
}

impl Drop for LogDirty<'_> {
    fn drop(&mut self) {
        // A guest that has gone has no log.
        let _ = self.xen.shadow_op(self.guest, ShadowOp::Off);
    }
}
