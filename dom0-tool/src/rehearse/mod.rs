//! `lull rehearse`: a probe guest moves to a host, so that the length of a landing there is
//! known before an important guest moves.
//!
//! The [`workdir`] creates one guest, the [`probe_guest`], with a [`kernel`] of lull's own
//! and the [`interfaces`] of the guest that is to follow. It moves like any other guest, by
//! [`crate::migrate`], and is destroyed at the destination over the same [`remote_shell`].
//! [`render`] reports the result.
//!
//! The probe guest does not come back: the receiver of a guest runs, as root, what the
//! sender's configuration names, and a destination is not trusted with that. The opposite
//! direction is rehearsed from the other host.
//!
//! # When a part dies
//! - This process: its [`mod@guard`] clears both hosts.
//! - The guard too: the next rehearsal finds the record and clears both hosts.
//! - This host, or the link: the guest's own clock expires. It lives for
//!   [`probe_guest::DESTROYS_ITSELF`] on any host, and xl there destroys it.
//! - The receiver, by SIGKILL, with a copy not yet started: the end of the rehearsal finds
//!   the copy, because it looks for every name that the guest may have.

mod guard;
pub mod interfaces;
mod kernel;
mod probe_guest;
mod remote_shell;
mod render;
mod workdir;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use lull_base::connections::Connections;
use lull_base::duration::{Span, TimeLimit};
use lull_base::exit::not_begun;
use lull_base::monotonic::now_ns;
use lull_base::own_executable;
use lull_store::attempt::outcome::Outcome;
use lull_store::ledger::{self, Costs, Entry, Ledger, Machine};
use lull_store::limits::Trust;
use lull_store::running::folder::Folder;
use lull_wire::events::Landing;
use lull_xen::host::{self, Guest, Host};
use lull_xen::xenstore::Xenstore;

use crate::cli::Migrate;
use crate::destination::{Enough, Patience, Received, admit};
use crate::landing::{Choice, Wanted, choose, devices_bear_it};
use crate::limits;
use crate::migrate::inbox::{Inbox, Message};
use crate::migrate::progress::Watcher;
use crate::migrate::report::Report;
use crate::migrate::{attempt, judged, keep, xl};
use guard::Guard;
use interfaces::Interface;
use render::Left;
use workdir::Workdir;

pub use guard::main as guard;
pub use remote_shell::{BATCH, RemoteShell, kept_alive, takes_words};
pub use render::Rehearsed;

/// The longest pause measured. A destination that takes longer for so small a guest is not
/// measured further.
const LONGEST_PAUSE: Span = Span::seconds(60);

/// The longest copy measured, in seconds. A link that takes longer for so small a guest is not measured
/// further.
const LONGEST_COPY: u16 = 120;

/// The options of `lull rehearse`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull rehearse host2
  lull rehearse --like web1 host2
  lull rehearse --landing classic host2     as a guest lands by xl and virsh

The probe guest does not come back: a host that receives a guest gives its
sender root's rights. Rehearse the other direction at the other host.

Exit codes: 0 moved, and measured; 2 wrong usage or host not ready, nothing was
  done; 5 cancelled; 6 the destination failed; 7 this host failed; 8 the
  probe guest could not be removed everywhere.")]
pub struct Options {
    /// Give the probe guest this guest's network interfaces
    ///
    /// As many, on the same bridges and by the same scripts: most of a landing
    /// is the destination's work on them. Without it: one, on xl's default
    /// bridge. The probe guest has no disk. If this guest's disks rule out a fast
    /// landing, the probe guest lands the classic way, too.
    #[arg(long, value_name = "DOMAIN")]
    pub like: Option<String>,

    /// In which order the probe guest lands
    ///
    /// The figures apply only to landings in that order.
    #[arg(long, value_enum, value_name = "ORDER", default_value_t)]
    pub landing: Wanted,

    /// Print one JSON object per line on standard output; the last has
    /// "type":"rehearsed"
    #[arg(long)]
    pub json: bool,

    /// Show what xl and the helper say; twice for more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Use this instead of ssh (xl migrate -s); empty: HOST is itself the
    /// command that runs `xl migrate-receive`, and what is left there destroys itself
    #[arg(short, value_name = "SSHCOMMAND", allow_hyphen_values = true)]
    pub ssh: Option<String>,

