//! Plain xl: a command of that name comes first on PATH. It has lull move what lull can
//! ([`plain_xl`](crate::plain_xl)), starts the real xl for anything else, and for other
//! migrations sets lull as its save helper.
//!
//! The command is a shell script and not lull itself, so that xl works as ever on a host
//! whose lull is missing or broken.
//!
//! libxl finds its helper only by its environment, and Debian's xl reads no file that could
//! set it. `/usr/local/sbin` belongs to the administrator, so no package's file is touched,
//! and it is first in every PATH that Debian sets for root. An environment set at login
//! would not apply to sudo's commands.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use lull_base::atomic_file;
use lull_base::own_executable;
use lull_base::shell::quoted;
use lull_xen::host::{XL_OF_LULL, is_executable, xl_of_lull};

use super::Finding;

/// Root's PATH on Debian, as set by login, sshd, sudo and systemd.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The paths; tests use folders of their own.
struct Paths {
    /// The path of lull's command.
    ours: PathBuf,
    /// The PATH in which a command is looked up.
    path: OsString,
    /// The path of the limits.
    limits: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            ours: "/usr/local/sbin/xl".into(),
            path: PATH.into(),
            limits: lull_store::limits::FILE.into(),
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
    let done = Paths::default().enable(&own_executable::path()?)?;
    let finding = in_force();
    ensure!(finding.in_force, "{}.\n{}", finding.found, finding.cure);
    Ok(done)
}

/// Reverts [`enable`] and returns a report.
///
/// # Errors
/// Why it failed; nothing has then changed.
pub fn disable() -> anyhow::Result<String> {
    Paths::default().disable()
}

/// Whether plain xl keeps the limits.
pub fn in_force() -> Finding {
    Paths::default().in_force()
}

impl Paths {
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
        let script = self.script(&stock, lull);
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
            "`xl migrate` keeps the limits of {} from now on, and lands as `lull migrate` does: \
             {ours} starts lull for it, and {} for all else. A shell that has called xl before \
             wants `hash -r`.",
            self.limits.display(),
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
                format!(
                    "{ours} names a lull that is not there: no guest moves while there is {}",
                    self.limits.display()
                ),
                "`lull enable xl` names this one, and `lull disable xl` undoes it.",
            );
        };
        let stock = self.stock().unwrap_or_default();
        if self.script(&stock, &lull) != script {
            return not(
                format!("{ours} was made by another release of lull, or for another xl"),
                "`lull enable xl` makes it anew.",
            );
        }
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
        there(&self.ours)
    }

    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join("xl"))
    }

    fn stock(&self) -> Option<PathBuf> {
        self.candidates()
            .find(|xl| *xl != self.ours && is_executable(xl))
    }

    /// The script installed in place of xl.
    fn script(&self, stock: &Path, lull: &Path) -> Vec<u8> {
        let mut script = OsString::from(format!("#!/bin/sh\n{XL_OF_LULL}\n"));
        for part in [
            OsStr::new("lull_xl="),
            &quoted(stock.as_os_str()),
            OsStr::new("\nlull_limits="),
            &quoted(self.limits.as_os_str()),
            OsStr::new(OTHERS),
            OsStr::new(HELPER),
            &quoted(lull.as_os_str()),
            OsStr::new(MIGRATION),
        ] {
            script.push(part);
        }
        script.into_vec()
    }
}

/// What is no migration is none of lull's business. An xl whose helper is set already was
/// started by lull itself, or has a helper of its operator's.
const OTHERS: &str = r#"
case "$LIBXL_SAVE_HELPER: $* " in
:*' migrate '*) ;;
*) exec "$lull_xl" "$@" ;;
esac
"#;

/// Without lull and without limits xl is as ever; with limits no guest moves without them.
/// Any other command with the word `migrate` in it, such as one for a guest of that name,
/// only gets a helper that it does not use.
const MIGRATION: &str = r#"
if ! [ -x "$LIBXL_SAVE_HELPER" ] && ! [ -e "$lull_limits" ]; then
    unset LIBXL_SAVE_HELPER
    exec "$lull_xl" "$@"
fi
export LIBXL_SAVE_HELPER
[ "$1" != migrate ] || exec "$LIBXL_SAVE_HELPER" plain-xl -- "$lull_xl" "$@"
exec "$lull_xl" "$@"
"#;

fn there(xl: &Path) -> io::Result<There> {
    match xl_of_lull(xl) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
        Err(error) => Err(error),
        Ok(Some(content)) => Ok(There::Ours(content)),
        Ok(None) => Ok(There::Foreign),
    }
}

/// The start of the line that names the helper.
const HELPER: &str = "LIBXL_SAVE_HELPER=";

