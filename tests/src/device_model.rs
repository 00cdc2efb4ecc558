//! QEMU as the device model of HVM guests, as Debian packages it, and what such a guest
//! boots from. It is installed on request, because most scenarios do not need it and every
//! boot would take longer.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::cpio::Archive;
use crate::debian::{self, Release};
use crate::dom0_image::Dom0Image;
use crate::host::Host;
use crate::layer::Layer;
use crate::timeline::Timeline;

/// The version of the recipe; raise it when the code below changes what it builds.
const RECIPE_VERSION: &str = "1";

/// The kernel of an HVM guest in dom0.
pub const KERNEL: &str = "/boot/vmlinuz-hvm";

/// The initramfs of an HVM guest in dom0.
pub const INITRAMFS: &str = "/boot/guest-hvm.cpio";

/// The prefixes of the paths that are taken from the packages, beside libraries.
const WANTED: &[&str] = &[
    "usr/libexec/xen-qemu-system-i386",
    "usr/lib/ipxe/qemu/efi-",
    // Where Debian 13 has the same files.
    "usr/share/qemu/efi-",
    "usr/share/qemu/keymaps/en-us",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot",
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/vgabios-cirrus.bin",
    "usr/share/seabios/vgabios-stdvga.bin",
];

fn layer(release: Release) -> Layer {
    Layer {
        name: "device-model",
        version: RECIPE_VERSION,
        packages: debian::device_model_recipe(release),
        wanted: WANTED,
        release,
        unpack: debian::unpack_device_model,
    }
}

/// Fetches and builds what [`Host::install_device_model`] needs on a host of that release.
///
/// # Errors
/// When a package cannot be fetched.
pub fn prepare(release: Release, dom0: &Dom0Image, timeline: &Timeline) -> Result<()> {
    layer(release).ready(dom0)?;
    timeline.phase("device model ready");
    Ok(())
}

impl Host {
    /// Installs the device model of dom0's release, and what HVM guests boot from and have
    /// their disk on.
    ///
    /// # Errors
    /// When it cannot be fetched or installed, which is the rig's fault.
    pub fn install_device_model(&self) -> Result<()> {
        let timeline = Timeline::start();
        let release = self.config().hypervisor.release();
        layer(release).install(self, &Dom0Image::ready(release, &timeline)?)?;
        // Guests are the same on every host.
        let dom0 = Dom0Image::ready(Release::default(), &timeline)?;
        let modules = self.folder().join("hvm-modules.cpio");
        write_modules(&dom0, &modules)?;
        self.put(&dom0.packed_kernel(), KERNEL)?;
        self.put(&modules, "/run/rig/hvm-modules.cpio")?;
        // Linux unpacks concatenated archives one over the other. Xen's script for disks in
        // files runs losetup.
        self.run(&format!(
            "cat /boot/guest.cpio /run/rig/hvm-modules.cpio >{INITRAMFS} && \
             rm /run/rig/hvm-modules.cpio && modprobe -a tun nvme xen-blkback loop && \
             ln -sf $(command -v busybox) /usr/sbin/losetup"
        ))?
        .checked()?;
        timeline.phase("device model installed in dom0");
        Ok(())
    }
}

/// Writes the modules of emulated devices. The guest loads modules in the order of their
/// names.
fn write_modules(dom0: &Dom0Image, target: &Path) -> Result<()> {
    let mut archive = Archive::new(fs::File::create(target)?);
    for (position, module) in dom0.hvm_modules()?.iter().enumerate() {
        let stem = module.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("modules/hvm-{position:02}-{stem}");
        archive.file(&name, 0o644, &fs::read(module)?)?;
    }
    archive.finish()?;
    Ok(())
}
