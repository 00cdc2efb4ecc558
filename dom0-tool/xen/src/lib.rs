//! dom0's interface to the hypervisor: direct access to `/dev/xen/*`. Whether a host is ready
//! to move guests, and which guests it has, is in [`host`].
//!
//! All `unsafe` code that deals with Xen is here; `lull_base` has a little for Linux
//! itself. Every structure follows Xen's public headers, at the version that its
//! documentation names. Its size and the offsets that matter are asserted at compile
//! time. All structures are the same from 4.17 to 4.22 except where [`version`]
//! documents a difference.

pub mod buffer;
mod command_line;
pub mod device_model;
pub mod domain;
pub mod domctl;
pub mod evtchn;
pub mod foreign;
pub mod guest_type;
pub mod host;
pub mod maxmem;
pub mod mmu;
pub mod privcmd;
pub mod probe_guest;
pub mod qmp;
mod scheduler;
mod sysctl;
pub mod version;
pub mod xenstore;

pub use domain::{DomainState, state};
pub use privcmd::Xen;

/// A domain id (`domid_t`, `xen/include/public/xen.h`, 4.17).
pub type DomId = u16;

/// Ids from here on are reserved and belong to no domain (`DOMID_FIRST_RESERVED`,
/// `xen/include/public/xen.h`, 4.17).
const DOMID_FIRST_RESERVED: DomId = 0x7ff0;

/// The ioctl requests of `/dev/xen/privcmd` for hypercalls and for mapping another
/// domain's pages.
pub const REQUESTS: [u32; 2] = [privcmd::HYPERCALL, foreign::MMAPBATCH_V2];

/// A page of memory, in bytes.
pub const PAGE: usize = lull_core::units::PAGE_SIZE as usize;
