//! The choice of landing: classic, in stock's order, or fast.
//!
//! The fast landing needs a lull that answers at the destination, and a guest whose devices
//! may be attached there while it still runs here ([`devices`]). Otherwise the classic
//! landing is used, and the report says why.

pub mod caller;
mod devices;

use std::process::Command;

use clap::ValueEnum;
use lull_base::spawn::shell_ignoring_tty_signals;
use lull_store::ledger::Machine;
use lull_store::limits::Trust;
use lull_xen::host::Guest;
use lull_xen::xenstore::Xenstore;

use crate::cli::Migrate;
use crate::destination::{Heard, Patience, QUESTION};
use crate::rehearse::Way;
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
    /// A fast landing, with the `lull land` that waits at the destination.
    Fast(Call),
    /// A classic landing, and the reason as a clause without a full stop.
    Classic(String),
}

/// Chooses the landing, and returns what the destination reported of its Xen on the way.
///
/// # Errors
/// When only a fast landing is wanted and it is not possible; or [`Enough`].
///
/// [`Enough`]: crate::destination::Enough
pub fn choose(
    options: &Migrate,
    guest: &Guest,
    trust: Trust,
    patience: &Patience<'_>,
) -> anyhow::Result<(Choice, Heard)> {
    if options.landing == Wanted::Classic {
        let why = "`--landing classic` asks for it".into();
        return Ok((Choice::Classic(why), Heard::NotAsked));
    }
    let (why, heard) = match way(options, guest, trust) {
        Ok((command, is_asked)) => {
            let called = Call::make(command, patience);
            let heard = match is_asked {
                true => called.xen.into(),
                false => Heard::NotAsked,
            };
            match called.land {
                Ok(call) => return Ok((Choice::Fast(call), heard)),
                Err(NoLand::Enough(enough)) => return Err(enough.into()),
                Err(error) => (error.to_string(), heard),
            }
        }
        Err(why) => (why, Heard::NotAsked),
    };
    if options.landing == Wanted::Fast {
        anyhow::bail!(
            "{} cannot land fast at {}: {why}.\nNothing was done. Without `--landing fast` it would land the classic way.",
            guest.name,
            options.host
        );
    }
    Ok((Choice::Classic(why), heard))
}

/// Checks that the guest's devices may be attached at both ends.
///
/// # Errors
/// The device that may not, and why, as a clause without a full stop.
pub fn devices_bear_it(guest: &Guest, trust: Trust) -> Result<(), String> {
    let mut store = Xenstore::open().map_err(|error| format!("xenstore: {error}"))?;
    devices::judge(&mut store, guest.domid, trust)
}

/// The command that starts `lull land` at the destination, and whether it also asks which
/// Xen runs there. The error says why `lull land` is not to be started.
fn way(options: &Migrate, guest: &Guest, trust: Trust) -> Result<(Command, bool), String> {
    if Machine::of(guest.domid) == Machine::Emulated {
        return Err(
            "it is an HVM guest, whose QEMU starts at the destination with its last state only"
                .into(),
        );
    }
    if options.config.is_some() {
        return Err("another configuration is sent (-C), which may name other devices".into());
    }
    devices_bear_it(guest, trust)?;
    if let Some(land) = &options.receiver_command {
        return Ok((shell_ignoring_tty_signals(land), false));
    }
    let way = Way::new(options.ssh.as_deref(), &options.host).kept_alive();
    match way.takes_commands() {
        true => Ok((way.command(&format!("{QUESTION}; exec lull land")), true)),
        false => Err(
            "HOST is a command that only runs `xl migrate-receive` (`--receiver-command` would name one for `lull land`)"
                .into(),
        ),
    }
}
