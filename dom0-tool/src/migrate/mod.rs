//! `lull migrate`: stock xl moves the guest, and lull's helper copies it. This module
//! starts both, follows them, and reports how it ended.
//!
//! [`xl`] starts the processes, through a [`transport`] of lull's own. [`inbox`] receives
//! their messages, and [`attempt`] follows them; [`control_takeover`] serves operators while the
//! guest lands. What was observed, and which outcome that amounts to, is kept as an
//! [attempt](lull_store::attempt). [`source`] verifies where the guest runs. [`report`] and
//! [`tables`] produce the output.

pub mod attempt;
mod control_takeover;
mod engine;
pub mod inbox;
pub mod progress;
pub mod report;
pub mod source;
pub mod tables;
pub mod transport;
pub mod xl;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use lull_agents::monitor;
use lull_agents::name::Name;
use lull_base::bandwidth::Bandwidth;
use lull_base::duration::{Span, TimeLimit};
use lull_base::exit::not_begun;
use lull_base::monotonic::now_ns;
use lull_base::suggest::did_you_mean;
use lull_base::{own_executable, terminal};
use lull_engine::stub::room::{self, NoRoom};
use lull_store::attempt::observed::ObservedAttempt;
use lull_store::attempt::outcome::{Evidence, Intent, Judgement, Outcome, XlEnd, judge};
use lull_store::ledger::{self, Entry, Known, Ledger, Machine, Subject};
use lull_store::limits::{Chosen, Effective, Trust};
use lull_store::running::claim::{Claim, LockResult};
use lull_store::running::folder::Folder;
use lull_store::runs;
use lull_store::spool;
use lull_wire::events::{Event, Landing};
use lull_xen::host::{self, Guest, Host, NotReady};
use lull_xen::maxmem::guest_frames;
use lull_xen::{DomId, Xen};

use crate::cli::Migrate;
use crate::destination::{Enough, Patience, admit};
use crate::landing::caller::Call;
use crate::landing::{self, Choice, Wanted, choose};
use crate::limits;
use crate::rehearse::{self, Rehearsed, RemoteShell};

use attempt::Attempted;
use inbox::Inbox;
use progress::Watcher;
use report::Report;
use source::{OnXen, Rescue, Seen, Source};

/// Runs `lull migrate` and returns its exit code.
pub fn main(options: &Migrate) -> ExitCode {
    match prepare_and_move(options) {
        Ok(outcome) => outcome.into(),
        Err(error) => not_begun(&error),
    }
}

/// Moves the guest and prints the report.
///
/// # Errors
/// Why nothing was begun.
pub fn prepare_and_move(options: &Migrate) -> anyhow::Result<Outcome> {
    options.check_host().map_err(anyhow::Error::msg)?;
    let (xl, guest) = ready(options)?;
    let (options, limits) = &with_limits(options, &guest)?;
    let lull = own_executable::path()?;
    let ledger = Ledger::at(ledger::FILE);
    let source = OnXen(guest.domid);
    let environment = Environment {
        xl: &xl,
        lull: &lull,
        ledger: &ledger,
        source: &source,
    };
    move_guest(options, limits, &guest, &environment)
}