/// The path of the lull that a script of ours names.
fn helper_in(script: &[u8]) -> Option<PathBuf> {
    let mut lines = script.split(|byte| *byte == b'\n');
    let word = lines.find_map(|line| line.strip_prefix(HELPER.as_bytes()))?;
    let word = word.strip_prefix(b"'").unwrap_or(word);
    let word = word.strip_suffix(b"'").unwrap_or(word);
    Some(Path::new(OsStr::from_bytes(word)).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// An xl and a lull that print how they were called, and a folder for lull's command.
    fn host() -> (tempfile::TempDir, Paths, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("sbin")).unwrap();
        let command = "#!/bin/sh\nprintf '%s|' \"${0##*/}\" \"$LIBXL_SAVE_HELPER\" \"$@\"\n";
        for file in ["sbin/xl", "lull"] {
            fs::write(at(file), command).unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let paths = Paths {
            ours: at("local/xl"),
            path: std::env::join_paths([at("local"), at("sbin")]).unwrap(),
            limits: at("lull.toml"),
        };
        let lull = at("lull");
        (root, paths, lull)
    }

    /// What the command starts, with which helper and which words; and its exit code.
    fn called(paths: &Paths, helper: &str, words: &[&str]) -> (String, Option<i32>) {
        let mut xl = Command::new(&paths.ours);
        let output = xl.args(words).env("LIBXL_SAVE_HELPER", helper);
        let output = output.output().unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            output.status.code(),
        )
    }

    #[test]
    fn it_is_in_force_until_it_is_undone() {
        let (_root, paths, lull) = host();
        assert!(!paths.in_force().in_force);
        paths.enable(&lull).unwrap();
        assert!(paths.in_force().in_force, "{:?}", paths.in_force());
        assert!(matches!(paths.there().unwrap(), There::Ours(_)));
        let again = paths.enable(&lull).unwrap();
        assert!(again.contains("already"), "{again}");
        paths.disable().unwrap();
        assert!(!paths.ours.exists() && !paths.in_force().in_force);
        assert!(paths.disable().unwrap().contains("nothing to undo"));
    }

    #[test]
    fn a_migration_is_lulls_and_all_else_xls_word_for_word() {
        let (root, paths, lull) = host();
        paths.enable(&lull).unwrap();
        let lull = lull.display().to_string();
        let stock = root.path().join("sbin/xl").display().to_string();
        let words = ["migrate", "-s", "", "a b", "host2", "$x", "*"];
        let (said, _) = called(&paths, "", &words);
        assert_eq!(
            said,
            format!("lull|{lull}|plain-xl|--|{stock}|migrate|-s||a b|host2|$x|*|")
        );
        let own = ["list", "--long"];
        assert_eq!(called(&paths, "", &own).0, "xl||list|--long|");
        let receives = ["-t", "migrate-receive", "-e"];
        assert_eq!(
            called(&paths, "", &receives).0,
            "xl||-t|migrate-receive|-e|"
        );
        assert_eq!(called(&paths, "", &[]).0, "xl||");
        // Options that come first are for xl; its helper is lull.
        let loud = ["-v", "migrate", "web1", "host2"];
        let expected = format!("xl|{lull}|-v|migrate|web1|host2|");
        assert_eq!(called(&paths, "", &loud).0, expected);
    }

    /// So lull finds Xen's own xl wherever it calls it from.
    #[test]
    fn an_xl_that_has_its_helper_is_xens_own() {
        let (_root, paths, lull) = host();
        paths.enable(&lull).unwrap();
        let words = ["migrate", "web1", "host2"];
        let (said, _) = called(&paths, "/other", &words);
        assert_eq!(said, "xl|/other|migrate|web1|host2|");
    }

    #[test]
    fn what_is_not_ours_stays() {
        let (_root, paths, lull) = host();
        fs::create_dir(paths.ours.parent().unwrap()).unwrap();
        fs::write(&paths.ours, "#!/bin/sh\n").unwrap();
        assert!(paths.enable(&lull).is_err());
        paths.disable().unwrap();
        assert_eq!(fs::read(&paths.ours).unwrap(), b"#!/bin/sh\n");
        assert!(!paths.in_force().in_force);
        assert_eq!(paths.there().unwrap(), There::Foreign);
    }

    #[test]
    fn one_of_another_release_is_made_anew() {
        let (_root, paths, lull) = host();
        paths.enable(&lull).unwrap();
        let made = fs::read(&paths.ours).unwrap();
        let mut older = made.clone();
        older.extend(b"# more\n");
        fs::write(&paths.ours, older).unwrap();
        assert!(paths.in_force().found.contains("another release"));
        paths.enable(&lull).unwrap();
        assert_eq!(fs::read(&paths.ours).unwrap(), made);
    }

    #[test]
    fn without_lull_xl_is_as_ever_but_moves_no_guest_without_its_limits() {
        let (_root, paths, lull) = host();
        paths.enable(&lull).unwrap();
        fs::remove_file(&lull).unwrap();
        assert!(paths.in_force().found.contains("not there"));
        let words = ["migrate", "web1", "host2"];
        let as_ever = ("xl||migrate|web1|host2|".to_owned(), Some(0));
        assert_eq!(called(&paths, "", &words), as_ever);
        fs::write(&paths.limits, "").unwrap();
        let (said, code) = called(&paths, "", &words);
        assert!(said.is_empty() && code != Some(0), "{said}");
        assert_eq!(called(&paths, "", &["list"]).0, "xl||list|");
    }
}
