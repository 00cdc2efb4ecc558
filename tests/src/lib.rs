//! A real Xen host under QEMU, and guests whose load can be set.
//!
//! In the order things happen: [`programs`] makes sure of the tools,
//! [`cache`] keeps what was built; [`debian`], [`kernel_modules`], [`cpio`] and
//! [`dom0_image`] make dom0, [`static_programs`] and [`guest_image`] the
//! guests, [`overlay`] adds what belongs to one boot; [`qemu`] runs the
//! machine, [`console`] reads what it prints, [`ssh`] reaches into it; on top
//! stands [`host`].

pub mod cache;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod dom0_image;
pub mod guest_image;
pub mod host;
pub mod kernel_modules;
pub mod overlay;
pub mod programs;
pub mod qemu;
pub mod shell_out;
pub mod ssh;
pub mod static_programs;
pub mod timeline;

pub use dom0_image::Hypervisor;
pub use host::{Host, HostConfig};
pub use ssh::{Output, Spawned};