/// The options, completed with the limits of the file where the command line sets none, and
/// the source of those limits.
fn with_limits(options: &Migrate, guest: &Guest) -> anyhow::Result<(Migrate, Effective)> {
    let mut options = options.clone();
    let mut limits = limits::of_guest(guest)?;
    let of_file = |chosen: &Option<Chosen>| chosen.as_ref().map(|it| TimeLimit(it.limit));
    match options.max_suspend_time {
        Some(_) => limits.max_suspend_time = None,
        None => options.max_suspend_time = of_file(&limits.max_suspend_time),
    }
    match options.timeout {
        Some(_) => limits.timeout = None,
        None => options.timeout = of_file(&limits.timeout),
    }
    match options.bandwidth {
        Some(_) => limits.bandwidth = None,
        None => {
            let file = Chosen::limit_of(limits.bandwidth.as_ref());
            options.bandwidth = file.map(|cap| Bandwidth(Some(cap)));
        }
    }
    match options.connections {
        Some(_) => limits.connections = None,
        None => options.connections = Chosen::limit_of(limits.connections.as_ref()),
    }
    match options.risk {
        Some(_) => limits.risk = None,
        None => options.risk = Chosen::limit_of(limits.risk.as_ref()),
    }
    if options.leave_paused && options.pause_limit().is_some() {
        let from = limits.max_suspend_time.as_ref();
        let from = from.map_or_else(String::new, |from| format!(" ({from})"));
        anyhow::bail!(
            "{} has a limit on its pause{from}, and a guest left paused (-p) keeps none.\nNothing was done. Leave out -p, or give `--max-suspend-time none`.",
            guest.name
        );
    }
    Ok((options, limits))
}

fn ready(options: &Migrate) -> Result<(PathBuf, Guest), NotReady> {
    let xl = Host::default().check()?;
    Ok((xl, host::guest(&options.domain)?))
}

/// What an attempt needs at the source; tests provide their own.
struct Environment<'a> {
    xl: &'a Path,
    lull: &'a Path,
    ledger: &'a Ledger,
    source: &'a dyn Source,
}

