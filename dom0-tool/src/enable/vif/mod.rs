//! Guests' network interfaces: xl uses `vif-lull` for them ([`lull_agents::vif`]), a copy of
//! which is installed beside Xen's own scripts.
//!
//! xl writes the script's name into a guest's configuration when the guest is started, and
//! the guest takes it along. At the destination that configuration determines the script,
//! and xl.conf there has no effect (`save_domain_core_begin` and `set_default_nic_values`,
//! xl 4.17). A script with which guests were started must therefore stay. It is a copy, so
//! that it outlives lull.

mod conf;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lull_agents::vif::{FOLDER, Host, NAME, STOCK};
use lull_base::own_executable;
use lull_base::{atomic_file, file_lock};
use lull_wire::xl_conf;
use lull_xen::DomId;
use lull_xen::host;
use lull_xen::xenstore::Xenstore;

use crate::rehearse::interfaces::Interface;

use super::Finding;
use conf::{MARK, Setting};

/// How long to wait for another lull that changes the same file.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The paths; tests use a root of their own.
struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

/// Makes lull attach the interfaces of guests started from now on and returns a report.
///
/// # Errors
/// Why it failed; xl's configuration is then unchanged.
pub fn enable() -> anyhow::Result<String> {
    Paths::default().enable(&own_executable::path()?)
}

/// Reverts [`enable`] and returns a report.
///
/// # Errors
/// What could not be reverted.
pub fn disable() -> anyhow::Result<String> {
    Paths::default().disable(users())
}

/// Whether lull attaches interfaces; the cure is empty if everything is as it should be.
pub fn in_force() -> Finding {
    match own_executable::path() {
        Ok(lull) => Paths::default().in_force(&lull),
        Err(why) => Finding {
            in_force: false,
            found: format!("whether lull attaches network interfaces is unknown: {why:#}"),
            cure: String::new(),
        },
    }
}

/// Whether a guest's configuration names the script.
///
/// # Errors
/// If xenstore does not answer.
pub fn is_used_by(store: &mut Xenstore, domid: DomId) -> io::Result<bool> {
    let is_ours = |interface: &Interface| {
        let script = interface.script().map(Path::new);
        script
            .and_then(Path::file_name)
            .is_some_and(|name| name == NAME)
    };
    Ok(Interface::of(store, domid)?.iter().any(is_ours))
}

