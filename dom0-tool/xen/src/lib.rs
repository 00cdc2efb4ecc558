//! The hypervisor as dom0 sees it: `/dev/xen/*`, spoken to directly.
//!
//! The only part of the tool with `unsafe`. Every structure here is written
//! from Xen's public headers, at the version its doc names; its size and the
//! offsets that matter are asserted at compile time. All of them are the same
//! from 4.17 to 4.22 except where [`version`] says otherwise.

pub mod buffer;
mod command_line;
pub mod domain;
pub mod domctl;
pub mod evtchn;
pub mod foreign;
pub mod maxmem;
pub mod mmu;
pub mod privcmd;
pub mod probe_guest;
mod sysctl;
pub mod version;
pub mod xenstore;

pub use domain::{DomainState, state};
pub use privcmd::Xen;

/// A domain's number (`domid_t`, `xen/include/public/xen.h`, 4.17).
pub type DomId = u16;

/// Numbers from here on are no domain's (`DOMID_FIRST_RESERVED`,
/// `xen/include/public/xen.h`, 4.17).
const DOMID_FIRST_RESERVED: DomId = 0x7ff0;

/// The requests that hypercalls and another domain's pages take, of `/dev/xen/privcmd`.
pub const REQUESTS: [u32; 2] = [privcmd::HYPERCALL, foreign::MMAPBATCH_V2];

/// A page of memory, in bytes.
pub const PAGE: usize = lull_core::units::PAGE_SIZE as usize;
