//! A disk from which firmware boots the kernel of HVM guests, with GRUB as Debian packages
//! it. GRUB and what it loads have fixed places on the disk, so no file system is needed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{self, Key};
use crate::debian::{self, Release};
use crate::device_model::{INITRAMFS, KERNEL};
use crate::host::Host;
use crate::shell_out::{output_of, program_of};
use crate::timeline::Timeline;

/// The version of the recipe; raise it when the code below changes what it builds.
const RECIPE_VERSION: &str = "1";

/// The disk's image in dom0.
pub const IMAGE: &str = "/run/rig/boot.disk";

/// The places on the disk, in sectors of 512 bytes. GRUB is before the first of them.
const CONFIG_PLACE: u32 = 2_048;
const KERNEL_PLACE: u32 = 4_096;
const INITRAMFS_PLACE: u32 = 32_768;

/// The number of sectors of GRUB's configuration.
const CONFIG_SECTORS: u32 = 8;

/// The modules that GRUB needs; those that they depend on are added automatically.
const GRUB_MODULES: [&str; 4] = ["biosdisk", "configfile", "linux", "boot"];

impl Host {
    /// Makes the disk's image in dom0, without a configuration of GRUB. The device model must
    /// be installed.
    ///
    /// # Errors
    /// When GRUB cannot be fetched, which is the rig's fault.
    pub fn make_boot_disk(&self) -> Result<()> {
        let timeline = Timeline::start();
        self.put(&grub()?, IMAGE)?;
        let put = |file: &str, place: u32| {
            format!("dd if={file} of={IMAGE} bs=512 seek={place} conv=notrunc")
        };
        self.run(&format!(
            "{} && {} && truncate -s %512 {IMAGE}",
            put(KERNEL, KERNEL_PLACE),
            put(INITRAMFS, INITRAMFS_PLACE),
        ))?
        .checked()?;
        timeline.phase("boot disk made in dom0");
        Ok(())
    }
}

/// Returns a shell command that makes the guest of a configuration file for xl, for
/// [`crate::Guest::create_by`]. What the file says of the kernel goes to the disk instead.
pub fn create(file: &str) -> String {
    let bytes = CONFIG_SECTORS * 512;
    format!(
        "sectors() {{ echo $((($(stat -c %s $1) + 511) / 512)); }}; \
         words=$(sed -n 's/^extra = \"\\(.*\\)\"$/\\1/p' {file}); \
         {{ echo set gfxpayload=text; \
            echo \"linux (hd0){KERNEL_PLACE}+$(sectors {KERNEL}) $words\"; \
            echo \"initrd (hd0){INITRAMFS_PLACE}+$(sectors {INITRAMFS})\"; \
            echo boot; yes ''; }} 2>/dev/null | head -c {bytes} | \
         dd of={IMAGE} bs=512 seek={CONFIG_PLACE} conv=notrunc iflag=fullblock && \
         sed -i '/^\\(kernel\\|ramdisk\\|extra\\) = /d' {file} && xl create -q {file}"
    )
}

/// Returns a file with the first sectors of the disk, from the cache or newly built.
fn grub() -> Result<PathBuf> {
    let release = Release::default();
    let key = Key::default()
        .with("recipe", RECIPE_VERSION.as_bytes())
        .with("packages", debian::grub_recipe(release).as_bytes())
        .with("modules", format!("{GRUB_MODULES:?}").as_bytes())
        .with("config", early_config().as_bytes())
        .finish();
    let folder = cache::entry(&format!("grub-{key}"), |place| build(place, release))?;
    Ok(folder.join("grub"))
}

/// The part of GRUB's configuration that is the same for all guests.
fn early_config() -> String {
    format!("source (hd0){CONFIG_PLACE}+{CONFIG_SECTORS}\n")
}

fn build(place: &Path, release: Release) -> Result<()> {
    let scratch = tempfile::tempdir_in(place.parent().unwrap_or(place))?;
    let root = scratch.path().join("root");
    debian::unpack_grub(&root, release)?;
    let parts = root.join("usr/lib/grub/i386-pc");
    let config = scratch.path().join("early.cfg");
    fs::write(&config, early_config())?;
    let core = scratch.path().join("core");
    output_of(
        program_of(&root, None, "usr/bin/grub-mkimage")
            .args(["--format", "i386-pc", "--prefix", "/none"])
            .arg("--directory")
            .arg(&parts)
            .arg("--config")
            .arg(&config)
            .arg("--output")
            .arg(&core)
            .args(GRUB_MODULES),
    )?;
    // The first sector loads what follows it.
    let mut sectors = fs::read(parts.join("boot.img"))?;
    sectors.extend(fs::read(&core)?);
    fs::write(place.join("grub"), sectors)?;
    Ok(())
}
