//! Making the guest run on at the source.

use std::io;

use lull_wire::events::GuestThen;
use lull_xen::domain::Resumed;
use lull_xen::{DomId, Xen};

/// The source host, as far as a refusal needs it.
pub trait Source {
    /// Resumes the guest if it is suspended.
    ///
    /// # Errors
    /// When that cannot be done, or not even be found out.
    fn resume(&mut self) -> io::Result<GuestThen>;

    /// Whether the guest stands suspended.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn is_suspended(&self) -> io::Result<bool>;

    /// Whether the guest may run: then it must not be started anywhere else.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn runs(&self) -> io::Result<bool>;
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

    fn xen(&self) -> io::Result<&Xen> {
        self.xen
            .as_ref()
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}

impl Source for OnXen {
    fn resume(&mut self) -> io::Result<GuestThen> {
        Ok(match self.xen()?.resume_suspended(self.domain)? {
            Resumed::WasNotSuspended => GuestThen::WasNotSuspended,
            _ => GuestThen::Resumed,
        })
    }

    fn is_suspended(&self) -> io::Result<bool> {
        let state = self.xen()?.domain_state(self.domain)?;
        Ok(state.is_some_and(|state| state.is_suspended()))
    }

    fn runs(&self) -> io::Result<bool> {
        let state = self.xen()?.domain_state(self.domain)?;
        Ok(state.is_some_and(|state| state.shutdown.is_none() && !state.dying))
    }
}
