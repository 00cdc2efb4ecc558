//! Plain `xl migrate` after `lull enable xl`: `lull migrate` with the same words, if lull
//! understands all of them and can move the guest. Everything else goes to Xen's own xl,
//! word for word, in place of this process.
//!
//! As the transport, lull can land the guest the fast way and refuse up to the last moment.
//! As the save helper of an xl that someone else started it can do neither.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Parser};
use lull_base::terminal::to_stderr;
use lull_store::attempt::outcome::Outcome;
use lull_xen::host::{self, Guest, Host};
use rustix::stdio::{dup2_stdout, stderr, stdout};

use crate::cli::{Migrate, as_hands_write};
use crate::landing::Wanted;
use crate::limits;
use crate::migrate::{self, BeingMoved};

/// The options of `lull plain-xl`.
#[derive(Debug, Args)]
pub struct Options {
    /// Xen's own xl, and the words that it was called with
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The words of `xl migrate` that `lull migrate` knows too (`main_migrate` in
/// `tools/xl/xl_migrate.c`, 4.17 to 4.22). `-p` is left out: a guest that stays paused can
/// keep no limit, and stock xl does not refuse it for that.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
struct Words {
    #[arg(short = 's', allow_hyphen_values = true)]
    ssh: Option<String>,
    #[arg(short = 'C', allow_hyphen_values = true)]
    config: Option<PathBuf>,
    #[arg(short = 'e')]
    no_monitor: bool,
    #[arg(short = 'F')]
    foreground: bool,
    #[arg(short = 'D')]
    keep_number: bool,
    #[arg(long)]
    live: bool,
    #[arg(long)]
    debug: bool,
    domain: String,
    host: String,
}

/// Moves the guest, or becomes Xen's own xl. The exit code is xl's: 0 or 1.
pub fn main(options: &Options) -> ExitCode {
    let Some((xl, words)) = options.command.split_first() else {
        return ExitCode::FAILURE;
    };
    if let Some(migrate) = understood(words)
        && let Some(guest) = movable(&migrate)
    {
        match moved(&migrate, &guest) {
            Moved::Ended(code) => return code,
            Moved::NotBegun(why) => to_stderr(&format!(
                "lull: {why}\n{} has no limits, so Xen's own xl moves it.",
                guest.name
            )),
        }
    }
    let error = Command::new(xl).args(words).exec();
    to_stderr(&format!(
        "lull: {} cannot be started: {error}",
        xl.display()
    ));
    ExitCode::FAILURE
}

/// The options of `lull migrate` that mean the same as these words to xl; `None` if xl may
/// take one of them otherwise, or if lull does not know it. Options before the command
/// concern xl's own messages and are for xl.
fn understood(words: &[OsString]) -> Option<Migrate> {
    let (command, words) = words.split_first()?;
    // getopt takes `-s=ssh` for `-s '=ssh'`.
    let is_getopts = |word: &OsString| {
        let word = word.to_string_lossy();
        word.starts_with('-') && !word.starts_with("--") && word.contains('=')
    };
    if command != OsStr::new("migrate") || words.iter().any(is_getopts) {
        return None;
    }
    let mut words = Words::try_parse_from(words).ok()?;
    as_hands_write(&mut words.ssh, &mut words.host);
    let migrate = Migrate {
        max_suspend_time: None,
        timeout: None,
        bandwidth: None,
        connections: None,
        risk: None,
        rehearse: false,
        json: false,
        verbose: 0,
        ssh: words.ssh,
        config: words.config,
        no_monitor: words.no_monitor,
        foreground: words.foreground,
        keep_number: words.keep_number,
        live: words.live,
        leave_paused: false,
        debug: words.debug,
        landing: Wanted::Auto,
        receiver_command: None,
        domain: words.domain,
        host: words.host,
    };
    migrate.check_host().is_ok().then_some(migrate)
}

/// The guest, if this host and the guest are such that lull moves it.
fn movable(migrate: &Migrate) -> Option<Guest> {
    Host::default().check().ok()?;
    host::guest(&migrate.domain).ok()
}

/// How an attempt of lull's ended.
enum Moved {
    /// With this exit code.
    Ended(ExitCode),
    /// It was not begun, for this reason, and Xen's own xl may do it instead.
    NotBegun(String),
}

/// Moves the guest.
fn moved(migrate: &Migrate, guest: &Guest) -> Moved {
    // Programs that start xl may read its standard output; xl prints nothing there.
    let stdout = Stdout::to_stderr();
    let limits = limits::of_guest(guest);
    let is_unlimited = limits.as_ref().is_ok_and(|limits| !limits.is_limited());
    let ended = limits.and_then(|_| migrate::prepare_and_move(migrate));
    drop(stdout);
    judged(ended, is_unlimited)
}

/// As with the save helper under plain xl, what cannot be begun is left to Xen's own tools
/// unless a limit is set. A guest that another attempt moves is not: xl would begin a second.
fn judged(ended: anyhow::Result<Outcome>, is_unlimited: bool) -> Moved {
    match ended {
        Ok(Outcome::Moved) => Moved::Ended(ExitCode::SUCCESS),
        Ok(_) => Moved::Ended(ExitCode::FAILURE),
        Err(error) if is_unlimited && !error.is::<BeingMoved>() => {
            Moved::NotBegun(format!("{error:#}"))
        }
        Err(error) => {
            to_stderr(&format!("lull: {error:#}"));
            Moved::Ended(ExitCode::FAILURE)
        }
    }
}

/// Standard output as it was before; restored when dropped.
struct Stdout(Option<OwnedFd>);

impl Stdout {
    /// Lets what is printed on standard output go to standard error.
    fn to_stderr() -> Self {
        let before = rustix::io::fcntl_dupfd_cloexec(stdout(), 0).ok();
        // If this fails, the report is on standard output.
        let _ = dup2_stdout(stderr());
        Self(before)
    }
}

impl Drop for Stdout {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = dup2_stdout(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearse::RemoteShell;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    fn known(line: &[&str]) -> Migrate {
        understood(&words(line)).unwrap_or_else(|| panic!("{line:?} is left to xl"))
    }

    /// How Pacemaker's agent calls it (`ocf:heartbeat:Xen`, there with xm).
    #[test]
    fn a_cluster_agents_words_are_understood() {
        let agent = known(&["migrate", "--live", "web1", "192.0.2.7"]);
        assert!(agent.live && agent.ssh.is_none() && agent.config.is_none());
        assert_eq!((&*agent.domain, &*agent.host), ("web1", "192.0.2.7"));
    }

    /// How Ganeti calls it: an ssh with many options, and the instance's configuration.
    #[test]
    fn ganetis_words_are_understood() {
        let ssh = "ssh -l root -oGlobalKnownHostsFile=/var/lib/ganeti/known_hosts \
                   -oUserKnownHostsFile=/dev/null -oCheckHostIp=no \
                   -oStrictHostKeyChecking=yes -oHostKeyAlias=cluster.example.org";
        let config = "/etc/xen/instance1.example.org";
        let ganeti = known(&[
            "migrate",
            "-s",
            ssh,
            "-C",
            config,
            "instance1.example.org",
            "192.0.2.7",
        ]);
        assert_eq!(ganeti.ssh.as_deref(), Some(ssh));
        assert_eq!(ganeti.config, Some(PathBuf::from(config)));
        assert_eq!(ganeti.host, "192.0.2.7");
        // From 2.13 on, to a listener that takes one connection.
        let socat = "socat -b524288 - TCP:192.0.2.7:8082 #";
        let instance = "instance1.example.org";
        let ganeti = known(&["migrate", "-s", socat, "-C", config, instance, "192.0.2.7"]);
        assert_eq!(ganeti.ssh.as_deref(), Some(socat));
        let remote = RemoteShell::new(ganeti.ssh.as_deref(), &ganeti.host);
        assert!(!remote.takes_commands());
    }

    #[test]
    fn a_guest_that_another_attempt_moves_is_not_left_to_xl() {
        let busy = || anyhow::Error::new(BeingMoved("web1".to_owned()));
        let other = || anyhow::anyhow!("no room");
        for is_unlimited in [true, false] {
            let ended = judged(Err(busy()), is_unlimited);
            assert!(matches!(ended, Moved::Ended(_)));
            let ended = judged(Err(other()), is_unlimited);
            assert_eq!(matches!(ended, Moved::NotBegun(_)), is_unlimited);
        }
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        for line in [
            &[
                "migrate",
                "-eFD",
                "-sssh",
                "-Cweb.cfg",
                "--debug",
                "web1",
                "host2",
            ][..],
            &[
                "migrate", "web1", "-s", "ssh", "host2", "-C", "web.cfg", "-e", "-F", "-D",
                "--debug",
            ],
            &[
                "migrate", "-FDes", "ssh", "--debug", "-C", "web.cfg", "--", "web1", "host2",
            ],
        ] {
            let read = known(line);
            assert!(read.no_monitor && read.foreground && read.keep_number && read.debug);
            assert_eq!(read.ssh.as_deref(), Some("ssh"), "{line:?}");
            assert_eq!(read.config, Some(PathBuf::from("web.cfg")), "{line:?}");
            assert_eq!((&*read.domain, &*read.host), ("web1", "host2"));
        }
        let command = known(&[
            "migrate",
            "-s",
            "",
            "web1",
            "ssh host2 'xl migrate-receive'",
        ]);
        assert_eq!(command.ssh.as_deref(), Some(""));
        let named_behind_ssh = known(&["migrate", "-s", "ssh root@host2", "web1", ""]);
        assert_eq!(named_behind_ssh.host, "root@host2");
    }

    #[test]
    fn what_is_not_wholly_understood_is_xls() {
        for line in [
            &[][..],
            &["list"],
            &["migrate"],
            &["migrate", "web1"],
            &["migrate", "-h"],
            &["migrate", "--help"],
            &["migrate", "web1", "host2", "more"],
            &["migrate-receive"],
            &["migrat", "web1", "host2"],
            &["-v", "migrate", "web1", "host2"],
            &["-N", "migrate", "web1", "host2"],
            &["migrate", "-p", "web1", "host2"],
            &["migrate", "--liv", "web1", "host2"],
            &["migrate", "--live=1", "web1", "host2"],
            &["migrate", "-s=ssh", "web1", "host2"],
            &["migrate", "-s", "ssh", "-s", "rsh", "web1", "host2"],
            &["migrate", "--timeout", "2s", "web1", "host2"],
            &["migrate", "--max-suspend-time", "2s", "web1", "host2"],
            &["migrate", "web1", "a;b"],
        ] {
            assert!(understood(&words(line)).is_none(), "{line:?}");
        }
        use std::os::unix::ffi::OsStringExt;
        let mut no_text = words(&["migrate", "-s"]);
        no_text.push(OsString::from_vec(vec![0xff]));
        no_text.extend(words(&["web1", "host2"]));
        assert!(understood(&no_text).is_none());
    }
}
