//! The front end's side of `lull transport`: the arguments that make xl use it.

use std::ffi::OsString;
use std::path::Path;

use lull_base::shell::quoted;

use crate::cli::Migrate;
use crate::landing;
use crate::rehearse::kept_alive;

/// xl's transport arguments: the value of `-s`, and the argument in HOST's place.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The value of `-s`.
    pub ssh: OsString,
    /// The argument in HOST's place.
    pub host: OsString,
}

/// Puts lull in front of the transport that the operator chose.
///
/// xl has a shell run `exec SSH HOST xl migrate-receive …`, with SSH unquoted. SSH is
/// therefore shell text, and stays shell text after lull's own words. An empty SSH makes
/// HOST the whole command; it becomes one word, which lull passes to a shell of its own. xl
/// tells such a receiver nothing, so with `leaves_paused` the command does.
pub fn arguments(lull: &Path, options: &Migrate, leaves_paused: bool) -> Arguments {
    let mut words = quoted(lull.as_os_str());
    words.push(" transport");
    let host = OsString::from(&options.host);
    match options.ssh.as_deref() {
        Some("") => {
            let command = leaves_paused.then(|| landing::leaves_paused(&options.host));
            let host = command.flatten().map_or(host, OsString::from);
            let mut line = OsString::from("exec ");
            line.push(words);
            line.push(" --shell -- ");
            line.push(quoted(&host));
            Arguments {
                ssh: OsString::new(),
                host: line,
            }
        }
        ssh => {
            words.push(" -- ");
            words.push(kept_alive(ssh.unwrap_or("ssh")));
            Arguments { ssh: words, host }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::Parser;

    use super::*;
    use crate::cli::{self, Cli};

    fn wrapped(lull: &Path, words: &[&str]) -> Arguments {
        let words = [&["lull", "migrate"], words].concat();
        let cli::Command::Migrate(options) = Cli::parse_from(words).command else {
            panic!("lull migrate");
        };
        arguments(lull, &options, false)
    }

    #[test]
    fn what_stood_behind_s_stands_behind_lull() {
        let lull = Path::new("/opt/it's/lull");
        let given = wrapped(lull, &["-s", "ssh -p '2 2'", "web1", "host2"]);
        assert_eq!(given.ssh, r"'/opt/it'\''s/lull' transport -- ssh -p '2 2'");
        assert_eq!(given.host, "host2");
        let given = wrapped(lull, &["web1", "host2"]);
        let ssh = format!(" -- {}", kept_alive("ssh"));
        assert!(given.ssh.to_string_lossy().ends_with(&ssh));
    }

    #[test]
    fn a_receiver_that_xl_does_not_tell_is_told_to_leave_the_copy_paused() {
        let words = ["lull", "migrate", "-s", "", "web1", "xl migrate-receive"];
        let cli::Command::Migrate(options) = Cli::parse_from(words).command else {
            panic!("lull migrate");
        };
        let given = arguments(Path::new("/lull"), &options, true);
        assert!(
            given
                .host
                .to_string_lossy()
                .ends_with(" 'xl migrate-receive -p'")
        );
    }

    /// Runs the command as xl does, with a lull that prints its arguments.
    fn as_xl_would(given: &Arguments, fake: &Path) -> String {
        let line = match given.ssh.is_empty() {
            true => given.host.clone(),
            false => {
                let mut line = OsString::from("exec ");
                line.push(&given.ssh);
                line.push(" ");
                line.push(&given.host);
                line.push(" xl migrate-receive");
                line
            }
        };
        std::fs::write(fake, "#!/bin/sh\nprintf '[%s]' \"$@\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(fake, mode).unwrap();
        let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_shell_understands_it_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("a 'lull'");
        let given = wrapped(&fake, &["-s", "ssh -o 'A b' $((40+2))", "web1", "host2"]);
        assert_eq!(
            as_xl_would(&given, &fake),
            "[transport][--][ssh][-o][A b][42][host2][xl][migrate-receive]"
        );
        let line = "cd '/x y'; xl migrate-receive | cat";
        let given = wrapped(&fake, &["-s", "", "web1", line]);
        assert_eq!(
            as_xl_would(&given, &fake),
            format!("[transport][--shell][--][{line}]")
        );
    }
}
