//! The choice of landing: classic, in stock's order, or fast.
//!
//! The fast landing needs a lull that answers at the destination, and a guest whose devices
//! may be attached there while it still runs here ([`devices`], and [`emulated`] for HVM
//! guests). Otherwise the classic landing is used, and the report says why.

pub mod caller;
mod cipher;
mod devices;
mod emulated;

use std::process::Command;

use clap::ValueEnum;
use lull_base::connections::Connections;
use lull_base::spawn::shell_ignoring_tty_signals;
use lull_store::ledger::Machine;
use lull_store::limits::Trust;
use lull_wire::channel::Token;
use lull_xen::host::Guest;
use lull_xen::xenstore::Xenstore;

use crate::cli::Migrate;
use crate::destination::{Enough, Patience, QUESTION, Received};
use crate::rehearse::{RemoteShell, takes_words};
use caller::{Call, NoLand};

/// What the operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// Fast where possible and known to be safe
    #[default]
    Auto,
    /// Fast, or nothing is begun
    Fast,
    /// The destination attaches the devices while the guest is paused, as with
    /// xl
    Classic,
}

/// The landing that was chosen.
#[derive(Debug)]
pub enum Choice {
    /// A fast landing, with the `lull land` that waits at the destination, and why fewer
    /// connections lead to it than were wanted; empty if there are as many.
    Fast(Call, String),
    /// A classic landing, and the reason as a clause without a full stop.
    Classic(String),
}

/// Chooses the landing of a guest of that kind, and returns what the destination reported of its
/// Xen on the way.
///
/// # Errors
/// When only a fast landing is wanted and it is not possible; or [`Enough`].
pub fn choose(
    options: &Migrate,
    guest: &Guest,
    machine: Machine,
    trust: Trust,
    patience: &Patience<'_>,
) -> anyhow::Result<(Choice, Received)> {
    if options.landing == Wanted::Classic {
        let why = "`--landing classic` asks for it".into();
        return Ok((Choice::Classic(why), Received::NotAsked));
    }
    let (why, received) = match receiver(options, guest, machine, trust) {
        Ok(to_land) => {
            let (command, received) = to_land.first();
            let called = Call::make(command, patience);
            let received = match received {
                Received::NotAsked => received,
                _ => called.xen.into(),
            };
            match called.land {
                Ok(call) if machine == Machine::Emulated && !call.edition().takes_devices() => {
                    call.end();
                    (emulated::TOO_OLD.to_owned(), received)
                }
                Ok(mut call) => match to_land.widen(&mut call, options, patience) {
                    Ok(why) => return Ok((Choice::Fast(call, why), received)),
                    Err(enough) => {
                        call.end();
                        return Err(enough.into());
                    }
                },
                Err(NoLand::Enough(enough)) => return Err(enough.into()),
                Err(error) => (error.to_string(), received),
            }
        }
        Err(why) => (why, Received::NotAsked),
    };
    if options.landing == Wanted::Fast {
        anyhow::bail!(
            "{} cannot land fast at {}: {why}.\nNothing was done. Without `--landing fast` it would land the classic way.",
            guest.name,
            options.host
        );
    }
    Ok((Choice::Classic(why), received))
}

/// How `lull land` is started at the destination.
enum ToLand {
    /// The operator's own command, which leads there once.
    Command(String),
    RemoteShell(RemoteShell),
}

impl ToLand {
    /// The command that starts `lull land`. It may ask which Xen runs there before.
    fn first(&self) -> (Command, Received) {
        match self {
            Self::Command(command) => (shell_ignoring_tty_signals(command), Received::NotAsked),
            Self::RemoteShell(remote) => {
                let script = format!("{QUESTION}; exec lull land");
                (remote.command(&script), Received::Nothing)
            }
        }
    }

    /// Opens further connections. Returns why there are fewer than wanted.
    fn widen(
        &self,
        call: &mut Call,
        options: &Migrate,
        patience: &Patience<'_>,
    ) -> Result<String, Enough> {
        let wanted = options.connections.unwrap_or_default();
        let remote = match self {
            Self::Command(_) if wanted == Connections::ONE => return Ok(String::new()),
            Self::Command(_) => return Ok("`--receiver-command` leads there once".into()),
            Self::RemoteShell(remote) => remote.without_a_terminal().apart(),
        };
        let command = |token: Token| remote.command(&format!("exec lull land --join {token}"));
        call.widen(wanted, command, patience)
    }
}

