//! A real Xen host under QEMU, and guests whose load can be set.
//!
//! In the order things happen: [`programs`] makes sure of the tools,
//! [`cache`] keeps what was built; [`debian`], [`kernel_modules`], [`bzimage`], [`cpio`] and
//! [`dom0_image`] make dom0, [`static_programs`] and [`guest_image`] the
//! guests, [`overlay`] adds what belongs to one boot; [`qemu`] runs the
//! machine, [`link`] joins it to others, [`console`] reads what it prints, [`ssh`] reaches into it; on top
//! stands [`host`], with [`guest`], [`observer`], [`shaping`], [`domains`] and
//! [`leaks`], and [`libvirt`] for who asks for it; [`demo`] shows what it is all
//! for, [`mod@bench`] and [`landing`] measure. [`plan`] says what of
//! all tests a run has time for. [`small_debian`] is no Xen host,
//! but a Debian to install lull's package in.

pub mod bench;
pub mod bzimage;
pub mod cache;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod demo;
pub mod dom0_image;
pub mod domains;
pub mod guest;
pub mod guest_image;
pub mod host;
pub mod kernel_modules;
pub mod landing;
pub mod leaks;
pub mod libvirt;
pub mod link;
pub mod observer;
pub mod overlay;
pub mod plan;
pub mod programs;
pub mod qemu;
pub mod shaping;
pub mod shell_out;
pub mod small_debian;
pub mod ssh;
pub mod static_programs;
pub mod timeline;
pub mod workplace;

pub use console::{Fault, FaultKind, Mark};
pub use dom0_image::Hypervisor;
pub use domains::{Domain, State};
pub use guest::{Guest, GuestSpec, GuestType};
pub use host::{Host, HostConfig};
pub use leaks::Leaks;
pub use link::Link;
pub use lull_guest::protocol::{Load, Pattern, Status};
pub use observer::{Observer, Outage, Outages};
pub use ssh::{Output, Spawned};
