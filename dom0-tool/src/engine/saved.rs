//! The records that are not pages: what does not change, and what is read
//! once the guest has stopped.

use std::io;

use crate::stream::records::{self, Record};
use crate::xen::{DomId, Xen};

/// Headers and the records that do not change.
pub fn headers(xen: &Xen, guest: DomId) -> io::Result<Vec<u8>> {
    let mut bytes = records::headers(xen.version);
    let (leaves, msrs) = xen.cpu_policy(guest)?;
    for (kind, body) in [(Record::CpuidPolicy, leaves), (Record::MsrPolicy, msrs)] {
        if !body.is_empty() {
            bytes.extend(records::record(kind, &body));
        }
    }
    bytes.extend(records::record(Record::StaticDataEnd, &[]));
    Ok(bytes)
}

/// Everything after the last page: clock, CPUs, parameters, end.
pub fn cpu_state(xen: &Xen, guest: DomId) -> io::Result<Vec<u8>> {
    let tsc = xen.tsc_info(guest)?;
    let context = xen.hvm_context(guest)?;
    let mut params = Vec::with_capacity(records::HVM_PARAMS.len());
    for index in records::HVM_PARAMS {
        params.push((index, xen.hvm_param(guest, index)?));
    }
    let mut bytes = records::record(Record::TscInfo, &records::tsc_info_body(&tsc));
    bytes.extend(records::record(Record::HvmContext, &context));
    if let Some(body) = records::hvm_params_body(&params) {
        bytes.extend(records::record(Record::HvmParams, &body));
    }
    bytes.extend(records::record(Record::End, &[]));
    Ok(bytes)
}