fn move_guest(
    options: &Migrate,
    limits: &Effective,
    guest: &Guest,
    environment: &Environment<'_>,
) -> anyhow::Result<Outcome> {
    let begun = now_ns();
    let inbox = Inbox::new();
    inbox.recv_signals().context("signals cannot be caught")?;
    let mut watcher = Watcher::new(options);
    say_what_is_asked(options, limits, guest, &watcher);
    // All that depends on it must agree, so it is looked up once.
    let machine = Machine::of(guest.domid);
    let look_up = |landing: Landing, watcher: &Watcher| {
        let ledger = environment.ledger;
        let name = guest.name.as_str();
        let subject = Subject { name, machine };
        ledger.known(&options.host, subject, landing, |line| {
            watcher.note(line);
        })
    };
    let until = until(options, begun);
    let patience = Patience::new(&inbox, until);
    let stays = |known: &Known, end: (Outcome, String), watcher: &mut Watcher| {
        not_tried(
            options,
            guest,
            known,
            environment.source,
            end,
            begun,
            watcher,
        )
    };
    // This precedes the questions to the destination and the record, which are of no use if
    // another attempt moves the guest.
    let asked = Held::of(guest, &patience, &watcher).and_then(|held| {
        check_room(guest)?;
        let choice = ask_the_destination(options, guest, machine, limits.trust(), &patience)?;
        Ok((held, choice))
    });
    let (held, choice) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let enough = error.downcast::<Enough>()?;
            watcher.record(guest, &options.host);
            let known = look_up(Landing::Classic, &watcher);
            let end = (outcome_of(enough), enough.to_string());
            return Ok(stays(&known, end, &mut watcher));
        }
    };
    let mut why_fewer = String::new();
    let (mut landing, mut call, mut why_classic) = match choice {
        Choice::Fast(call, why) => {
            why_fewer = say_how_many(options, &call, why, &watcher);
            (call.landing(), Some(call), String::new())
        }
        Choice::Classic(why) => (Landing::Classic, None, why),
    };
    let mut known = look_up(landing, &watcher);
    let speaks_for_it = known.machine == Machine::Plain;
    if options.rehearse && !speaks_for_it {
        watcher.note(
            "no rehearsal: the probe guest has no emulated devices, and says nothing about the \
             landing of a guest that has",
        );
    }
    let rehearsed = match options.rehearse && speaks_for_it && !known.has_history() {
        true => Some(rehearse(
            options,
            limits,
            guest,
            landing,
            environment,
            until,
        )?),
        false => None,
    };
    // Recording starts here: a refusal above needs no explanation afterwards.
    watcher.record(guest, &options.host);
    if let Some(rehearsed) = rehearsed {
        if options.json {
            progress::print_json(&Event::Rehearsed(rehearsed.event()));
        }
        if !rehearsed.is_learned() {
            let why = format!("{}. {}", rehearsed.reason(), rehearsed.left());
            let end = (rehearsed.outcome, why);
            return Ok(stays(&known, end, &mut watcher));
        }
        for word in [rehearsed.reason(), rehearsed.left()] {
            if !word.is_empty() {
                watcher.note(&word);
            }
        }
        if let Err(enough) = patience.check() {
            let end = (outcome_of(enough), enough.to_string());
            return Ok(stays(&known, end, &mut watcher));
        }
        known = look_up(landing, &watcher);
    }
    if options.pause_limit().is_some() {
        say_what_is_assumed(options, &known, &watcher);
    }
    if let Some(last) = last_stayed(guest) {
        watcher.note(&last);
    }
    // A second attempt has an inbox of its own. It receives signals from here on, so that
    // none is lost between the two.
    let again = Inbox::new();
    again.recv_signals().context("signals cannot be caught")?;
    let mut received = &inbox;
    let mut options = options.clone();
    let attempted = loop {
        let plan = xl::Plan {
            xl: environment.xl,
            lull: environment.lull,
            guest,
            options: &options,
            known: &known,
            control: &Folder::default(),
            landing,
            claim: held.claim.as_ref(),
            begun,
        };
        let attempted = attempt::run(&plan, call.take(), received, &mut watcher);
        let attempted = attempted.context("xl could not be started")?;
        let Some(why) = classic_instead(&options, landing, &attempted) else {
            break attempted;
        };
        let (judgement, seen) = conclude(&attempted, environment.source);
        if !matches!(seen, Some(Seen::Running)) {
            break attempted;
        }
        if attempted.observed.may_be_renamed() {
            give_name_back(guest, environment.source, &watcher);
        }
        watcher.note(&format!("{why}: it lands the classic way instead"));
        let first = Report {
            guest,
            options: &options,
            observed: &attempted.observed,
            outcome: judgement.outcome,
            why: judgement.why,
            seen: seen.as_ref(),
            monitor_lost: None,
            known: &known,
            why_classic: "",
            why_fewer: &why_fewer,
            duration_ms: now_ns().saturating_sub(begun) / 1_000_000,
        };
        // What is tried next is an attempt of its own, with a record of its own. Messages of
        // the first that are late must not be taken for the second's.
        watcher.conclude(Event::Result(Box::new(first.result())));
        watcher.finish();
        options = options_as_set(options, &attempted.observed);
        watcher = Watcher::new(&options);
        watcher.record(guest, &options.host);
        received = &again;
        landing = Landing::Classic;
        known = look_up(landing, &watcher);
        if let Err((outcome, enough)) = may_follow(&again, &options, begun) {
            let source = environment.source;
            let end = (outcome, format!("{why}; {enough}"));
            return Ok(not_tried(
                &options,
                guest,
                &known,
                source,
                end,
                begun,
                &mut watcher,
            ));
        }
        why_classic = why;
        why_fewer.clear();
    };
    let (judgement, seen) = conclude(&attempted, environment.source);
    let runs = matches!(seen, Some(Seen::Running | Seen::Rescued));
    if runs && attempted.observed.may_be_renamed() {
        give_name_back(guest, environment.source, &watcher);
    }
    let monitor_lost = (runs && attempted.observed.asked_to_suspend())
        .then(|| monitor::lost(&guest.name, guest.domid))
        .flatten();
    drop(held);
    watcher.finish();

    let Attempted { observed, intent } = &attempted;
    if judgement.outcome == Outcome::Moved && *intent == Intent::Cancel {
        watcher.note("it was too late to cancel");
    }
    if judgement.outcome == Outcome::TargetFailed && !known.has_history() {
        let like = environment.ledger.like(&options.host);
        if !like.is_empty() {
            let hint = did_you_mean(&like);
            watcher.note(&format!("nothing is known of {}{hint}", options.host));
        }
    }
    remember(
        &options,
        guest,
        observed,
        &known,
        environment.ledger,
        &watcher,
    );
    let report = Report {
        guest,
        options: &options,
        observed,
        outcome: judgement.outcome,
        why: judgement.why,
        seen: seen.as_ref(),
        monitor_lost: monitor_lost.as_deref(),
        known: &known,
        why_classic: &why_classic,
        why_fewer: &why_fewer,
        duration_ms: now_ns().saturating_sub(begun) / 1_000_000,
    };
    print_outcome(&report, &mut watcher);
    Ok(judgement.outcome)
}

