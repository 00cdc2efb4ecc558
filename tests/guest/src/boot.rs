//! The tasks of PID 1 before the model can run: file systems, the modules of its devices,
//! and an address.

use std::ffi::CStr;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};

/// The settings from the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address of eth0, without its prefix; `None` means no network.
    pub address: Option<String>,
    /// The number of pages to reserve.
    pub reserve_pages: u64,
    /// The paths of the disks that are to be used.
    pub disks: Vec<String>,
    /// The address of the emulated network card, if it is used beside eth0.
    pub emulated_address: Option<String>,
    /// Whether the screen is used.
    pub has_screen: bool,
}

impl Settings {
    /// Parses the settings from a kernel command line: `lull.ip=10.77.0.10
    /// lull.reserve=8192 lull.disk=sda,xvdf lull.emulated-ip=10.78.0.10
    /// lull.screen`.
    pub fn parse(command_line: &str) -> Self {
        let value = |name: &str| {
            command_line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        Self {
            address: value("lull.ip").map(str::to_owned),
            reserve_pages: value("lull.reserve")
                .and_then(|v| v.parse().ok())
                .unwrap_or(8_192),
            disks: value("lull.disk")
                .into_iter()
                .flat_map(|names| names.split(','))
                .map(|name| format!("/dev/{name}"))
                .collect(),
            emulated_address: value("lull.emulated-ip").map(str::to_owned),
            has_screen: command_line
                .split_whitespace()
                .any(|word| word == "lull.screen"),
        }
    }
}

/// Sets the guest up and returns its settings.
///
/// # Errors
/// With the step that failed.
pub fn bring_up() -> Result<Settings> {
    mount_at(c"proc", c"/proc")?;
    mount_at(c"sysfs", c"/sys")?;
    mount_at(c"devtmpfs", c"/dev")?;
    let settings = Settings::parse(&fs::read_to_string("/proc/cmdline")?);
    busybox(&["ip", "link", "set", "lo", "up"])?;
    load_modules()?;
    for disk in &settings.disks {
        wait_for(disk)?;
    }
    if let Some(address) = &settings.address {
        wait_for("/sys/class/net/eth0")?;
        bring_up_network("eth0", address)?;
    }
    if let Some(address) = &settings.emulated_address {
        // Otherwise one card would answer for the address of the other.
        fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")?;
        bring_up_network(&emulated_card()?, address)?;
    }
    Ok(settings)
}

fn load_modules() -> Result<()> {
    let mut modules: Vec<_> = fs::read_dir("/modules")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    for module in modules {
        match busybox(&["insmod", &module.to_string_lossy()]) {
            // A driver of Xen's devices refuses to be loaded where Linux uses none of them.
            Err(error) if error.to_string().ends_with("No such device") => {}
            loaded => loaded?,
        }
    }
    Ok(())
}

fn bring_up_network(card: &str, address: &str) -> Result<()> {
    busybox(&["ip", "addr", "add", &format!("{address}/24"), "dev", card])?;
    busybox(&["ip", "link", "set", card, "up"])
}

/// Returns the name of the network card on the PCI bus. Only a PCI device has a vendor in
/// sysfs.
fn emulated_card() -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        if fs::exists(entry.path().join("device/vendor"))? {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    bail!("there is no emulated network card")
}

/// Waits until the path exists. After a minute it returns in any case, and the user of the
/// path reports the error. Linux looks for SCSI disks after it has loaded their driver.
fn wait_for(path: &str) -> Result<()> {
    for _ in 0..3_000 {
        if fs::exists(path)? {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn mount_at(kind: &CStr, target: &CStr) -> Result<()> {
    match mount(kind, target, kind, MountFlags::empty(), None) {
        // The kernel mounts /dev by itself if it is configured to do so.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot mount {target:?}")),
    }
}

fn busybox(arguments: &[&str]) -> Result<()> {
    let output = Command::new("/bin/busybox").args(arguments).output()?;
    if !output.status.success() {
        bail!(
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_command_line() {
        let settings =
            Settings::parse("console=hvc0 lull.ip=10.77.0.12 lull.reserve=25600 lull.disk=xvda\n");
        assert_eq!(settings.address.as_deref(), Some("10.77.0.12"));
        assert_eq!(settings.reserve_pages, 25_600);
        assert_eq!(settings.disks, ["/dev/xvda"]);
        let settings =
            Settings::parse("lull.disk=sda,xvdf lull.emulated-ip=10.78.0.12 lull.screen");
        assert_eq!(settings.disks, ["/dev/sda", "/dev/xvdf"]);
        assert_eq!(settings.emulated_address.as_deref(), Some("10.78.0.12"));
        assert!(settings.has_screen);
        let settings = Settings::parse("quiet");
        assert!(settings.address.is_none() && settings.disks.is_empty());
        assert!(!settings.has_screen);
    }
}
