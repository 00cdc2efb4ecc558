//! libvirt's running daemons: which of them start lull, and whether they are moving a
//! guest.

use std::fs;
use std::path::{Path, PathBuf};

use lull_base::processes;

use super::{HELPER, Paths, UNITS, VARIABLE};

/// A daemon of libvirt.
pub(super) struct Daemon {
    /// The daemon's name, which is also that of its unit.
    pub(super) name: &'static str,
    /// Whether its environment names lull as the save helper.
    pub(super) names_lull: bool,
}

impl Paths {
    pub(super) fn daemons(&self) -> Vec<Daemon> {
        let named = |process: &Path| {
            let comm = fs::read_to_string(process.join("comm")).ok()?;
            let mut names = UNITS
                .iter()
                .filter_map(|unit| unit.strip_suffix(".service"));
            names.find(|name| *name == comm.trim_end())
        };
        let variable = format!("{VARIABLE}={HELPER}");
        let mut found = Vec::new();
        for process in self.processes() {
            let Some(name) = named(&process) else {
                continue;
            };
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            found.push(Daemon {
                name,
                names_lull: variables.any(|one| one == variable.as_bytes()),
            });
        }
        found
    }

    /// Whether a save helper is running, either Xen's own or lull.
    pub(super) fn is_moving_a_guest(&self) -> bool {
        self.processes().any(|process| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let argument = line.split(|byte| *byte == 0).nth(1);
            matches!(argument, Some(b"--save-domain" | b"--restore-domain"))
        })
    }

    fn processes(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.root.join("proc")).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|process| processes::is_roots(process))
    }
}
