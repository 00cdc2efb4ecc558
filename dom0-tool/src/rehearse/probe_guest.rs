//! The probe guest of a rehearsal, and what identifies it on any host.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use lull_xen::host::{self, Guest};
use lull_xen::probe_guest::MARK;
use lull_xen::xenstore::Xenstore;
use serde::{Deserialize, Serialize};

use super::interfaces::Interface;
use super::remote_shell::RemoteShell;

/// The suffixes that xl appends to a guest's name during a migration.
pub const SUFFIXES: [&str; 3] = ["", "--incoming", "--migratedaway"];

/// The memory of the guest, in MiB. Everything that a landing does not depend on is left
/// out.
pub const MEMORY_MIB: u32 = 8;

/// The time after which the guest destroys itself on any host (`probe_guest.s`).
pub const DESTROYS_ITSELF: Duration = Duration::from_secs(300);

/// The guest of a rehearsal, and its destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeGuest {
    /// The guest's name, unique on this host.
    pub name: String,
    pub uuid: String,
    /// The shell at the destination. Records of earlier rehearsals have it under this name.
    #[serde(rename = "way")]
    pub remote: RemoteShell,
}

impl ProbeGuest {
    /// Describes a new probe guest, with a name of its own.
    ///
    /// # Errors
    /// If the kernel does not provide a UUID.
    pub fn new(remote: RemoteShell) -> io::Result<Self> {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let host = rustix::system::uname();
        Ok(Self {
            name: name_of_a_guest_of(&host.nodename().to_string_lossy()),
            uuid: uuid.trim().to_owned(),
            remote,
        })
    }

    /// The guest's xl configuration.
    pub fn config(&self, kernel: &Path, interfaces: &[Interface]) -> String {
        let vifs: Vec<String> = interfaces.iter().map(Interface::to_config).collect();
        let mut lines = vec![
            format!("name = \"{}\"", self.name),
            format!("uuid = \"{}\"", self.uuid),
            "type = \"pvh\"".to_owned(),
            format!("kernel = \"{}\"", kernel.display()),
            format!("memory = {MEMORY_MIB}"),
            "vcpus = 1".to_owned(),
            format!("vif = [{}]", vifs.join(", ")),
        ];
        for end in ["poweroff", "reboot", "crash", "watchdog", "soft_reset"] {
            lines.push(format!("on_{end} = \"destroy\""));
        }
        lines.join("\n") + "\n"
    }

    /// The domains of this probe guest on this host, under any of its names.
    fn guests_here(&self) -> io::Result<Vec<Guest>> {
        let mut store = Xenstore::open()?;
        let mut found = Vec::new();
        for guest in host::domains(&mut store)? {
            let suffix = guest.name.strip_prefix(&self.name);
            if !suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix)) {
                continue;
            }
            let vm = store.read(&format!("/local/domain/{}/vm", guest.domid))?;
            if vm.is_some_and(|vm| vm.starts_with(&format!("/vm/{}", self.uuid))) {
                found.push(guest);
            }
        }
        Ok(found)
    }

    /// The guest, if it is on this host under its own name and not in transit.
    ///
    /// # Errors
    /// If xenstore does not answer.
    pub fn guest_here(&self) -> io::Result<Option<Guest>> {
        let guests = self.guests_here()?;
        Ok(guests.into_iter().find(|guest| guest.name == self.name))
    }

    /// Removes the probe guest's domains on this host and returns their number.
    ///
    /// # Errors
    /// If a guest could not be removed.
    pub fn clear_here(&self, xl: &Path) -> anyhow::Result<usize> {
        let guests = self.guests_here().context("xenstore does not answer")?;
        for guest in &guests {
            let domid = guest.domid.to_string();
            // A failure shows in the check below; the guest may have ended by itself.
            let _ = Command::new(xl)
                .args(["destroy", &domid])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let left = self.guests_here().context("xenstore does not answer")?;
        anyhow::ensure!(left.is_empty(), "`xl destroy` did not remove {left:?}");
        self.clear_logs();
        Ok(guests.len())
    }

    /// Removes the probe guest's domains at the destination.
    ///
    /// # Errors
    /// If they cannot be confirmed to be gone.
    pub fn clear_there(&self) -> anyhow::Result<()> {
        self.remote.clear(&self.name, &self.uuid)
    }

    /// Removes the logs that xl and xenconsoled keep for each name.
    fn clear_logs(&self) {
        for folder in ["/var/log/xen", "/var/log/xen/console"] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in entries {
                if is_log_of(&entry.file_name().to_string_lossy(), &self.name) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Whether a file in xl's log folder belongs to a guest of that name: `xl-NAME.log`,
/// `guest-NAME--incoming.log.1`.
fn is_log_of(file: &str, name: &str) -> bool {
    let rest = ["xl-", "guest-"]
        .iter()
        .find_map(|start| file.strip_prefix(start)?.strip_prefix(name));
    rest.is_some_and(|rest| {
        SUFFIXES.iter().any(|suffix| {
            rest.strip_prefix(suffix)
                .is_some_and(|end| end.starts_with(".log"))
        })
    })
}

/// The name tells the administrator of the destination which host the guest is from.
fn name_of_a_guest_of(host: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let host: String = host.chars().filter(plain).take(40).collect();
    format!("{MARK}{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe_guest() -> ProbeGuest {
        ProbeGuest {
            name: name_of_a_guest_of("host1.example"),
            uuid: "9f7c8a8e-0000-4000-8000-000000000001".to_owned(),
            remote: RemoteShell::new(None, "host2"),
        }
    }

    #[test]
    fn the_configuration_is_a_tiny_pvh_guest_that_stays_nowhere() {
        let interfaces = [Interface::default(), Interface::default()];
        let config = probe_guest().config(Path::new("/run/k"), &interfaces);
        for line in [
            r#"name = "lull-rehearsal-of-host1example""#,
            r#"uuid = "9f7c8a8e-0000-4000-8000-000000000001""#,
            r#"type = "pvh""#,
            r#"kernel = "/run/k""#,
            r#"vif = ["", ""]"#,
            r#"on_watchdog = "destroy""#,
            r#"on_crash = "destroy""#,
        ] {
            assert!(config.lines().any(|l| l == line), "no {line} in\n{config}");
        }
        assert!(!config.contains("disk"));
        assert!(
            probe_guest()
                .config(Path::new("/k"), &[])
                .contains("vif = []")
        );
    }

    #[test]
    fn its_name_is_a_word_whatever_the_host_is_called() {
        assert_eq!(name_of_a_guest_of("a b;$(c)/\n"), format!("{MARK}abc"));
        assert!(name_of_a_guest_of(&"x".repeat(999)).len() < 64);
    }

    #[test]
    fn only_its_own_logs_are_its_logs() {
        let name = probe_guest().name;
        for own in [
            format!("xl-{name}.log"),
            format!("xl-{name}--incoming.log.1"),
            format!("guest-{name}.log"),
        ] {
            assert!(is_log_of(&own, &name), "{own}");
        }
        for other in [
            "xl-web1.log".to_owned(),
            format!("xl-{name}2.log"),
            format!("{name}.log"),
            format!("xl-{name}"),
        ] {
            assert!(!is_log_of(&other, &name), "{other}");
        }
    }
}