    /// The destination, as ssh knows it
    pub host: String,
}

pub fn main(options: &Options) -> ExitCode {
    match prepare_and_rehearse(options) {
        Ok(rehearsed) => {
            rehearsed.print(options.json);
            rehearsed.code().into()
        }
        Err(error) => not_begun(&error),
    }
}

/// An error means that nothing was started.
fn prepare_and_rehearse(options: &Options) -> anyhow::Result<Rehearsed> {
    let rehearsal = Rehearsal::new(options.ssh.as_ref(), &options.host, options.verbose);
    rehearsal
        .as_a_move("")
        .check_host()
        .map_err(anyhow::Error::msg)?;
    let xl = Host::default().check()?;
    let lull = own_executable::path()?;
    let (interfaces, landing) = match &options.like {
        None => (vec![Interface::default()], options.landing),
        Some(domain) => {
            let guest = host::domain(domain)?;
            let landing = landing_like(&guest, options.landing)?;
            (interfaces_of(&guest)?, landing)
        }
    };
    let rehearsal = Rehearsal {
        landing,
        ..rehearsal
    };
    let ledger = Ledger::at(ledger::FILE);
    let inbox = inbox_with_signals()?;
    // A rehearsal as part of a move is already admitted.
    if let Err(error) = admit(
        &rehearsal.remote,
        Received::NotAsked,
        &Patience::new(&inbox, None),
    ) {
        let enough = error.downcast::<Enough>()?;
        let mut rehearsed =
            Rehearsed::new(rehearsal.remote.host(), rehearsal.remote.takes_commands());
        rehearsed.fail(Outcome::Cancelled, enough.to_string());
        return Ok(rehearsed);
    }
    rehearsal.run(&xl, &lull, &ledger, &interfaces, &inbox)
}

/// Rehearses a move that is about to begin, whose timeout is over at `until`. An error means
/// that nothing was started.
pub fn before(
    options: &Migrate,
    guest: &Guest,
    landing: Landing,
    (xl, lull, ledger): (&Path, &Path, &Ledger),
    until: Option<Instant>,
) -> anyhow::Result<Rehearsed> {
    let rehearsal = Rehearsal {
        until,
        landing: match landing {
            Landing::Classic => Wanted::Classic,
            Landing::Fast | Landing::FastHandshakeLast => Wanted::Fast,
        },
        receiver_command: options.receiver_command.clone(),
        ..Rehearsal::new(options.ssh.as_ref(), &options.host, options.verbose)
    };
    let interfaces = interfaces_of(guest)?;
    rehearsal.run(xl, lull, ledger, &interfaces, &inbox_with_signals()?)
}

fn inbox_with_signals() -> anyhow::Result<Inbox> {
    let inbox = Inbox::new();
    inbox.recv_signals().context("signals cannot be caught")?;
    Ok(inbox)
}

/// The landing that this guest's disks allow, whatever the destination has.
fn landing_like(guest: &Guest, wanted: Wanted) -> anyhow::Result<Wanted> {
    let trust = limits::of_guest(guest)?.trust();
    match devices_bear_it(guest, Machine::of(guest.domid), trust) {
        Ok(()) => Ok(wanted),
        Err(why) if wanted == Wanted::Fast => anyhow::bail!(
            "{} could not land fast: {why}.\nNothing was done.",
            guest.name
        ),
        Err(_) => Ok(Wanted::Classic),
    }
}

fn interfaces_of(guest: &Guest) -> anyhow::Result<Vec<Interface>> {
    Xenstore::open()
        .and_then(|mut store| Interface::of(&mut store, guest.domid))
        .with_context(|| format!("the network interfaces of {} cannot be read", guest.name))
}

/// The parameters of one rehearsal.
struct Rehearsal {
    remote: RemoteShell,
    ssh: Option<String>,
    landing: Wanted,
    receiver_command: Option<String>,
    verbose: u8,
    /// When the timeout of the move that follows is over.
    until: Option<Instant>,
}