/// Says so if fewer connections than wanted lead to the destination. Returns why, as a
/// clause.
fn say_how_many(options: &Migrate, call: &Call, why: String, watcher: &Watcher) -> String {
    if why.is_empty() {
        return why;
    }
    let wanted = options.connections.unwrap_or_default();
    let why = format!("of {wanted} wanted: {why}");
    let count = match call.connections() {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    };
    watcher.note(&format!("the guest goes over {count} {why}"));
    why
}

/// When the timeout of a command is over that started at `begun`, in nanoseconds of
/// `CLOCK_MONOTONIC`.
fn until(options: &Migrate, begun: u64) -> Option<Instant> {
    let timeout = options.time_limit()?.as_duration();
    let passed = Duration::from_nanos(now_ns().saturating_sub(begun));
    Instant::now().checked_add(timeout.saturating_sub(passed))
}

const fn outcome_of(enough: Enough) -> Outcome {
    match enough {
        Enough::Stopped => Outcome::Cancelled,
        Enough::OutOfTime => Outcome::RefusedTimeout,
    }
}

/// Another attempt has the claim on the guest of this name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is being moved already, or what an attempt before left is still being undone.\nNothing was done. `lull status` shows who moves it; try again when that is over."
)]
pub struct BeingMoved(pub String);

/// Holds the claim on the guest. Two attempts that move one guest could both let it run.
struct Held {
    /// `None` if the lock file cannot be used.
    claim: Option<Claim>,
    domid: DomId,
}

