//! Resumes the guest at the source.

use std::io;

use lull_wire::events::GuestThen;
use lull_xen::device_model::MakeRun;
use lull_xen::domain::{Resumed, UNKNOWN};
use lull_xen::{DomId, Xen};

use crate::emulated::Emulated;

/// The operations on the source host that a refusal needs.
pub trait Source {
    /// Resumes the guest if it is suspended.
    ///
    /// # Errors
    /// When the guest cannot be resumed, or its state cannot be read.
    fn resume(&mut self) -> io::Result<GuestThen>;

    /// What is wrong with the guest since it was resumed, as a clause.
    fn complaint(&self) -> Option<&str>;

    /// Whether the guest is suspended.
    ///
    /// # Errors
    /// When its state cannot be read.
    fn is_suspended(&self) -> io::Result<bool>;

    /// Whether the guest may be running here. If so, it must not be started anywhere else.
    ///
    /// # Errors
    /// When its state cannot be read.
    fn runs(&self) -> io::Result<bool>;
}

/// A guest on this host.
pub struct OnXen {
    domain: DomId,
    /// Opened in advance, because at the deadline every millisecond counts.
    xen: io::Result<Xen>,
    /// Opened in advance, because the transport then confines itself.
    emulated: Emulated,
    complaint: Option<String>,
}

impl OnXen {
    /// Opens the hypervisor, in preparation for a resume of `domain`.
    pub fn new(domain: DomId) -> Self {
        Self {
            domain,
            xen: Xen::open_here(),
            // Without them the guest is resumed all the same.
            emulated: Emulated::of(domain).unwrap_or(Emulated::NONE),
            complaint: None,
        }
    }

    fn xen(&self) -> io::Result<&Xen> {
        opened(&self.xen)
    }
}

fn opened(xen: &io::Result<Xen>) -> io::Result<&Xen> {
    xen.as_ref()
        .map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

impl Source for OnXen {
    fn resume(&mut self) -> io::Result<GuestThen> {
        let xen = opened(&self.xen)?;
        Ok(
            match xen.resume_suspended(self.domain, &mut self.emulated)? {
                Resumed::WasNotSuspended => GuestThen::WasNotSuspended,
                Resumed::Yes { devices, known, .. } => {
                    let unknown = (!known).then(|| UNKNOWN.to_owned());
                    let complaint = devices.complaint(self.emulated.words());
                    self.complaint = complaint.or(unknown);
                    GuestThen::Resumed
                }
            },
        )
    }

    fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
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
