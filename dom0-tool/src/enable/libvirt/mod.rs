//! libvirt: its daemon starts lull as libxl's save helper.
//!
//! The daemon passes its environment on to the helper, and a systemd drop-in sets it. The
//! helper is a copy of lull: AppArmor checks the real path of a file, and the daemon's
//! profile allows `/usr/lib/xen-*/bin/libxl-save-helper` but nothing under `/usr/local`.
//!
//! A daemon that names a missing helper can neither save nor restore a guest. The copy is
//! therefore installed first and removed last.

mod daemons;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use lull_base::atomic_file;
use lull_base::own_executable;

use super::{Finding, put, same_content};

/// The path of the copy.
const HELPER: &str = "/usr/lib/xen-lull/bin/libxl-save-helper";

/// The units that start libvirt's Xen driver: one daemon for all drivers, as in Debian 12,
/// or one for each.
const UNITS: [&str; 2] = ["libvirtd.service", "virtxend.service"];

/// The folders in which units are installed (`systemd.unit(5)`).
const UNIT_FOLDERS: [&str; 3] = [
    "etc/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// libvirt's Xen driver, which is a package of its own, and the folders in which
/// distributions install it.
const DRIVER: &str = "libvirt_driver_libxl.so";
const DRIVER_FOLDERS: [&str; 3] = [
    "usr/lib/x86_64-linux-gnu/libvirt/connection-driver",
    "usr/lib64/libvirt/connection-driver",
    "usr/lib/libvirt/connection-driver",
];

/// The line that identifies a drop-in of lull.
const MARK: &str = "# Made by `lull enable libvirt`; `lull disable libvirt` takes it away.";

const VARIABLE: &str = "LIBXL_SAVE_HELPER";

/// The paths; tests use a root of their own.
struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

/// Makes `virsh migrate` keep the limits and returns a report.
///
/// # Errors
/// Why it failed; no daemon's environment has then changed.
pub fn enable() -> anyhow::Result<String> {
    Paths::default().enable(&own_executable::path()?)
}

/// Reverts [`enable`] and returns a report.
///
/// # Errors
/// What could not be reverted.
pub fn disable() -> anyhow::Result<String> {
    Paths::default().disable()
}

/// Whether `virsh migrate` keeps the limits; `None` if libvirt cannot move a Xen guest.
pub fn in_force() -> Option<Finding> {
    match own_executable::path() {
        Ok(lull) => Paths::default().in_force(&lull),
        Err(why) => Some(Finding {
            in_force: false,
            found: format!("whether libvirt starts lull is unknown: {why:#}"),
            cure: String::new(),
        }),
    }
}

impl Paths {
    fn enable(&self, lull: &Path) -> anyhow::Result<String> {
        let units = self.units();
        ensure!(
            !units.is_empty(),
            "libvirt was not found: systemd knows no {}.\nNothing was done. Install it first \
             (Debian: libvirt-daemon-system and libvirt-daemon-driver-xen).",
            UNITS.join(" and no ")
        );
        ensure!(
            self.has_xen_driver(),
            "libvirt is installed without its Xen driver ({DRIVER}).\nNothing was done. Install it \
             first (Debian: libvirt-daemon-driver-xen)."
        );
        for unit in &units {
            let drop_in = self.drop_in(unit);
            ensure!(
                self.is_ours(&drop_in)? != Some(false),
                "{} is there already, and not lull's.\nNothing was done. Move it away first.",
                drop_in.display()
            );
        }
        if let Some(there) = self.in_force(lull)
            && there.in_force
            && there.cure.is_empty()
        {
            return Ok(format!("It is in force already: {}.", there.found));
        }
        let helper = self.helper();
        if !same_content(&helper, lull) {
            put(&helper, &fs::read(lull)?, 0o755).context("nothing was done")?;
        }
        for unit in &units {
            let text = format!("{MARK}\n[Service]\nEnvironment={VARIABLE}={HELPER}\n");
            put(&self.drop_in(unit), text.as_bytes(), 0o644)
                .with_context(|| format!("{unit} does not start lull yet"))?;
        }
        let mut said = format!(
            "`virsh migrate --live` keeps the limits of {}: {} starts {HELPER}, a copy of {}.",
            lull_store::limits::FILE,
            units.join(" and "),
            lull.display()
        );
        said.push_str(&self.settle(true));
        Ok(said)
    }

    fn disable(&self) -> anyhow::Result<String> {
        let mut found = false;
        for unit in UNITS {
            let drop_in = self.drop_in(unit);
            if self.is_ours(&drop_in)? == Some(true) {
                found = true;
                atomic_file::remove(&drop_in)
                    .with_context(|| format!("{} cannot be removed", drop_in.display()))?;
                // This fails if the administrator has other drop-ins there, and may.
                let _ = drop_in.parent().map(fs::remove_dir);
            }
        }
        let helper = self.helper();
        if !found && !helper.exists() {
            return Ok("There was nothing to undo: libvirt does not start lull.".into());
        }
        let mut said = String::from("`virsh migrate` is libvirt's own again, without limits.");
        said.push_str(&self.settle(false));
        if self.daemons().iter().any(|daemon| daemon.names_lull) {
            said.push_str(&format!(
                "\n{HELPER} stays until then; `lull disable libvirt` once more takes it away."
            ));
            return Ok(said);
        }
        if helper.exists() {
            atomic_file::remove(&helper)
                .with_context(|| format!("{} cannot be removed", helper.display()))?;
        }
        for folder in helper.ancestors().skip(1).take(2) {
            // This fails if the folder contains something else, and may.
            let _ = fs::remove_dir(folder);
        }
        Ok(said)
    }

    /// Whether `virsh migrate` keeps the limits; `None` if libvirt or its Xen driver is not
    /// installed.
    fn in_force(&self, lull: &Path) -> Option<Finding> {
        let units = self.units();
        if units.is_empty() || !self.has_xen_driver() {
            return None;
        }
        let finding = |in_force, found: String, cure: String| {
            Some(Finding {
                in_force,
                found,
                cure,
            })
        };
        let again = "`lull enable libvirt`".to_owned();
        for unit in &units {
            match self.is_ours(&self.drop_in(unit)) {
                Ok(Some(true)) => {}
                Ok(_) => {
                    let found =
                        format!("`virsh migrate` knows no limits: {unit} does not start lull");
                    let cure = format!(
                        "{again}, if it is to keep those of {}.",
                        lull_store::limits::FILE
                    );
                    return finding(false, found, cure);
                }
                Err(error) => {
                    return finding(false, format!("{error:#}"), "Run it as root.".into());
                }
            }
        }
        let helper = self.helper();
        if !helper.is_file() {
            let found = format!("{HELPER} has gone: libvirt can move, save and restore no guest");
            return finding(false, found, format!("{again} puts it back."));
        }
        if let Some(daemon) = self.daemons().iter().find(|daemon| !daemon.names_lull) {
            let found = format!(
                "`virsh migrate` knows no limits: {} was started before lull was its helper",
                daemon.name
            );
            return finding(
                false,
                found,
                format!("`systemctl restart {}`.", daemon.name),
            );
        }
        if !same_content(&helper, lull) {
            let found =
                format!("`virsh migrate` keeps the limits, by another build of lull: {HELPER}");
            return finding(true, found, format!("{again} puts this one there."));
        }
        let found = format!("`virsh migrate` keeps the limits, through {HELPER}");
        finding(true, found, String::new())
    }

    /// Makes the daemons pick up the change, or returns what is left to do.
    fn settle(&self, enabled: bool) -> String {
        if !self.root.join("run/systemd/system").is_dir() {
            return match self.outdated(enabled) {
                Some(daemon) => {
                    format!("\nsystemd does not run here: start {daemon} anew yourself.")
                }
                None => String::new(),
            };
        }
        if let Err(error) = systemctl(&["daemon-reload"]) {
            return format!("\n{error:#}. It holds once libvirt was restarted after that.");
        }
        let Some(daemon) = self.outdated(enabled) else {
            return String::new();
        };
        let by_hand = format!("`systemctl restart {daemon}`");
        if self.is_moving_a_guest() {
            return format!(
                "\n{daemon} was not restarted: a guest is being moved, saved or restored. \
                 {by_hand} when that is over."
            );
        }
        match systemctl(&["try-restart", &format!("{daemon}.service")]) {
            Ok(()) => format!("\n{daemon} was restarted; its guests run on."),
            Err(error) => format!("\n{error:#}. It holds after {by_hand}."),
        }
    }

    /// A daemon that still runs with the old configuration.
    fn outdated(&self, enabled: bool) -> Option<&'static str> {
        let mut daemons = self.daemons().into_iter();
        let outdated = daemons.find(|daemon| daemon.names_lull != enabled);
        outdated.map(|daemon| daemon.name)
    }

    fn units(&self) -> Vec<&'static str> {
        let is_there = |unit: &&str| {
            let mut folders = UNIT_FOLDERS.iter();
            folders.any(|folder| self.root.join(folder).join(unit).exists())
        };
        UNITS.into_iter().filter(is_there).collect()
    }

    /// Whether one of libvirt's daemons has the Xen driver.
    fn has_xen_driver(&self) -> bool {
        let mut folders = DRIVER_FOLDERS.iter();
        folders.any(|folder| self.root.join(folder).join(DRIVER).exists())
    }

    fn helper(&self) -> PathBuf {
        self.root.join(HELPER.trim_start_matches('/'))
    }

    fn drop_in(&self, unit: &str) -> PathBuf {
        let folder = self.root.join("etc/systemd/system");
        folder.join(format!("{unit}.d/lull.conf"))
    }

    /// Whether a drop-in is lull's; `None` if there is no drop-in.
    fn is_ours(&self, drop_in: &Path) -> anyhow::Result<Option<bool>> {
        match fs::read(drop_in) {
            Ok(text) => Ok(Some(text.starts_with(MARK.as_bytes()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}", drop_in.display())),
        }
    }
}

fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let line = || format!("`systemctl {}` failed", words.join(" "));
    let output = Command::new("systemctl")
        .args(words)
        .output()
        .with_context(line)?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{}: {said}", line());
    Ok(())
}

#[cfg(test)]
mod tests;
