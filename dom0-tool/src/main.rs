//! lull moves a running Xen guest to another host, and never pauses it longer
//! than its operator allows.
//!
//! One binary runs as several processes. `lull migrate` ([`migrate`]) starts stock `xl`,
//! which starts lull again as its save helper ([`helper`]); both exchange
//! [`events`](lull_wire::events). A third process carries xl's connection to the destination
//! ([`transport`]). `lull migrate` first asks which Xen runs there ([`destination`]), and
//! chooses the order in which the guest lands ([`landing`]). In a fast landing a fourth
//! process waits at the destination ([`land`]).
//!
//! The events and decisions of an attempt are recorded ([`lull_store`], by [`spoolers`]).
//! [`replay`] runs a record through the same rules again, [`predict`] applies them to a guest
//! that stays, [`ledger`] shows what earlier pauses took, and [`report`] explains an attempt.
//! A running attempt can be watched and changed ([`control`]). Limits are in a file
//! ([`limits`]); plain `xl migrate` can be made to keep them ([`enable`]) and to land fast
//! ([`plain_xl`]).
//!
//! Called as `vif-lull`, lull attaches guests' network interfaces ([`vif`]). It keeps xl's
//! monitor of a guest alive over a pause ([`monitor`](lull_agents::monitor)), and restores
//! the guest's name ([`name`](lull_agents::name)). `lull resume` ([`resume`]) is for the one
//! decision that only a person can make. [`doctor`] checks the hosts, and [`generate`] writes
//! the manual and the completions.

#![forbid(unsafe_code)]

mod cli;
mod control;
mod destination;
mod doctor;
mod enable;
#[cfg(feature = "terminal")]
mod generate;
mod landing;
mod ledger;
mod limits;
mod migrate;
mod plain_xl;
mod predict;
mod rehearse;
mod replay;
mod report;
mod resume;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use lull_agents::{emulated, helper, land, spoolers, transport, vif};

fn main() -> ExitCode {
    match Role::of(std::env::args_os().take(2)) {
        Role::Helper => return helper::main(std::env::args_os(), version),
        Role::HotplugScript => return vif::main(std::env::args_os()),
        Role::FrontEnd => {}
    }
    match cli::parse().command {
        cli::Command::Migrate(options) => migrate::main(&options),
        cli::Command::Rehearse(options) => rehearse::main(&options),
        cli::Command::GuardRehearsal => rehearse::guard(),
        cli::Command::Resume(options) => resume::main(&options),
        cli::Command::Status(options) => control::show::main(&options),
        cli::Command::Set(options) => control::set::main(&options),
        cli::Command::SwitchNow(options) => control::set::switch_now(&options),
        cli::Command::Cancel(options) => control::cancel::main(&options),
        cli::Command::Predict(options) => predict::main(&options),
        cli::Command::Replay(options) => replay::main(&options),
        cli::Command::Ledger(options) => ledger::main(&options),
        cli::Command::Report(options) => report::main(&options),
        cli::Command::KeepRun(options) => spoolers::runs::main(&options),
        cli::Command::Doctor(options) => doctor::main(&options),
        #[cfg(feature = "terminal")]
        cli::Command::Generate(options) => generate::main(&options),
        cli::Command::Limits(options) => limits::main(&options),
        cli::Command::Enable(options) => enable::enable(&options),
        cli::Command::Disable(options) => enable::disable(&options),
        cli::Command::PlainXl(options) => plain_xl::main(&options),
        cli::Command::KeepTrace(options) => spoolers::trace::main(&options),
        cli::Command::Transport(options) => transport::main(&options),
        cli::Command::Engine(options) => helper::engine(&options, version),
        cli::Command::Land(options) => land::main(&options),
        cli::Command::SeeOff(options) => land::see_off::main(&options),
        cli::Command::HoldState => land::incoming::main(),
    }
}

/// What `lull --version` says: the release, the commit, the stub inside.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let (release, commit) = (env!("CARGO_PKG_VERSION"), env!("LULL_COMMIT"));
        let stub = lull_engine::stub::id().unwrap_or_else(|error| error.to_string());
        format!("{release} (commit {commit}, stub {stub})")
    });
    &VERSION
}

/// As what lull was called.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// An operator, or a program, started a subcommand.
    FrontEnd,
    /// By libxl, or by itself to guard its helper or to reach a guest's QEMU.
    Helper,
    /// By libxl, to attach a network interface.
    HotplugScript,
}

impl Role {
    fn of(mut arguments: impl Iterator<Item = OsString>) -> Self {
        let name = arguments.next().unwrap_or_default();
        let first = arguments.next().unwrap_or_default();
        let called_as = |known: &str| {
            let name = Path::new(&name).file_name();
            name.is_some_and(|name| name == known)
        };
        if called_as(vif::NAME) {
            return Self::HotplugScript;
        }
        let asked_to_help = [
            "--save-domain",
            "--restore-domain",
            "guard",
            emulated::SUBCOMMAND,
        ]
        .iter()
        .any(|word| first == *word);
        if called_as("libxl-save-helper") || asked_to_help {
            Self::Helper
        } else {
            Self::FrontEnd
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(words: &[&str]) -> Role {
        Role::of(words.iter().map(OsString::from))
    }

    #[test]
    fn libxl_finds_the_helper_by_name_or_by_argument() {
        assert_eq!(role(&["lull", "--save-domain"]), Role::Helper);
        assert_eq!(role(&["/x/lull", "--restore-domain"]), Role::Helper);
        assert_eq!(role(&["/usr/lib/xen/libxl-save-helper"]), Role::Helper);
        assert_eq!(role(&["lull", "guard"]), Role::Helper);
        assert_eq!(role(&["lull", "devices", "7"]), Role::Helper);
        let script = role(&["/etc/xen/scripts/vif-lull", "online", "type_if=vif"]);
        assert_eq!(script, Role::HotplugScript);
        assert_eq!(role(&["lull", "migrate"]), Role::FrontEnd);
        assert_eq!(role(&[]), Role::FrontEnd);
    }
}