impl Rehearsal {
    fn new(ssh: Option<&String>, host: &str, verbose: u8) -> Self {
        Self {
            remote: RemoteShell::new(ssh.map(String::as_str), host),
            ssh: ssh.cloned(),
            landing: Wanted::Auto,
            receiver_command: None,
            verbose,
            until: None,
        }
    }

    /// [`LONGEST_COPY`], or what the timeout of the move that follows leaves of it.
    fn longest_copy(&self) -> Span {
        let left = self.until.map(|until| {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            u16::try_from(left).unwrap_or(LONGEST_COPY)
        });
        Span::seconds(left.map_or(LONGEST_COPY, |left| left.clamp(1, LONGEST_COPY)))
    }

    fn as_a_move(&self, guest: &str) -> Migrate {
        Migrate {
            max_suspend_time: Some(TimeLimit(Some(LONGEST_PAUSE))),
            timeout: Some(TimeLimit(Some(self.longest_copy()))),
            bandwidth: None,
            // The probe guest is small.
            connections: Some(Connections::ONE),
            risk: None,
            rehearse: false,
            json: false,
            verbose: self.verbose,
            ssh: self.ssh.clone(),
            config: None,
            no_monitor: false,
            foreground: false,
            keep_number: false,
            live: true,
            leave_paused: false,
            debug: false,
            landing: self.landing,
            receiver_command: self.receiver_command.clone(),
            domain: guest.to_owned(),
            host: self.remote.host().to_owned(),
        }
    }

    fn run(
        &self,
        xl: &Path,
        lull: &Path,
        ledger: &Ledger,
        interfaces: &[Interface],
        inbox: &Inbox,
    ) -> anyhow::Result<Rehearsed> {
        let mut watcher = Watcher::quiet(self.verbose);
        let workdir = Workdir::take(xl, self.remote.clone(), &|line| watcher.note(line))?;
        let guard = Guard::start(lull).context("the rehearsal's guard cannot be started")?;
        watcher.note(&format!(
            "rehearsing the way to {}: creating a probe guest of {} MiB with {}",
            self.remote.host(),
            probe_guest::MEMORY_MIB,
            match interfaces.len() {
                1 => "1 network interface".to_owned(),
                count => format!("{count} network interfaces"),
            },
        ));
        let mut rehearsed = Rehearsed::new(self.remote.host(), self.remote.takes_commands());
        match workdir.create(xl, interfaces) {
            Ok(guest) => {
                let place = (xl, lull, ledger);
                self.there(&guest, place, inbox, &mut watcher, &mut rehearsed);
            }
            Err(error) => rehearsed.fail(Outcome::SourceFailed, format!("{error:#}")),
        }
        self.clear(workdir, xl, &mut rehearsed);
        match rehearsed.left {
            Left::Nothing => guard.dismiss(),
            // The guard is dropped and tries again.
            Left::Here(_) | Left::There(_) => drop(guard),
        }
        watcher.finish();
        Ok(rehearsed)
    }

