//! The records that carry no pages: those that never change, and those that are read once
//! the guest has stopped.

use std::io;

use lull_wire::channel::State;
use lull_wire::stream::hvm_context;
use lull_wire::stream::records::{self, Record};
use lull_xen::domctl::TscInfo;
use lull_xen::{DomId, Xen};

use super::failure::Failure;

/// The stream's headers and the records that do not change.
pub fn headers(xen: &Xen, domid: DomId) -> io::Result<Vec<u8>> {
    let mut bytes = records::headers(xen.version);
    let (leaves, msrs) = xen.cpu_policy(domid)?;
    for (kind, body) in [(Record::CpuidPolicy, leaves), (Record::MsrPolicy, msrs)] {
        if !body.is_empty() {
            bytes.extend(records::record(kind, &body));
        }
    }
    bytes.extend(records::record(Record::StaticDataEnd, &[]));
    Ok(bytes)
}

/// The state read from the guest once its pages are sent: clock, CPUs, parameters.
pub struct Saved {
    pub(super) tsc: TscInfo,
    pub(super) context: Vec<u8>,
    /// Number and value of each HVM parameter.
    pub(super) params: Vec<(u32, u64)>,
}

impl Saved {
    /// Reads the state of a stopped guest. Of a running guest it reads the state at some
    /// moment.
    ///
    /// # Errors
    /// When Xen refuses.
    pub fn read(xen: &Xen, domid: DomId) -> io::Result<Self> {
        let tsc = xen.tsc_info(domid)?;
        let context = xen.hvm_context(domid)?;
        let mut params = Vec::with_capacity(records::HVM_PARAMS.len());
        for index in records::HVM_PARAMS {
            params.push((index, xen.hvm_param(domid, index)?));
        }
        Ok(Self {
            tsc,
            context,
            params,
        })
    }

    /// The same clock and parameters, and no vCPU: what a copy is built from whose pages
    /// and vCPUs follow.
    pub fn without_cpus(self) -> Self {
        let bare = hvm_context::header_only(&self.context);
        Self {
            context: bare.unwrap_or(self.context),
            ..self
        }
    }

    /// The state to set at the destination, where the guest was built from `provisional`.
    ///
    /// # Errors
    /// When a part of `provisional` would have to change and cannot be replaced.
    pub fn replacing(&self, provisional: &Self) -> Result<State, Failure> {
        if self.params != provisional.params {
            return Err(Failure::Stale("its parameters are others".into()));
        }
        let context = hvm_context::replacing(&provisional.context, &self.context);
        Ok(State {
            tsc: self.tsc,
            context: context.map_err(|why| Failure::Stale(why.to_string()))?,
        })
    }
}

/// The end of a stream, which is everything after the last page.
pub fn records(saved: &Saved) -> Vec<u8> {
    let mut bytes = records::record(Record::TscInfo, &records::tsc_info_body(&saved.tsc));
    bytes.extend(records::record(Record::HvmContext, &saved.context));
    if let Some(body) = records::hvm_params_body(&saved.params) {
        bytes.extend(records::record(Record::HvmParams, &body));
    }
    bytes.extend(records::record(Record::End, &[]));
    bytes
}
