//! Which devices may stand ready at the destination while the guest still uses
//! them here.
//!
//! With a fast landing the destination opens the guest's disks before the source has
//! written its last block to them. This does no harm if the destination only opens a block
//! device, and nothing between it and the storage caches what it has read: the backend
//! reads no block before the guest requests it, and then reads from the device itself. It
//! does harm to
//! - image formats with metadata of their own (qcow2, vhd): the destination would continue
//!   with the metadata it read at the start;
//! - files, loop devices, and anything else that reads through the host's page cache;
//! - devices that keep blocks or their mapping on this host alone: caches, thin pools,
//!   snapshots, software RAID;
//! - devices that only one host may open, or that a script promotes or locks (DRBD, RBD
//!   with exclusive locks, exclusively activated LVM).
//!
//! This module therefore lists the devices that are known to be safe, and refuses all
//! others unless the operator vouches for them in `/etc/lull.toml` (`disks = "trusted"`).
//! An operator of LVM on shared storage knows whether its volumes are plain. A disk that
//! the guest cannot write to is safe whatever it is.

use std::path::{Path, PathBuf};

use lull_store::limits::Trust;
use lull_xen::DomId;
use lull_xen::xenstore::Xenstore;

/// Device classes without any state that two hosts could disagree about. Each HVM guest has a
/// keyboard (`vkbd`).
const HARMLESS: [&str; 2] = ["console", "vkbd"];

/// Scripts that attach an interface to a switch, where it is not noticed before the guest
/// sends a packet. Other scripts (vif-route, vif-nat) route to the interface or announce it
/// as soon as it exists.
const SWITCHING: [&str; 3] = ["vif-bridge", "vif-lull", "vif-openvswitch"];

/// Name prefixes that Linux gives to whole disks and their partitions. Device numbers do
/// not serve here, because Linux reassigns most of them at each boot.
const PLAIN: [&str; 4] = ["sd", "nvme", "vd", "dasd"];

/// Prefix of `dm/uuid` for device-mapper devices that are paths to the same disk.
const MULTIPATH: &str = "mpath-";

/// libxl's own hotplug scripts, which only check the device.
const PLAIN_SCRIPTS: [&str; 2] = ["block", "/etc/xen/scripts/block"];

/// A disk, as its backend is described in xenstore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Disk {
    name: String,
    kind: String,
    script: Option<String>,
    /// Device numbers, in hexadecimal.
    device: Option<String>,
    writable: bool,
}

/// Checks that the guest's devices may be attached at both ends.
///
/// # Errors
/// The device that may not, and why, as a clause without a full stop.
pub fn judge(store: &mut Xenstore, domid: DomId, trust: Trust) -> Result<(), String> {
    // This is libxl's own directory; the guest can write to its own nodes.
    let devices = format!("/libxl/{domid}/device");
    let list = |store: &mut Xenstore, path: &str| {
        let listed = store.list(path);
        listed.map_err(|error| format!("its devices cannot be read from xenstore: {error}"))
    };
    for kind in list(store, &devices)? {
        let folder = format!("{devices}/{kind}");
        let numbers = list(store, &folder)?;
        if numbers.is_empty() || HARMLESS.contains(&kind.as_str()) {
            continue;
        }
        if kind == "vif" {
            for number in numbers {
                let folder = format!("{folder}/{number}");
                let script = script_of(store, &folder).map_err(|error| {
                    format!("its interfaces cannot be read from xenstore: {error}")
                })?;
                only_switches(script.as_deref())?;
            }
            continue;
        }
        if kind != "vbd" {
            return Err(format!(
                "it has a device of a kind that is not supported there ({kind})"
            ));
        }
        if trust == Trust::Vouched {
            continue;
        }
        for number in numbers {
            let disk = read(store, domid, &format!("{folder}/{number}"))?;
            is_safe(&disk, Path::new("/sys/dev/block"))?;
        }
    }
    Ok(())
}

/// The hotplug script of an interface.
fn script_of(store: &mut Xenstore, folder: &str) -> std::io::Result<Option<String>> {
    match store.read(&format!("{folder}/backend"))? {
        Some(backend) => store.read(&format!("{backend}/script")),
        None => Ok(None),
    }
}

fn only_switches(script: Option<&str>) -> Result<(), String> {
    let name = script.unwrap_or("vif-bridge");
    let name = name.rsplit('/').next().unwrap_or(name);
    match SWITCHING.contains(&name) {
        true => Ok(()),
        false => Err(format!(
            "it has a network interface that is set up by a script not supported there ({name})"
        )),
    }
}

fn read(store: &mut Xenstore, domid: DomId, folder: &str) -> Result<Disk, String> {
    let mut read = |path: String| {
        let value = store.read(&path);
        value.map_err(|error| format!("its disks cannot be read from xenstore: {error}"))
    };
    let backend = read(format!("{folder}/backend"))?.unwrap_or_default();
    // Any mode other than `r` counts as writable.
    let writable = read(format!("{backend}/mode"))?.is_none_or(|mode| mode != "r");
    let is_cdrom = read(format!("{backend}/device-type"))?.as_deref() == Some("cdrom");
    is_served_here(&backend, domid, is_cdrom && !writable)?;
    let number = folder.rsplit('/').next().unwrap_or_default();
    Ok(Disk {
        name: read(format!("{backend}/dev"))?.unwrap_or_else(|| number.to_owned()),
        kind: read(format!("{backend}/type"))?.unwrap_or_default(),
        script: read(format!("{backend}/script"))?,
        device: read(format!("{backend}/physical-device"))?,
        writable,
    })
}