impl Held {
    fn of(guest: &Guest, patience: &Patience<'_>, watcher: &Watcher) -> anyhow::Result<Self> {
        let name = &guest.name;
        let go_on = || patience.check().map_err(anyhow::Error::from);
        let claim = match Claim::preempt_while(&Folder::default(), guest.domid, go_on) {
            Ok(LockResult::Acquired(claim)) => Some(claim),
            Ok(LockResult::Busy) => return Err(BeingMoved(name.clone()).into()),
            Err(error) if error.is::<Enough>() => return Err(error),
            Err(error) => {
                watcher.note(&format!(
                    "{name} cannot be claimed ({error:#}): do not move it twice at once"
                ));
                None
            }
        };
        Ok(Self {
            claim,
            domid: guest.domid,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.let_go(&Folder::default(), self.domid);
        }
    }
}

/// Refuses, before anything is begun, if there is too little memory for the stub of this
/// attempt.
fn check_room(guest: &Guest) -> anyhow::Result<()> {
    let asked = Xen::open_here().and_then(|xen| Ok((guest_frames(&xen, guest.domid)?, xen)));
    // The attempt reports the error if Xen cannot be reached.
    let Ok((frames, xen)) = asked else {
        return Ok(());
    };
    match room::check(&xen, frames) {
        Err(NoRoom::Short(short)) => anyhow::bail!(
            "{} cannot be moved: {short}.\nNothing was done. {}",
            guest.name,
            short.cure()
        ),
        _ => Ok(()),
    }
}

/// Chooses the landing. Refuses a destination that cannot take the guest, before anything
/// is begun.
fn ask_the_destination(
    options: &Migrate,
    guest: &Guest,
    machine: Machine,
    trust: Trust,
    patience: &Patience<'_>,
) -> anyhow::Result<Choice> {
    let (choice, received) = choose(options, guest, machine, trust, patience)?;
    let remote = RemoteShell::new(options.ssh.as_deref(), &options.host);
    match (admit(&remote, received, patience), choice) {
        (Ok(()), choice) => Ok(choice),
        (Err(error), Choice::Fast(call, _)) => {
            call.end();
            Err(error)
        }
        (Err(error), Choice::Classic(_)) => Err(error),
    }
}

fn rehearse(
    options: &Migrate,
    limits: &Effective,
    guest: &Guest,
    landing: Landing,
    environment: &Environment<'_>,
    until: Option<Instant>,
) -> anyhow::Result<Rehearsed> {
    let (xl, lull, ledger) = (environment.xl, environment.lull, environment.ledger);
    let rehearsed = rehearse::before(options, guest, landing, (xl, lull, ledger), until)?;
    // Another disk may have been attached meanwhile.
    if landing.is_fast() {
        // A guest with emulated devices is not rehearsed for.
        landing::devices_bear_it(guest, Machine::Plain, limits.trust()).map_err(|why| {
            anyhow::anyhow!(
                "{} was to land fast and cannot any more: {why}.\nNothing was done but the rehearsal. Try again.",
                guest.name
            )
        })?;
    }
    Ok(rehearsed)
}

/// Reports a move that was not begun: the outcome, and why.
fn not_tried(
    options: &Migrate,
    guest: &Guest,
    known: &Known,
    source: &dyn Source,
    (outcome, why): (Outcome, String),
    begun: u64,
    watcher: &mut Watcher,
) -> Outcome {
    let judgement = Judgement { outcome, why: "" };
    // If the guest is suspended, it was not this attempt that suspended it.
    let seen = source::watch(source, Rescue::Forbidden);
    let Judgement { outcome, .. } = as_seen(judgement, &seen, false);
    let report = Report {
        guest,
        options,
        observed: &ObservedAttempt::default(),
        outcome,
        why: &why,
        seen: Some(&seen),
        monitor_lost: None,
        known,
        why_classic: "",
        why_fewer: "",
        duration_ms: now_ns().saturating_sub(begun) / 1_000_000,
    };
    print_outcome(&report, watcher);
    outcome
}

/// Shows the limits as they were parsed, with their units, and their source if it is not
/// the command line.
fn say_what_is_asked(options: &Migrate, limits: &Effective, guest: &Guest, watcher: &Watcher) {
    fn from<T>(chosen: &Option<Chosen<T>>) -> String {
        let chosen = chosen.as_ref();
        chosen.map_or_else(String::new, |chosen| format!(" ({chosen})"))
    }
    let mut text = format!("moving {} to {}", guest.name, options.host);
    match options.pause_limit() {
        Some(limit) => text.push_str(&format!(", paused for {limit} at most")),
        None => text.push_str(", however long it is paused"),
    }
    text.push_str(&from(&limits.max_suspend_time));
    if let Some(timeout) = options.time_limit() {
        text.push_str(&format!(", within {timeout}{}", from(&limits.timeout)));
    }
    if let Some(cap @ Bandwidth(Some(_))) = options.bandwidth {
        text.push_str(&format!(", by {cap} at most{}", from(&limits.bandwidth)));
    }
    watcher.note(&text);
}

/// The warning for a guest that did not suspend itself the last time, as the copy may be in
/// vain again.
fn last_stayed(guest: &Guest) -> Option<String> {
    let runs = spool::Folder::at(runs::FOLDER, runs::RETENTION);
    let last = runs::run::newest_of(&runs, &guest.name)?;
    let when = last.begun.as_ref().map_or("", |begun| &begun.started);
    last.did_not_suspend().then(|| {
        format!(
            "{} did not suspend itself when it was asked to last time ({when}): if its log \
             tells why, see to that first (`lull cancel {}` ends this)",
            guest.name, guest.name
        )
    })
}

fn say_what_is_assumed(options: &Migrate, known: &Known, watcher: &Watcher) {
    let host = &options.host;
    let because = match known.landings {
        _ if !known.has_history() && known.machine == Machine::Emulated => {
            format!(
                "no guest with emulated devices was seen to land on {host} yet: guessing, and a \
                 slow host may take longer,"
            )
        }
        _ if !known.has_history() => {
            format!(
                "nothing was seen of {host} yet, which `--rehearse` would change: guessing, and \
                 a slow host may take longer,"
            )
        }
        1 => format!("from 1 pause on the way to {host}: assuming"),
        pauses => format!("from {pauses} pauses on the way to {host}: assuming"),
    };
    let costs = known.bounds;
    let ms = |span: Duration| span.as_micros().div_ceil(1_000);
    watcher.note(&format!(
        "{because} at most {} ms to suspend, {} ms for the last bitmap, {} ms for CPU state, {} ms to land, {} ms to resume",
        ms(costs.suspend),
        ms(costs.final_bitmap),
        ms(costs.cpu_state),
        ms(costs.landing),
        ms(costs.resume),
    ));
}

/// Judges the attempt by what was observed of it.
pub fn judged(attempted: &Attempted) -> Judgement {
    let observed = &attempted.observed;
    judge(Evidence {
        helper: observed.helper,
        ended: observed.ended.as_ref(),
        hung_up: observed.hung_up.as_ref().map(|hung_up| hung_up.why),
        ready: observed.gate(),
        handshake_first: observed.landing.is_handshake_first(),
        handshake: &observed.handshake,
        // An attempt is over only after xl has ended.
        xl: observed.xl.unwrap_or(XlEnd::Killed(0)),
        intent: attempted.intent,
    })
}

/// Why the guest is to land the classic way after an attempt to land it fast: the connection
/// to lull land was lost while the guest still ran. `None` if this is not the case, or if
/// the operator wants it otherwise.
fn classic_instead(options: &Migrate, landing: Landing, attempted: &Attempted) -> Option<String> {
    let Attempted { observed, intent } = attempted;
    let may = options.landing == Wanted::Auto && landing.is_fast();
    let is_early = *intent == Intent::Move && !observed.asked_to_suspend();
    let ended = observed.ended.as_ref()?;
    (may && is_early && ended.land_lost).then(|| ended.reason.clone())
}

/// Whether the classic attempt may begin after a fast one. The first takes seconds to end and
/// to be concluded, and reads no signals then.
///
/// # Errors
/// The outcome and the reason, as a clause, if the operator has cancelled meanwhile, or if
/// the timeout is over.
fn may_follow(again: &Inbox, options: &Migrate, begun: u64) -> Result<(), (Outcome, &'static str)> {
    let patience = Patience::new(again, until(options, begun));
    patience.check().map_err(|enough| {
        let why = match enough {
            Enough::Stopped => "cancelled before the classic landing was begun",
            Enough::OutOfTime => "the timeout was over before the classic landing was begun",
        };
        (outcome_of(enough), why)
    })
}

/// The options with the limits that were in force at the end of this attempt, for the one
/// that follows it: `lull set` promises that they hold from then on. The engine reports them
/// rounded down; a limit that is still the one of the options is kept exactly.
fn options_as_set(mut options: Migrate, observed: &ObservedAttempt) -> Migrate {
    let Some(set) = observed.limits else {
        return options;
    };
    let as_set = |given: Option<Span>, set_ms: Option<u64>| match set_ms {
        Some(ms) if given.map(Span::as_millis) != Some(ms) => Some(Span::from_limit_millis(ms)),
        _ => given,
    };
    let max_suspend_time = as_set(options.pause_limit(), set.limit_ms);
    let timeout = as_set(options.time_limit(), set.timeout_ms);
    options.max_suspend_time = Some(TimeLimit(max_suspend_time));
    options.timeout = Some(TimeLimit(timeout));
    options.bandwidth = Some(Bandwidth::from_bytes(set.bandwidth.unwrap_or(0)));
    options
}

/// Judges the attempt, and checks the guest at the source. A guest that moved must not run
/// there.
fn conclude(attempted: &Attempted, source: &dyn Source) -> (Judgement, Option<Seen>) {
    let judgement = judged(attempted);
    if judgement.outcome == Outcome::Moved {
        return match source::runs_on(source) {
            false => (judgement, None),
            true => (
                Judgement {
                    outcome: Outcome::Unknown,
                    why: "it was said to run at the destination, and runs at the source",
                },
                Some(Seen::Running),
            ),
        };
    }
    // This attempt does not undo a suspension that it did not request.
    let rescue = match judgement.outcome {
        Outcome::Unknown => Rescue::Forbidden,
        _ if !attempted.observed.asked_to_suspend() => Rescue::Forbidden,
        _ => Rescue::Allowed,
    };
    let seen = source::watch(source, rescue);
    let judgement = as_seen(
        judgement,
        &seen,
        attempted.observed.is_past_point_of_no_return(),
    );
    (judgement, Some(seen))
}

/// Gives a guest that stays its own name back. xl does it itself unless it was cut off, or
/// unless the guest's copy on this host still has the name.
fn give_name_back(guest: &Guest, source: &dyn Source, watcher: &Watcher) {
    let name = &guest.name;
    let why = match source.give_name_back(name) {
        Ok(Name::Own) => return,
        Ok(Name::Taken(other)) => format!("domain {other} is called {name}"),
        Err(error) => error.to_string(),
    };
    watcher.note(&format!(
        "{name} runs here under the name that xl gave it for the handshake, {name}--migratedaway ({why}): `xl rename {} {name}` gives its own back",
        guest.domid
    ));
}

/// An outcome with the guest running at the source stands only if the guest was seen to
/// run.
fn as_seen(judgement: Judgement, seen: &Seen, is_past_point_of_no_return: bool) -> Judgement {
    let unknown = judgement.outcome == Outcome::Unknown || is_past_point_of_no_return;
    match seen {
        Seen::Running | Seen::Rescued => judgement,
        Seen::Dead(_) if !unknown => Judgement {
            outcome: Outcome::GuestDied,
            why: "the guest itself died",
        },
        Seen::Dead(_) | Seen::NotRunning(_) => Judgement {
            outcome: Outcome::Unknown,
            ..judgement
        },
    }
}

/// Records the pause in the ledger, including one that ended at the source. A guest that
/// was to be left paused is an exception: what was measured is not its pause.
fn remember(
    options: &Migrate,
    guest: &Guest,
    observed: &ObservedAttempt,
    known: &Known,
    ledger: &Ledger,
    watcher: &Watcher,
) {
    let entry = observed.entry(&guest.name, known);
    let Some(entry) = entry.filter(|_| !options.leave_paused) else {
        return;
    };
    keep(ledger, &options.host, entry, watcher);
}

/// Adds a pause to the ledger. A failure does not end the migration.
pub fn keep(ledger: &Ledger, host: &str, entry: Entry, watcher: &Watcher) {
    if let Err(error) = ledger.add(host, entry, |line| watcher.note(line)) {
        watcher.note(&format!("the ledger could not be kept: {error}"));
    }
}

/// Prints tables and verdict on standard output; with `--json` only the result goes there.
fn print_outcome(report: &Report<'_>, watcher: &mut Watcher) {
    let result = Event::Result(Box::new(report.result()));
    let say: fn(&str) = if report.options.json {
        progress::print_json(&result);
        terminal::to_stderr
    } else {
        let tables = report.tables().to_string();
        if !tables.is_empty() {
            terminal::to_stdout(&format!("{tables}\n"));
        }
        terminal::to_stdout
    };
    let paragraph = report.paragraph();
    if !paragraph.is_empty() {
        say(&paragraph);
    }
    // The spooler may print a complaint, which must precede the last line.
    watcher.conclude(result);
    say(&report.last_line());
}
