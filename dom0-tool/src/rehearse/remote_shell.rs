//! Commands at the destination, over ssh or what replaces it. The destination need not be
//! able to reach this host: every connection is made from here.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use lull_base::child::wait_or_kill;
use lull_base::shell::quoted;
use lull_base::spawn::shell_ignoring_tty_signals;
use serde::{Deserialize, Serialize};

use super::probe_guest::SUFFIXES;

/// How long the destination may take to clean up.
const CLEARING: Duration = Duration::from_secs(60);

/// The extra options for ssh where it must not ask for a password.
pub const BATCH: &str = "-o BatchMode=yes -o ConnectTimeout=15";

/// The extra options for a connection that is silent for minutes: a firewall would drop it,
/// and a cut connection would go unnoticed.
const ALIVE: &str = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4";

/// The extra options for a connection of its own, where the operator's configuration would
/// carry it over another one.
const APART: &str = "-o ControlMaster=no -o ControlPath=none";

/// How xl reaches the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteShell {
    /// The shell text after xl's `-s`.
    ssh: String,
    /// The destination; without ssh, the command that leads there.
    host: String,
}

impl RemoteShell {
    /// Takes the arguments as `lull migrate` does.
    pub fn new(ssh: Option<&str>, host: &str) -> Self {
        Self {
            ssh: ssh.unwrap_or("ssh").to_owned(),
            host: host.to_owned(),
        }
    }

    /// The destination, as the operator named it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the destination takes commands. A custom command that only works for
    /// `xl migrate-receive` does not lead to a shell. It may lead to a listener that takes
    /// one connection, so it must not be started to ask a question either.
    pub fn takes_commands(&self) -> bool {
        takes_words(&self.ssh)
    }

    /// Whether this is ssh without options of the operator's.
    pub fn is_plain_ssh(&self) -> bool {
        self.ssh.trim() == "ssh"
    }

    /// The same with keep-alive messages from ssh, if it is ssh without options.
    pub fn kept_alive(&self) -> Self {
        Self {
            ssh: kept_alive(&self.ssh),
            host: self.host.clone(),
        }
    }

    /// The same with an ssh that never asks for input.
    pub fn without_a_terminal(&self) -> Self {
        self.with_options(BATCH)
    }

    /// The same with an ssh that shares no connection with another.
    pub fn apart(&self) -> Self {
        self.with_options(APART)
    }

    /// The same with options for ssh, if ssh is used.
    pub fn with_options(&self, options: &str) -> Self {
        let ssh = match self.ssh.split_whitespace().next() {
            Some("ssh") => format!("{} {options}", self.ssh),
            _ => self.ssh.clone(),
        };
        Self {
            ssh,
            host: self.host.clone(),
        }
    }

    /// A shell's command line that runs `script` there. Neither signals of the terminal nor
    /// another login shell change its effect.
    fn line(&self, script: &str) -> String {
        // Whatever follows the host's name runs programs and does not know a shell's
        // built-ins.
        let exec = match self.host.trim().contains(' ') {
            true => "",
            false => "exec ",
        };
        let script = format!("{exec}sh -c {}", word(script));
        format!("exec {} {} {}", self.ssh, self.host, word(&script))
    }

    /// The command that runs `script` there.
    pub fn command(&self, script: &str) -> Command {
        shell_ignoring_tty_signals(&self.line(script))
    }

    /// Removes the guest there, under any of its names.
    ///
    /// # Errors
    /// If the guest cannot be confirmed to be gone.
    pub fn clear(&self, name: &str, uuid: &str) -> anyhow::Result<()> {
        if !self.takes_commands() {
            anyhow::bail!("the way there takes no commands");
        }
        let mut child = self
            .command(&clearing(name, uuid))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("no shell could be started")?;
        let status = wait_or_kill(&mut child, Instant::now() + CLEARING);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => anyhow::bail!("it could not be removed there: {status}"),
            None => anyhow::bail!("no answer from there"),
        }
    }
}

