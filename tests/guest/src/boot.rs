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
    /// The path of the disk that is to be used, if the guest has one.
    pub disk: Option<String>,
}

impl Settings {
    /// Parses the settings from a kernel command line: `lull.ip=10.77.0.10
    /// lull.reserve=8192 lull.disk=xvda`.
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
            disk: value("lull.disk").map(|name| format!("/dev/{name}")),
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
    if let Some(disk) = &settings.disk {
        wait_for(disk)?;
    }
    if let Some(address) = &settings.address {
        bring_up_network(address)?;
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
        busybox(&["insmod", &module.to_string_lossy()])?;
    }
    Ok(())
}

fn bring_up_network(address: &str) -> Result<()> {
    wait_for("/sys/class/net/eth0")?;
    busybox(&["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    busybox(&["ip", "link", "set", "eth0", "up"])
}

/// Waits until the path exists. After 10 s it returns in any case, and the user of the path
/// reports the error.
fn wait_for(path: &str) -> Result<()> {
    for _ in 0..500 {
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
        assert_eq!(settings.disk.as_deref(), Some("/dev/xvda"));
        let settings = Settings::parse("quiet");
        assert!(settings.address.is_none() && settings.disk.is_none());
    }
}
