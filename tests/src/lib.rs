//! A real Xen host under QEMU, and guests whose load can be set.
//!
//! The modules, in the order in which they are used: [`programs`] checks for the tools, and
//! [`cache`] keeps what was built. [`debian`], [`kernel_modules`], [`bzimage`], [`cpio`]
//! and [`dom0_image`] make dom0, [`static_programs`] and [`guest_image`] make the guests,
//! and [`overlay`] adds the files of one boot. [`qemu`] runs the machine, [`link`] connects
//! it to others, [`console`] reads its output, and [`ssh`] runs commands in it. [`host`] is
//! built on these, with [`guest`], [`observer`], [`shaping`], [`domains`] and [`leaks`],
//! and with what a [`layer`] adds on request: [`libvirt`], and the [`device_model`] of HVM
//! guests, which are [`saved`] once they have booted, and may have a disk in a [`qcow2`]
//! file, or boot from a [`boot_disk`]. [`demo`] is the demonstration;
//! [`mod@bench`] and [`landing`] measure. [`plan`] selects the tests that a run has time
//! for. [`small_debian`] is not a Xen host, but a Debian in which to install lull's
//! package.

pub mod bench;
pub mod boot_disk;
pub mod bzimage;
pub mod cache;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod demo;
pub mod device_model;
pub mod dom0_image;
pub mod domains;
pub mod guest;
pub mod guest_image;
pub mod host;
pub mod kernel_modules;
pub mod landing;
pub mod layer;
pub mod leaks;
pub mod libvirt;
pub mod link;
pub mod observer;
pub mod overlay;
pub mod plan;
pub mod programs;
pub mod qcow2;
pub mod qemu;
pub mod saved;
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
pub use guest::{Guest, GuestSpec, GuestType, Machine};
pub use host::{Host, HostConfig};
pub use leaks::Leaks;
pub use link::Link;
pub use lull_guest::protocol::{Load, MachineStatus, Pattern, Status};
pub use observer::{Observer, Outage, Outages};
pub use saved::SavedGuest;
pub use ssh::{Output, Spawned};
