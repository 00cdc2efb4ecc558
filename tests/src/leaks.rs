//! What a migration left behind that it should not have.

use anyhow::Result;

use crate::domains::Domain;
use crate::guest::Guest;
use crate::host::Host;

/// Programs of which none may run between two migrations.
const PASSING: &[&str] = &[
    "libxl-save-helper",
    "xl migrate ",
    "lull ",
    "rig-agent hold-ready",
    "rig-agent throttle",
    "rig-agent tee-stream",
];

/// How xl was started that now looks after a guest.
const CARETAKERS: &[&str] = &["xl create", "xl restore", "xl migrate-receive"];

/// What is left behind.
#[derive(Debug, Clone, Default)]
pub struct Leaks {
    /// Domains other than dom0 and the guests named, among them nameless ones.
    pub domains: Vec<Domain>,
    /// Domains that are dying and do not get to their end: something still
    /// holds their pages.
    pub zombies: Vec<Domain>,
    /// Named guests that exist but do not run.
    pub stopped: Vec<Domain>,
    /// Processes of a migration.
    pub processes: Vec<String>,
    /// Domains that have dirty logging on.
    pub log_dirty: Vec<u32>,
    /// Folders in xenstore of domains that are not there.
    pub xenstore: Vec<String>,
}

impl Leaks {
    /// Whether nothing is left behind.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
            && self.zombies.is_empty()
            && self.stopped.is_empty()
            && self.processes.is_empty()
            && self.log_dirty.is_empty()
            && self.xenstore.is_empty()
    }
}

impl Host {
    /// What is on the host besides dom0 and these guests.
    pub fn leaks(&self, guests: &[&Guest]) -> Result<Leaks> {
        let mut leaks = Leaks::default();
        let domains = self.domains()?;
        leaks.xenstore = self.abandoned_folders(&domains)?;
        for domain in domains.into_iter().filter(|d| d.id != 0) {
            if domain.state.dying {
                leaks.zombies.push(domain);
            } else if !guests.iter().any(|guest| guest.name() == domain.name) {
                leaks.domains.push(domain);
            } else {
                if self.log_dirty_state(domain.id)? == Some(true) {
                    leaks.log_dirty.push(domain.id);
                }
                if !domain.state.is_alive() {
                    leaks.stopped.push(domain);
                }
            }
        }
        let processes = self.run("ps -eo pid=,args=")?.checked()?;
        // The xl that made a guest stays, under the name it was started with,
        // to look after it: one such process per guest is no leak.
        let mut caretakers = guests.len();
        for line in processes.lines() {
            if line.contains("sh -c") {
                continue;
            }
            let made_a_guest = CARETAKERS.iter().any(|name| line.contains(name));
            if made_a_guest && caretakers > 0 {
                caretakers -= 1;
            } else if made_a_guest || PASSING.iter().any(|name| line.contains(name)) {
                leaks.processes.push(line.trim().to_owned());
            }
        }
        Ok(leaks)
    }

    fn abandoned_folders(&self, domains: &[Domain]) -> Result<Vec<String>> {
        let mut abandoned = Vec::new();
        for folder in ["/local/domain", "/libxl"] {
            // Not there before the first guest.
            let listed = self
                .run(&format!(
                    "! xenstore-exists {folder} || xenstore-list {folder}"
                ))?
                .checked()?;
            let gone = listed
                .lines()
                .filter_map(|name| name.parse::<u32>().ok())
                .filter(|id| !domains.iter().any(|domain| domain.id == *id));
            abandoned.extend(gone.map(|id| format!("{folder}/{id}")));
        }
        Ok(abandoned)
    }
}
