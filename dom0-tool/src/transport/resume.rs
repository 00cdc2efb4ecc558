//! Making the guest run on at the source.

use std::io;

use crate::events::GuestThen;
use crate::xen::domain::Resumed;
use crate::xen::{DomId, Xen};

/// The source host, as far as a refusal needs it.
pub trait Source {
    /// Resumes the guest if it is suspended.
    ///
    /// # Errors
    /// When that cannot be done, or not even be found out.
    fn resume(&mut self) -> io::Result<GuestThen>;
}

/// A guest on this host.
pub struct OnXen {
    domain: DomId,
    /// Opened beforehand: at the deadline every millisecond counts.
    xen: io::Result<Xen>,
}

impl OnXen {
    /// Gets ready to resume `domain`.
    pub fn new(domain: DomId) -> Self {
        Self {
            domain,
            xen: Xen::open_here(),
        }
    }
}

impl Source for OnXen {
    fn resume(&mut self) -> io::Result<GuestThen> {
        let xen = self
            .xen
            .as_ref()
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        Ok(match xen.resume_suspended(self.domain)? {
            Resumed::WasNotSuspended => GuestThen::WasNotSuspended,
            _ => GuestThen::Resumed,
        })
    }
}
