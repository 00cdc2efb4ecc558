//! Every [fault](faults) between every two [steps](phases) of a migration, and
//! what must [become](cells) of it: one guest runs, whole, where lull says;
//! nothing is left behind; the exit code is that of the README's table; and
//! seen from outside the guest was not paused beyond its limit.

mod cells;
mod faults;
mod judge;
mod phases;
mod tally;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, Load, Outages};

use crate::attempt::Ended;
use crate::world::{World, everything, scenario, small};

use cells::{CELLS, MORE, Then};
use faults::Fault;
use phases::Phase;
use tally::Row;

/// Where nothing else would ever end the attempt.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Enough for another round, and for pages that are left for the last.
const LOAD: Load = Load::steady(1_500, 2_000);

/// A trial for each phase, and one that tells of all.
pub fn trials() -> Vec<Trial> {
    let more = match everything() {
        true => MORE,
        false => &[],
    };
    let phase = |more: &'static str| {
        move |(phase, cells): &(Phase, &'static [(Fault, Then)])| {
            let (phase, cells) = (*phase, *cells);
            let name = format!("faults-{phase}{more}").to_lowercase();
            let name = name.replace(", ", "-").replace(' ', "-");
            scenario(name, move |world| faults_in(world, phase, cells))
        }
    };
    CELLS
        .iter()
        .map(phase(""))
        .chain(more.iter().map(phase("-more")))
        .chain([Trial::test("faults-in-all", tell)])
        .collect()
}

fn tell() -> Result<(), Failed> {
    if let Some(table) = tally::table() {
        eprintln!("{table}");
    }
    Ok(())
}

fn faults_in(world: &mut World, phase: Phase, cells: &[(Fault, Then)]) -> Result<()> {
    // Xen's own script is in all other scenarios; here it would be half of the time.
    world.host.run("lull enable vif")?.checked()?;
    let mut wrong = Vec::new();
    for (fault, then) in cells {
        let timeline = Timeline::start();
        let tried = try_cell(world, phase, *fault, *then);
        let row = Row {
            phase,
            fault: *fault,
            then: *then,
            seconds: timeline.seconds(),
            tried: tried
                .as_ref()
                .map_err(|error| format!("{error:#}"))
                .cloned(),
        };
        timeline.phase(&row);
        tally::enter(row);
        if let Err(error) = tried {
            world.forget_guest();
            wrong.push(format!("{phase}, {fault}: {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

/// What was seen of an attempt.
#[derive(Debug, Clone)]
struct Seen {
    code: i32,
    /// The pause as lull observed it.
    pause_ms: Option<u64>,
    /// Seconds until lull had ended.
    attempt_took: f64,
    /// As the observer outside did, if that proves anything.
    outage: Option<Outages>,
}

fn try_cell(world: &mut World, phase: Phase, fault: Fault, then: Then) -> Result<Seen> {
    let timeline = Timeline::start();
    let host = world.host.clone();
    let guest = world.guest_like(&GuestSpec {
        name: "tried".into(),
        ..small()
    })?;
    let before = guest.set_load(LOAD)?;
    if let Some(command) = fault.prepared_by() {
        host.run(command)?.checked()?;
    }
    let observer = host.observe_soon(&guest)?;
    let tried = attempt(&host, &guest, phase, fault);
    // Whatever came of it, or the next would find it so.
    if let Some(command) = fault.repaired_by() {
        host.run(command)?.checked()?;
    }
    let ended = tried?;
    let attempt_took = timeline.seconds();
    judge::judge(world, &guest, &before, &ended, then)
        .with_context(|| format!("after: {}", ended.in_short()))?;
    // Of a guest that is gone, or that the rig itself held, it says nothing.
    let outage = observer.stop()?;
    let telling = matches!(then, Then::Stays(_) | Then::Moves(0))
        && !matches!(phase, Phase::Suspending | Phase::ChannelSuspending)
        && phase < Phase::Go;
    let outage = telling.then_some(outage);
    if let Some(outage) = &outage {
        ensure!(
            outage.longest_ms <= phase.limit().as_millis() as f64 + outage.dom0_stall_ms,
            "paused beyond its limit: {outage:?}; {}",
            ended.in_short()
        );
    }
    let result = ended.result().ok();
    Ok(Seen {
        code: ended.code(),
        pause_ms: result.and_then(|result| result["observed_downtime_ms"].as_u64()),
        outage,
        attempt_took,
    })
}

fn attempt(host: &Host, guest: &Guest, phase: Phase, fault: Fault) -> Result<Ended> {
    let source = guest.domid()?;
    let command = fault.command(guest, source, phase.too_late());
    let plan = phase.plan(&command, source, fault.rate());
    let plan = plan.limit(phase.limit());
    let plan = match (fault, phase) {
        (Fault::Stall | Fault::Collapse, phase) if phase < Phase::Suspending => {
            plan.timeout(TIMEOUT)
        }
        // From its start, and the first pass and the landing are in it.
        (Fault::Stall, Phase::ChannelRound) => plan.timeout(5 * TIMEOUT),
        _ => plan,
    };
    // The rig's own hand is in these pauses: no attempt learns from another.
    plan.start(host, guest)?.finish()
}
