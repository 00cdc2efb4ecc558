//! Finds what a migration left behind by mistake.

use anyhow::{Result, bail};

use crate::domains::{Domain, log_dirty_in, parse_list};
use crate::guest::Guest;
use crate::host::Host;

/// Programs that must not run between two migrations.
const PASSING: &[&str] = &[
    "libxl-save-helper",
    "xl migrate ",
    "lull ",
    // This is a guard or a spooler.
    "/proc/self/exe ",
    "rig-agent hold-at",
    "rig-agent hold-land",
    "rig-agent hold-ready",
    "rig-agent pester",
    "rig-agent throttle",
    "rig-agent tee-stream",
];

/// The command lines of an xl that may now look after a guest.
const CARETAKERS: &[&str] = &["xl create", "xl restore", "xl migrate-receive"];

/// Everything that was left behind.
#[derive(Debug, Clone, Default)]
pub struct Leaks {
    /// Domains other than dom0 and the named guests, including domains without a name.
    pub domains: Vec<Domain>,
    /// Domains that are dying and do not disappear, because something still holds their
    /// pages.
    pub zombies: Vec<Domain>,
    /// Named guests that exist but do not run.
    pub stopped: Vec<Domain>,
    /// Processes that belong to a migration.
    pub processes: Vec<String>,
    /// Domains in log-dirty mode.
    pub log_dirty: Vec<u32>,
    /// Directories in xenstore of domains that do not exist.
    pub xenstore: Vec<String>,
    /// Partly written files, files that are still locked, and control sockets; and a
    /// xenstored that has the priority of a pause.
    pub files: Vec<String>,
    /// The kernel's messages about processes that seccomp has killed since the boot.
    pub walled: Vec<String>,
}

/// A command that prints everything that is checked, in parts. It is one command because
/// each costs time under emulation, and the check follows every attempt.
const LEFTOVERS: &str = "\
    xl debug-keys q; \
    xl list; \
    echo ===; \
    for f in /local/domain /libxl; do \
        ! xenstore-exists $f || xenstore-list $f | sed \"s|^|$f/|\"; \
    done; \
    echo ===; \
    for f in /var/lib/lull/ledger.new /var/lib/lull/traces/*.unfinished /var/lib/lull/runs/*.unfinished; do \
        [ ! -e $f ] || echo $f half written; \
    done; \
    for f in /run/lull/*; do \
        [ ! -e $f ] || echo $f left; \
    done; \
    for f in /run/lock/xl* /var/lib/lull/*; do \
        [ ! -e $f ] || ! grep -q \":$(stat -c %i $f) \" /proc/locks || echo $f locked; \
    done; \
    [ \"$(ps -C xenstored,oxenstored -o ni=)\" -ge 0 ] || echo xenstored is still urgent; \
    ! grep -qs ' -' /proc/$(pidof xenstored)/autogroup || echo its session is still urgent; \
    echo ===; \
    dmesg | grep 'type=1326 '; \
    echo ===; \
    ps -eo pid=,args=";

impl Leaks {
    /// Checks whether nothing is left behind.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
            && self.zombies.is_empty()
            && self.stopped.is_empty()
            && self.processes.is_empty()
            && self.log_dirty.is_empty()
            && self.xenstore.is_empty()
            && self.files.is_empty()
            && self.walled.is_empty()
    }
}

impl Host {
    /// Returns what is on the host besides dom0 and these guests.
    pub fn leaks(&self, guests: &[&Guest]) -> Result<Leaks> {
        let mark = self.console().mark();
        let text = self.run(LEFTOVERS)?.checked()?;
        let dump = self.dump_since(mark);
        let parts: Vec<&str> = text.split("===\n").collect();
        let [list, folders, files, walled, processes] = parts[..] else {
            bail!("not what was to be printed: {text}");
        };
        let domains = parse_list(list)?;
        let mut leaks = Leaks {
            xenstore: abandoned(folders, &domains),
            files: files.lines().map(str::to_owned).collect(),
            walled: walled.lines().map(str::to_owned).collect(),
            processes: surplus(processes, guests.len()),
            ..Leaks::default()
        };
        for domain in domains.into_iter().filter(|d| d.id != 0) {
            if domain.state.dying {
                leaks.zombies.push(domain);
            } else if !guests.iter().any(|guest| guest.name() == domain.name) {
                leaks.domains.push(domain);
            } else {
                if log_dirty_in(&dump, domain.id) == Some(true) {
                    leaks.log_dirty.push(domain.id);
                }
                if !domain.state.is_alive() {
                    leaks.stopped.push(domain);
                }
            }
        }
        Ok(leaks)
    }
}

/// Returns processes of a migration. The xl that made a guest stays to look after it, under
/// the command line that it was started with; one such process per guest is no leak.
fn surplus(processes: &str, guests: usize) -> Vec<String> {
    let mut caretakers = guests;
    let mut surplus = Vec::new();
    for line in processes.lines().filter(|line| !line.contains("sh -c")) {
        let made_a_guest = CARETAKERS.iter().any(|name| line.contains(name));
        if made_a_guest && caretakers > 0 {
            caretakers -= 1;
        } else if made_a_guest || PASSING.iter().any(|name| line.contains(name)) {
            surplus.push(line.trim().to_owned());
        }
    }
    surplus
}

/// Returns the directories of domains that do not exist.
fn abandoned(folders: &str, domains: &[Domain]) -> Vec<String> {
    let is_gone = |folder: &&str| {
        let id = folder.rsplit('/').next().and_then(|id| id.parse().ok());
        id.is_some_and(|id: u32| !domains.iter().any(|domain| domain.id == id))
    };
    folders.lines().filter(is_gone).map(str::to_owned).collect()
}