    /// Moves the probe guest there as any other guest and records the figures in the
    /// ledger.
    fn there(
        &self,
        guest: &Guest,
        (xl, lull, ledger): (&Path, &Path, &Ledger),
        inbox: &Inbox,
        watcher: &mut Watcher,
        rehearsed: &mut Rehearsed,
    ) {
        if was_stopped(inbox) {
            rehearsed.fail(Outcome::Cancelled, "cancelled before anything was moved");
            return;
        }
        watcher.note(&format!("moving it to {}", self.remote.host()));
        let begun = Instant::now();
        let begun_ns = now_ns();
        let options = self.as_a_move(&guest.name);
        let patience = Patience::new(inbox, self.until);
        let (landing, call) = match choose(&options, guest, Machine::Plain, Trust::List, &patience)
        {
            Ok((Choice::Fast(call, _), _)) => (call.landing(), Some(call)),
            Ok((Choice::Classic(_), _)) => (Landing::Classic, None),
            Err(error) => {
                let outcome = match error.downcast_ref::<Enough>() {
                    Some(Enough::Stopped) => Outcome::Cancelled,
                    Some(Enough::OutOfTime) => Outcome::RefusedTimeout,
                    None => Outcome::TargetFailed,
                };
                rehearsed.fail(outcome, format!("{error:#}"));
                return;
            }
        };
        rehearsed.order = Some(landing);
        let known = ledger.known(&options.host, guest.name.as_str(), landing, |line| {
            watcher.note(line);
        });
        let plan = xl::Plan {
            xl,
            lull,
            guest,
            options: &options,
            known: &known,
            control: &Folder::default(),
            landing,
            // No other process knows the probe guest, so it needs no claim.
            claim: None,
            begun: begun_ns,
        };
        let attempted = match attempt::run(&plan, call, inbox, watcher) {
            Ok(attempted) => attempted,
            Err(error) => {
                let why = format!("xl could not be started: {error}");
                rehearsed.fail(Outcome::SourceFailed, why);
                return;
            }
        };
        let observed = &attempted.observed;
        let judgement = judged(&attempted);
        rehearsed.there(begun.elapsed(), observed);
        if judgement.outcome != Outcome::Moved {
            let report = Report {
                guest,
                options: &options,
                observed,
                outcome: judgement.outcome,
                why: judgement.why,
                seen: None,
                monitor_lost: None,
                known: &known,
                why_classic: "",
                why_fewer: "",
                duration_ms: 0,
            };
            rehearsed.fail(judgement.outcome, report.reason());
            return;
        }
        rehearsed.outcome = Outcome::Moved;
        if let Some(entry) = observed.entry(&guest.name, &known) {
            keep(ledger, &options.host, lesson(entry), watcher);
        }
    }

    /// Clears the destination first: if both hosts are the same, clearing it would
    /// otherwise find the guest that is here.
    fn clear(&self, workdir: Workdir, xl: &Path, rehearsed: &mut Rehearsed) {
        let there = match rehearsed.has_reported_there {
            true => workdir.probe_guest().clear_there(),
            false => Ok(()),
        };
        // If the destination takes no commands, the next rehearsal could not do more
        // either.
        let done = there.is_ok() || !self.remote.takes_commands();
        let here = workdir.clean_up(xl, done);
        rehearsed.left = match (here, there) {
            (Err(error), _) => Left::Here(format!("{error:#}")),
            (Ok(_), Ok(())) => Left::Nothing,
            // The command led back to this host.
            (Ok(1..), Err(_)) if !self.remote.takes_commands() => Left::Nothing,
            (Ok(_), Err(error)) => Left::There(format!("{error:#}")),
        };
    }
}

/// The figures of the probe guest's pause that apply to other guests: those of the landing.
/// A kernel that has nothing to put to rest says nothing about a suspend. Parts that grow
/// with a guest's size count only if even this small guest exceeded the assumed bound.
fn lesson(entry: Entry) -> Entry {
    let more_than =
        |assumed: Duration, ms: Option<u64>| ms.filter(|ms| u128::from(*ms) > assumed.as_millis());
    Entry {
        final_bitmap_ms: more_than(Costs::ASSUMED.final_bitmap, entry.final_bitmap_ms),
        cpu_state_ms: more_than(Costs::ASSUMED.cpu_state, entry.cpu_state_ms),
        landing: entry.landing,
        landing_ms: entry.landing_ms,
        after_ready_ms: entry.after_ready_ms,
        ..Entry::default()
    }
}

fn was_stopped(inbox: &Inbox) -> bool {
    std::iter::from_fn(|| inbox.next(Duration::ZERO))
        .any(|message| matches!(message, Message::Stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_speaks_for_other_guests_is_learned() {
        let seen = Entry {
            guest: Some("a probe guest".to_owned()),
            suspend_ms: Some(1),
            final_bitmap_ms: Some(1),
            cpu_state_ms: Some(700),
            landing_ms: Some(2_000),
            after_ready_ms: Some(100),
            observed_ms: Some(2_800),
            ..Entry::default()
        };
        let learned = Entry {
            cpu_state_ms: Some(700),
            landing_ms: Some(2_000),
            after_ready_ms: Some(100),
            ..Entry::default()
        };
        assert_eq!(lesson(seen), learned);
        assert!(learned.is_rehearsal());
    }
}