/// QEMU serves CD-ROM drives, with a medium or without.
fn is_served_here(backend: &str, domid: DomId, is_cdrom: bool) -> Result<(), String> {
    let by = |kind: &str| backend.starts_with(&format!("/local/domain/0/backend/{kind}/{domid}/"));
    match by("vbd") || (by("qdisk") && is_cdrom) {
        true => Ok(()),
        false => Err("a disk of its is not served by this dom0's kernel".into()),
    }
}

fn is_safe(disk: &Disk, sysfs: &Path) -> Result<(), String> {
    let no = |what: &str| {
        Err(format!(
            "its disk {} {what}; `disks = \"trusted\"` in /etc/lull.toml would vouch for it",
            disk.name
        ))
    };
    if !disk.writable {
        return Ok(());
    }
    if disk.kind != "phy" {
        return no("is not a block device of the host's own (an image or a file)");
    }
    let script = disk.script.as_deref().unwrap_or("block");
    if !PLAIN_SCRIPTS.contains(&script) {
        return no("is attached by a script of its own, which may lock it");
    }
    let Some(device) = disk
        .device
        .as_deref()
        .and_then(|device| place(device, sysfs))
    else {
        return no("has a device that cannot be looked at");
    };
    match is_plain(&device) {
        true => Ok(()),
        false => no("is not on the list of those that two hosts may open at once"),
    }
}

/// The sysfs directory of the device with these numbers.
fn place(device: &str, sysfs: &Path) -> Option<PathBuf> {
    let (major, minor) = device.split_once(':')?;
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    let link = sysfs.join(format!("{}:{}", number(major)?, number(minor)?));
    link.canonicalize().ok()
}

fn is_plain(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let uuid = std::fs::read_to_string(device.join("dm/uuid"));
    if let Ok(uuid) = uuid {
        return uuid.starts_with(MULTIPATH);
    }
    let plain = |prefix: &&str| {
        let rest = name.strip_prefix(*prefix);
        rest.is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
    };
    // Only a device that stands for hardware has a path outside `virtual`.
    let virtual_ = device
        .components()
        .any(|part| part.as_os_str() == "virtual");
    PLAIN.iter().any(plain) && !virtual_
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn disk() -> Disk {
        Disk {
            name: "xvda".into(),
            kind: "phy".into(),
            script: Some("/etc/xen/scripts/block".into()),
            device: Some("8:10".into()),
            writable: true,
        }
    }

    /// A sysfs in which 8:16 is the device at `path`.
    fn sysfs(path: &str, uuid: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("devices").join(path);
        fs::create_dir_all(&device).unwrap();
        if let Some(uuid) = uuid {
            fs::create_dir_all(device.join("dm")).unwrap();
            fs::write(device.join("dm/uuid"), uuid).unwrap();
        }
        symlink(&device, root.path().join("8:16")).unwrap();
        root
    }

    #[test]
    fn plain_disks_are_safe_and_everything_else_is_not() {
        let safe = |path: &str, uuid| is_safe(&disk(), sysfs(path, uuid).path()).is_ok();
        assert!(safe("pci0000:00/ata1/block/sda", None));
        assert!(safe("pci0000:00/nvme/nvme0n1", None));
        assert!(safe("pci0000:00/ata1/block/sda/sda3", None));
        assert!(safe("virtual/block/dm-0", Some("mpath-3600")));
        assert!(!safe("virtual/block/dm-0", Some("LVM-abc")));
        assert!(!safe("virtual/block/loop0", None));
        assert!(!safe("virtual/block/drbd1", None));
        assert!(!safe("virtual/block/md0", None));
        assert!(!safe("virtual/block/ram0", None));
        assert!(!safe("pci0000:00/sdx-like/zram0", None));
    }

    #[test]
    fn qemu_may_serve_a_cdrom_drive() {
        let by = |kind: &str, is_cdrom| {
            let backend = format!("/local/domain/0/backend/{kind}/7/5632");
            is_served_here(&backend, 7, is_cdrom).is_ok()
        };
        assert!(by("vbd", true) && by("vbd", false) && by("qdisk", true));
        assert!(!by("qdisk", false) && !by("tap", true));
        let elsewhere = "/local/domain/3/backend/vbd/7/5632";
        assert!(is_served_here(elsewhere, 7, false).is_err());
    }

    #[test]
    fn an_interface_that_is_routed_is_not_set_up_before_the_guest_comes() {
        assert!(only_switches(Some("/etc/xen/scripts/vif-bridge")).is_ok());
        assert!(only_switches(Some("vif-lull")).is_ok());
        assert!(only_switches(None).is_ok());
        let why = only_switches(Some("/etc/xen/scripts/vif-route")).unwrap_err();
        assert!(why.contains("vif-route"), "{why}");
    }

    #[test]
    fn images_and_scripts_are_not_unless_nobody_writes_to_them() {
        let sysfs = sysfs("pci0000:00/ata1/block/sda", None);
        let why = |disk: &Disk| is_safe(disk, sysfs.path()).unwrap_err();
        let image = Disk {
            kind: "qdisk".into(),
            ..disk()
        };
        assert!(why(&image).contains("an image or a file"));
        assert!(why(&image).contains("its disk xvda"));
        let scripted = Disk {
            script: Some("/etc/xen/scripts/block-drbd".into()),
            ..disk()
        };
        assert!(why(&scripted).contains("a script of its own"));
        let unknown = Disk {
            device: None,
            ..disk()
        };
        assert!(why(&unknown).contains("cannot be looked at"));
        let read_only = Disk {
            writable: false,
            ..image
        };
        assert_eq!(is_safe(&read_only, sysfs.path()), Ok(()));
    }
}
