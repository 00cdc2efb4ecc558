//! Plain xl: a command of that name comes first on PATH and starts the real xl with lull as
//! its save helper.
//!
//! libxl finds its helper only by its environment, and Debian's xl reads no file that could
//! set it. `/usr/local/sbin` belongs to the administrator, so no package's file is touched,
//! and it is first in every PATH that Debian sets for root. An environment set at login
//! would not apply to sudo's commands.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use lull_base::atomic_file;
use lull_base::own_executable;
use lull_base::shell::quoted;

use crate::host::is_executable;

use super::Finding;

/// Root's PATH on Debian, as set by login, sshd, sudo and systemd.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The line that identifies a file of lull.
const MARK: &str = "# Made by `lull enable xl`; `lull disable xl` takes it away.";

/// The largest file in bytes; a larger one is not lull's.
const LARGEST: u64 = 64 << 10;

/// The paths; tests use folders of their own.
struct Places {
    /// The path of lull's command.
    ours: PathBuf,
    /// The PATH in which a command is looked up.
    path: OsString,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            ours: "/usr/local/sbin/xl".into(),
            path: PATH.into(),
        }
    }
}

/// What exists at the path of lull's command.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    Ours(Vec<u8>),
    Foreign,
}

/// Makes plain xl keep the limits and returns a report.
///
/// # Errors
/// Why it failed; nothing has then changed.
pub fn enable() -> anyhow::Result<String> {
    let done = Places::default().enable(&own_executable::path()?)?;
    let finding = in_force();
    ensure!(finding.in_force, "{}.\n{}", finding.found, finding.cure);
    Ok(done)
}

/// Reverts [`enable`] and returns a report.
///
/// # Errors
/// Why it failed; nothing has then changed.
pub fn disable() -> anyhow::Result<String> {
    Places::default().disable()
}

/// Whether plain xl keeps the limits.
pub fn in_force() -> Finding {
    Places::default().in_force()
}

impl Places {
    fn enable(&self, lull: &Path) -> anyhow::Result<String> {
        let ours = self.ours.display();
        let there = self.there().with_context(|| format!("{ours}"))?;
        ensure!(
            there != There::Foreign,
            "{ours} is there already, and not lull's.\nNothing was done. It can go on as it is \
             with LIBXL_SAVE_HELPER={} in its environment; or move it away first.",
            lull.display()
        );
        let stock = self.stock().context(
            "`xl` was not found in /usr/sbin, nor where else root's PATH leads.\nNothing was \
             done. Install Xen's tools first (Debian: xen-utils).",
        )?;
        let script = script(&stock, lull);
        if there == There::Ours(script.clone()) {
            return Ok(format!(
                "It is in force already: {ours} starts {}.",
                stock.display()
            ));
        }
        if let Some(folder) = self.ours.parent() {
            fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        }
        atomic_file::replace(&self.ours, &script, 0o755)
            .with_context(|| format!("{ours} cannot be written, and nothing was done"))?;
        Ok(format!(
            "`xl migrate` keeps the limits of {} from now on: {ours} starts {} with lull as its \
             save helper. A shell that has called xl before wants `hash -r`.",
            crate::limits::FILE,
            stock.display()
        ))
    }

    fn disable(&self) -> anyhow::Result<String> {
        let ours = self.ours.display();
        match self.there().with_context(|| format!("{ours}"))? {
            There::Nothing => Ok(format!("There was nothing to undo: there is no {ours}.")),
            There::Foreign => Ok(format!(
                "There was nothing to undo: {ours} is not lull's, and stays."
            )),
            There::Ours(_) => {
                atomic_file::remove(&self.ours)
                    .with_context(|| format!("{ours} cannot be removed; it is still in force"))?;
                Ok(format!(
                    "`xl migrate` is Xen's own again, without limits: {ours} is gone. A shell \
                     that has called xl before wants `hash -r`."
                ))
            }
        }
    }

    fn in_force(&self) -> Finding {
        let not = |found: String, cure: &str| Finding {
            in_force: false,
            found,
            cure: cure.to_owned(),
        };
        let ours = self.ours.display();
        let script = match self.there() {
            Ok(There::Ours(script)) => script,
            Ok(There::Nothing) => {
                return not(
                    "plain `xl migrate` knows no limits".into(),
                    "`lull enable xl`, if it is to keep those of /etc/lull.toml.",
                );
            }
            Ok(There::Foreign) => {
                return not(
                    format!("plain `xl migrate` knows no limits: {ours} is not lull's"),
                    "Move it away, then `lull enable xl`.",
                );
            }
            Err(error) => return not(format!("{ours} cannot be read: {error}"), "Run it as root."),
        };
        match self.candidates().find(|xl| is_executable(xl)) {
            Some(first) if first == self.ours => {}
            first => {
                let first = first.unwrap_or_default();
                return not(
                    format!(
                        "{ours} is not the first xl on root's PATH: {}",
                        first.display()
                    ),
                    "Move the other one away, or `lull disable xl`.",
                );
            }
        }
        let Some(lull) = helper_in(&script).filter(|lull| is_executable(lull)) else {
            return not(
                format!("{ours} names a lull that is not there: `xl migrate` fails"),
                "`lull enable xl` names this one.",
            );
        };
        Finding {
            in_force: true,
            found: format!(
                "plain `xl migrate` keeps the limits, through {ours} and {}",
                lull.display()
            ),
            cure: String::new(),
        }
    }