/// Checks that the guest's devices may be attached at both ends.
///
/// # Errors
/// The device that may not, and why, as a clause without a full stop.
pub fn devices_bear_it(guest: &Guest, machine: Machine, trust: Trust) -> Result<(), String> {
    let mut store = Xenstore::open().map_err(|error| format!("xenstore: {error}"))?;
    devices::judge(&mut store, guest.domid, trust)?;
    match machine {
        Machine::Emulated => emulated::judge(&mut store, guest.domid),
        Machine::Plain => Ok(()),
    }
}

/// How to start `lull land` at the destination. The error says why it is not to be started.
fn receiver(
    options: &Migrate,
    guest: &Guest,
    machine: Machine,
    trust: Trust,
) -> Result<ToLand, String> {
    if machine == Machine::Emulated && !receiver_can_leave_it_paused(options) {
        return Err(emulated::NO_RECEIVER.into());
    }
    if options.config.is_some() {
        return Err("another configuration is sent (-C), which may name other devices".into());
    }
    devices_bear_it(guest, machine, trust)?;
    if let Some(land) = &options.receiver_command {
        return Ok(ToLand::Command(land.clone()));
    }
    let remote = RemoteShell::new(options.ssh.as_deref(), &options.host);
    if !remote.takes_commands() {
        return Err(
            "the way there only runs `xl migrate-receive` (`--receiver-command` would name one for `lull land`)"
                .into(),
        );
    }
    let is_aes_better = remote.is_plain_ssh() && cipher::is_aes_better(remote.host());
    let remote = remote.kept_alive();
    Ok(ToLand::RemoteShell(match is_aes_better {
        true => remote.with_options(cipher::AES_FIRST),
        false => remote,
    }))
}

/// Whether the receiver can be told to leave the copy paused. That of an HVM guest must be:
/// with GO it would have the copy's QEMU go on, which opens its disks while the guest still
/// runs here (`libxl_domain_unpause`, Xen 4.17 to 4.22; `qmp_cont`, QEMU 7.2).
fn receiver_can_leave_it_paused(options: &Migrate) -> bool {
    match options.ssh.as_deref() {
        None => true,
        Some("") => leaves_paused(&options.host).is_some(),
        // xl puts the option behind the receiver's command.
        Some(ssh) => takes_words(ssh),
    }
}

/// A whole command that runs `xl migrate-receive`, with the option that leaves the copy
/// paused; `None` if the command ends otherwise.
pub fn leaves_paused(command: &str) -> Option<String> {
    let command = command.trim_end();
    let before = command.strip_suffix("xl migrate-receive")?;
    let ends_a_word = before.is_empty() || before.ends_with([' ', '/']);
    ends_a_word.then(|| format!("{command} -p"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_receiver_behind_a_comment_is_told_nothing() {
        for (ssh, host, expected) in [
            (None, "host2", true),
            (Some("ssh -p 2222"), "host2", true),
            (Some("socat - TCP:192.0.2.7:8082 #"), "192.0.2.7", false),
            (Some(""), "xl migrate-receive", true),
            (Some(""), "ssh host2", false),
        ] {
            let line = ["lull", "migrate", "web1", host];
            let Command::Migrate(mut options) = Cli::parse_from(line).command else {
                panic!("{line:?}");
            };
            options.ssh = ssh.map(str::to_owned);
            let can = receiver_can_leave_it_paused(&options);
            assert_eq!(can, expected, "{ssh:?} {host}");
        }
    }

    #[test]
    fn only_a_command_whose_end_is_known_gets_an_option() {
        let changed = |command| leaves_paused(command);
        let some = |line: &str| Some(line.to_owned());
        assert_eq!(changed("xl migrate-receive"), some("xl migrate-receive -p"));
        assert_eq!(
            changed("ssh host2 /usr/sbin/xl migrate-receive "),
            some("ssh host2 /usr/sbin/xl migrate-receive -p")
        );
        for other in [
            "xl migrate-receive -e",
            "xl migrate-receive | cat",
            "myxl migrate-receive",
            "ssh host2",
            "",
        ] {
            assert_eq!(changed(other), None, "{other}");
        }
    }
}