/// The guests on this host whose configuration names the script.
fn users() -> io::Result<Vec<String>> {
    let mut store = match Xenstore::open() {
        // The host was not booted with Xen.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut users = Vec::new();
    for guest in host::domains(&mut store)? {
        if is_used_by(&mut store, guest.domid)? {
            users.push(guest.name);
        }
    }
    Ok(users)
}

impl Paths {
    fn enable(&self, lull: &Path) -> anyhow::Result<String> {
        let stock = self.script(STOCK);
        ensure!(
            stock.is_file(),
            "Xen's own script was not found: there is no {}.\nNothing was done. Install Xen's \
             tools first (Debian: xen-utils).",
            stock.display()
        );
        let script = self.script(NAME);
        ensure!(
            !script.exists() || is_ours(&script)?,
            "{} is there already, and not lull's.\nNothing was done. Move it away first.",
            script.display()
        );
        let _held = self.hold()?;
        let file = self.conf();
        let text = self.read()?;
        let setting = text.as_deref().map_or(Setting::Unset, Setting::of);
        if let Setting::Other { value, line } = setting {
            bail!(
                "{} line {line} has xl use another script: {value}.\nNothing was done. {NAME} does \
                 what {STOCK} does: take that line out first, if interfaces are to go onto bridges.",
                file.display()
            );
        }
        let there = self.in_force(lull);
        if there.in_force && there.cure.is_empty() {
            return Ok(format!("It is in force already: {}.", there.found));
        }
        if !super::same_content(&script, lull) {
            super::put(&script, &fs::read(lull)?, 0o755).context("nothing was done")?;
        }
        if setting != Setting::Lull {
            // lull's lines may be there without effect, if another assignment follows them.
            let before = match text.as_deref().and_then(conf::without_ours) {
                Some(before) => before,
                None => text,
            };
            super::put(&file, conf::with_ours(before.as_deref()).as_bytes(), 0o644)?;
        }
        Ok(format!(
            "{NAME} attaches the network interfaces of guests that are started from now on, in \
             place of {STOCK}: {} names it.\nA guest takes that along: each host it moves to \
             needs {} as well. One that runs already gets it when it moves with `-C` and its \
             configuration.{}",
            file.display(),
            script.display(),
            match self.wants_stock() {
                Some(why) => format!("\nHere it leaves all to {STOCK}, though: {why}."),
                None => String::new(),
            }
        ))
    }

    fn disable(&self, users: io::Result<Vec<String>>) -> anyhow::Result<String> {
        let file = self.conf();
        let script = self.script(NAME);
        let _held = match self.conf_folder().is_dir() {
            true => Some(self.hold()?),
            false => None,
        };
        let mut text = self.read()?;
        let before = text.as_deref().and_then(conf::without_ours);
        let is_there = script.exists() && is_ours(&script)?;
        if before.is_none() && !is_there {
            return Ok(format!(
                "There was nothing to undo: xl.conf does not name lull's {NAME}."
            ));
        }
        if let Some(before) = before {
            match &before {
                Some(before) => super::put(&file, before.as_bytes(), 0o644)?,
                None => atomic_file::remove(&file)
                    .with_context(|| format!("{} cannot be removed", file.display()))?,
            }
            text = before;
        }
        let said = format!("Guests that are started from now on have Xen's own {STOCK}.");
        let ours = script.display();
        if text.as_deref().map(Setting::of) == Some(Setting::Lull) {
            return Ok(format!(
                "{} names {NAME} in a line that is not lull's: both stay.",
                file.display()
            ));
        }
        if !is_there {
            return Ok(said);
        }
        match users {
            Ok(users) if users.is_empty() => {
                atomic_file::remove(&script)
                    .with_context(|| format!("{ours} cannot be removed"))?;
                Ok(said)
            }
            Ok(users) => Ok(format!(
                "{said}\n{ours} stays for those started with it, and works without lull: {}. \
                 `lull disable vif` once more takes it away when they have gone.",
                users.join(", ")
            )),
            Err(error) => Ok(format!(
                "{said}\n{ours} stays: xenstore does not say whether a guest uses it ({error})."
            )),
        }
    }

    fn in_force(&self, lull: &Path) -> Finding {
        let finding = |in_force, found: String, cure: &str| Finding {
            in_force,
            found,
            cure: cure.to_owned(),
        };
        let script = self.script(NAME);
        let (ours, file) = (script.display(), self.conf());
        let setting = match self.read() {
            Ok(text) => text.as_deref().map_or(Setting::Unset, Setting::of),
            Err(error) => return finding(false, format!("{error:#}"), "Run it as root."),
        };
        match setting {
            Setting::Lull if !host::is_executable(&script) => finding(
                false,
                format!(
                    "{} names {ours}, which is not there: no guest can be started",
                    file.display()
                ),
                "`lull enable vif` puts it back.",
            ),
            Setting::Lull if !super::same_content(&script, lull) => finding(
                true,
                format!("{NAME} attaches network interfaces, by another build of lull: {ours}"),
                "`lull enable vif` puts this one there.",
            ),
            Setting::Lull => {
                let found = match self.wants_stock() {
                    Some(why) => format!("{NAME} leaves network interfaces to {STOCK}: {why}"),
                    None => {
                        format!("{NAME} attaches the network interfaces of guests started here")
                    }
                };
                finding(true, found, "")
            }
            Setting::Unset | Setting::Stock => finding(
                false,
                format!(
                    "Xen's own {STOCK} attaches network interfaces (sooner done after `lull enable vif`)"
                ),
                "",
            ),
            Setting::Other { value, .. } => finding(
                false,
                format!("xl has another script attach network interfaces: {value}"),
                "",
            ),
        }
    }

    fn read(&self) -> anyhow::Result<Option<String>> {
        let file = self.conf();
        let place = || format!("{} cannot be read", file.display());
        let size = match fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            about => about.with_context(place)?.len(),
        };
        ensure!(
            size <= xl_conf::MAX_FILE_BYTES,
            "{}: it is too large",
            place()
        );
        fs::read_to_string(&file).map(Some).with_context(place)
    }

    /// Locks xl's configuration against any other lull until the file is dropped. It locks
    /// the folder: a lock on the file itself would go away when the file is replaced.
    fn hold(&self) -> anyhow::Result<File> {
        let folder = self.conf_folder();
        let place = || format!("{}", folder.display());
        let held = File::open(&folder).with_context(place)?;
        let got = file_lock::lock(&held, TIMEOUT).with_context(place)?;
        ensure!(got, "another lull is changing files in {}", place());
        Ok(held)
    }

    fn wants_stock(&self) -> Option<&'static str> {
        let scripts = self.script(NAME);
        let scripts = scripts.parent().unwrap_or(Path::new(FOLDER));
        Host::new(&self.root, scripts).wants_stock()
    }

    fn script(&self, name: &str) -> PathBuf {
        self.root.join(FOLDER.trim_start_matches('/')).join(name)
    }

    fn conf_folder(&self) -> PathBuf {
        self.root.join("etc/xen")
    }

    fn conf(&self) -> PathBuf {
        // Follow a symbolic link, so that it stays in place.
        let file = self.conf_folder().join("xl.conf");
        fs::canonicalize(&file).unwrap_or(file)
    }
}

/// Whether the script is a lull: every lull's binary contains the mark.
fn is_ours(script: &Path) -> anyhow::Result<bool> {
    let content = fs::read(script).with_context(|| format!("{}", script.display()))?;
    let mark = MARK.as_bytes();
    Ok(content.windows(mark.len()).any(|part| part == mark))
}

#[cfg(test)]
mod tests;