/// The text for xl's `-s`: with [`ALIVE`] if it is ssh without options. Options given by
/// the operator are used as they are.
pub fn kept_alive(ssh: &str) -> String {
    match ssh.trim() {
        "ssh" => format!("ssh {ALIVE}"),
        _ => ssh.to_owned(),
    }
}

/// Whether the program in this text for xl's `-s` gets the words that xl puts behind it: HOST
/// and the receiver's command. An empty text has no program. A text with a comment hides
/// those words from it: Ganeti passes `socat -b524288 - TCP:IP:PORT #`. Any `#` counts as a
/// comment, because only a shell could tell.
pub fn takes_words(ssh: &str) -> bool {
    !ssh.is_empty() && !ssh.contains('#')
}

/// The script that removes the guest there, and the logs that xl and xenconsoled keep for
/// each name. No other guest is touched, whatever its name.
fn clearing(name: &str, uuid: &str) -> String {
    let names = SUFFIXES.map(|end| format!("{name}{end}"));
    let ours = names.each_ref().map(|name| format!("{uuid}/{name}"));
    format!(
        "all=$(xl vm-list </dev/null) || exit 1\n\
         r=0\n\
         while read -r uuid id name; do\n\
         case $uuid/$name in {}) xl destroy $id </dev/null || r=1 ;; esac\n\
         done <<end\n\
         $all\n\
         end\n\
         for n in {}; do\n\
         rm -f /var/log/xen/xl-$n.log* /var/log/xen/guest-$n.log* /var/log/xen/console/guest-$n.log*\n\
         done\n\
         exit $r",
        ours.join("|"),
        names.join(" "),
    )
}

fn word(text: &str) -> String {
    quoted(OsStr::new(text)).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// An ssh that runs here what it would run there.
    fn remote(folder: &Path) -> RemoteShell {
        let there = format!(
            "#!/bin/sh\nhost=$1; shift; PATH={}:$PATH; [ $host = host2 ] && exec sh -c \"$*\"\n",
            folder.display()
        );
        let ssh = script(folder, "ssh", &there);
        RemoteShell::new(Some(&ssh.display().to_string()), "host2")
    }

    #[test]
    fn what_is_there_under_any_of_its_names_is_destroyed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let text = format!(
            "#!/bin/sh
case $1 in
destroy) echo $2 >>{} ;;
vm-list) echo 'UUID                                  ID    name
u-1   3    name
u-2   4    name
u-1   5    name--migratedaway
u-1   6    name2
u-3   7    web1' ;;
esac
",
            said.display()
        );
        script(folder.path(), "xl", &text);
        remote(folder.path()).clear("name", "u-1").unwrap();
        assert_eq!(fs::read_to_string(&said).unwrap(), "3\n5\n");
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_called_gone() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "xl", "#!/bin/sh\nexit 1\n");
        assert!(remote(folder.path()).clear("name", "u-1").is_err());
    }

    #[test]
    fn a_plain_ssh_is_kept_alive_and_anothers_options_are_left_alone() {
        assert_eq!(kept_alive("ssh"), format!("ssh {ALIVE}"));
        for other in ["ssh -p 2222", "socat", ""] {
            assert_eq!(kept_alive(other), other);
        }
    }

    #[test]
    fn options_are_for_ssh_alone_and_follow_the_operators() {
        let remote = |ssh| RemoteShell::new(Some(ssh), "host2").apart().ssh;
        assert_eq!(remote("ssh -p 2222"), format!("ssh -p 2222 {APART}"));
        assert_eq!(remote("socat"), "socat");
    }

    #[test]
    fn a_command_instead_of_a_host_takes_no_others() {
        assert!(!RemoteShell::new(Some(""), "xl migrate-receive").takes_commands());
        let socat = "socat -b524288 - TCP:192.0.2.7:8082 #";
        assert!(!RemoteShell::new(Some(socat), "192.0.2.7").takes_commands());
        assert!(RemoteShell::new(Some("ssh -p 2222"), "host2").takes_commands());
        assert!(RemoteShell::new(None, "host2").takes_commands());
        assert!(
            RemoteShell::new(Some(""), "true")
                .clear("name", "u-1")
                .is_err()
        );
    }
}