    fn there(&self) -> io::Result<There> {
        match fs::symlink_metadata(&self.ours) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(There::Nothing),
            Err(error) => return Err(error),
            Ok(file) if !file.is_file() || file.len() > LARGEST => return Ok(There::Foreign),
            Ok(_) => {}
        }
        let content = fs::read(&self.ours)?;
        let is_ours = content.split(|byte| *byte == b'\n').nth(1) == Some(MARK.as_bytes());
        Ok(match is_ours {
            true => There::Ours(content),
            false => There::Foreign,
        })
    }

    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join("xl"))
    }

    fn stock(&self) -> Option<PathBuf> {
        self.candidates()
            .find(|xl| *xl != self.ours && is_executable(xl))
    }
}

/// The script installed in place of xl. It keeps a helper that is already set, because
/// `lull migrate` sets its own. It does not check that the helper exists: without it the
/// migration fails, which is better than a migration without its limits.
fn script(stock: &Path, lull: &Path) -> Vec<u8> {
    let mut script = OsString::from(format!(
        "#!/bin/sh\n{MARK}\n[ -n \"$LIBXL_SAVE_HELPER\" ] ||\n{HELPER}"
    ));
    script.push(quoted(lull.as_os_str()));
    script.push("\nexport LIBXL_SAVE_HELPER\nexec ");
    script.push(quoted(stock.as_os_str()));
    script.push(" \"$@\"\n");
    script.into_vec()
}

/// The start of the line that names the helper.
const HELPER: &str = "LIBXL_SAVE_HELPER=";

/// The path of the lull that a script of ours names.
fn helper_in(script: &[u8]) -> Option<PathBuf> {
    let mut lines = script.split(|byte| *byte == b'\n');
    let word = lines.find_map(|line| line.strip_prefix(HELPER.as_bytes()))?;
    let word = word.strip_prefix(b"'").unwrap_or(word);
    let word = word.strip_suffix(b"'").unwrap_or(word);
    Some(Path::new(std::ffi::OsStr::from_bytes(word)).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// An xl that prints how it was called, a lull, and a folder for lull's command.
    fn host() -> (tempfile::TempDir, Places, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("sbin")).unwrap();
        let stock = "#!/bin/sh\necho \"$LIBXL_SAVE_HELPER: $0 $*\"\n";
        for (file, text) in [("sbin/xl", stock), ("lull", "")] {
            fs::write(at(file), text).unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = std::env::join_paths([at("local"), at("sbin")]).unwrap();
        let ours = at("local/xl");
        let lull = at("lull");
        (root, Places { ours, path }, lull)
    }

    #[test]
    fn it_is_in_force_until_it_is_undone() {
        let (_root, places, lull) = host();
        assert!(!places.in_force().in_force);
        places.enable(&lull).unwrap();
        assert!(places.in_force().in_force, "{:?}", places.in_force());
        let again = places.enable(&lull).unwrap();
        assert!(again.contains("already"), "{again}");
        places.disable().unwrap();
        assert!(!places.ours.exists() && !places.in_force().in_force);
        assert!(places.disable().unwrap().contains("nothing to undo"));
    }

    #[test]
    fn xl_is_called_with_its_own_words_and_lull_as_its_helper() {
        let (root, places, lull) = host();
        places.enable(&lull).unwrap();
        let said = |helper: &str| {
            let mut xl = Command::new(&places.ours);
            let xl = xl.args(["migrate", "a b", "host2"]);
            let output = xl.env("LIBXL_SAVE_HELPER", helper).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let stock = root.path().join("sbin/xl");
        let expected = format!(
            "{}: {} migrate a b host2\n",
            lull.display(),
            stock.display()
        );
        assert_eq!(said(""), expected);
        assert!(said("/other").starts_with("/other: "), "it was set already");
    }

    #[test]
    fn what_is_not_ours_stays() {
        let (_root, places, lull) = host();
        fs::create_dir(places.ours.parent().unwrap()).unwrap();
        fs::write(&places.ours, "#!/bin/sh\n").unwrap();
        assert!(places.enable(&lull).is_err());
        places.disable().unwrap();
        assert_eq!(fs::read(&places.ours).unwrap(), b"#!/bin/sh\n");
        assert!(!places.in_force().in_force);
    }

    #[test]
    fn a_lull_that_has_gone_is_not_in_force() {
        let (_root, places, lull) = host();
        places.enable(&lull).unwrap();
        fs::remove_file(&lull).unwrap();
        assert!(places.in_force().found.contains("not there"));
    }
}
