//! Injects every [fault](faults) between every two [steps](phases) of a migration, and
//! checks the [outcome](cells): one guest runs, intact, where lull reports it; nothing is
//! left behind; the exit code is that of the README's table; and seen from outside the
//! guest was not paused beyond its limit.

mod cells;
mod faults;
mod judge;
mod phases;
mod tally;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Failed;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, Load, Outages};

use crate::attempt::Ended;
use crate::sites::Site;
use crate::world::{Scenario, World, scenario, scenario_at, small};

pub use cells::NEWER;
pub use faults::Fault;
pub use phases::Phase;

use cells::{ALWAYS, CELLS, Then};
use tally::Row;

/// The timeout for cells in which nothing else would ever end the attempt.
const TIMEOUT: Duration = Duration::from_secs(6);

/// A load that leads to another round and leaves pages for the last one.
const LOAD: Load = Load::steady(1_500, 2_000);

/// The time that a cell takes on a quiet machine, in seconds; with some faults lull waits
/// for an end.
const SECONDS: u32 = 10;

/// The additional time of a cell in which lull waits, in seconds.
const WAITING: u32 = 6;

/// Returns the cells that every run tries.
pub fn essential() -> Vec<Scenario> {
    let cells: Vec<_> = grouped(is_essential).into_iter().flatten().collect();
    assert_eq!(cells.len(), ALWAYS.len(), "one of them is not in the table");
    cells
}

/// Returns all other cells, phase by phase.
pub fn others() -> Vec<Vec<Scenario>> {
    grouped(|phase, fault| !is_essential(phase, fault))
}

/// Returns some cells that are tried on Xen 4.20.
pub fn on_newer(some: &[(Phase, Fault)]) -> Vec<Scenario> {
    let wanted = |phase: Phase, fault: Fault| some.contains(&(phase, fault));
    CELLS
        .iter()
        .flat_map(|(phase, cells)| cells.iter().map(|cell| (*phase, *cell)))
        .filter(|(phase, (fault, _))| wanted(*phase, *fault))
        .map(|(phase, (fault, then))| {
            let name = format!("xen-4.20-{}", name(phase, fault));
            scenario_at(Site::Newer, name, seconds(fault), move |world| {
                tried(world, phase, fault, then)
            })
        })
        .collect()
}

fn is_essential(phase: Phase, fault: Fault) -> bool {
    ALWAYS.contains(&(phase, fault))
}

fn grouped(wanted: impl Fn(Phase, Fault) -> bool) -> Vec<Vec<Scenario>> {
    let group = |(phase, cells): &(Phase, &[(Fault, Then)])| {
        let cells = cells.iter().filter(|(fault, _)| wanted(*phase, *fault));
        cells
            .map(|(fault, then)| cell(*phase, *fault, *then))
            .collect()
    };
    CELLS.iter().map(group).collect()
}

fn cell(phase: Phase, fault: Fault, then: Then) -> Scenario {
    scenario(name(phase, fault), seconds(fault), move |world| {
        tried(world, phase, fault, then)
    })
}

fn name(phase: Phase, fault: Fault) -> String {
    let words = format!("faults {phase} {fault}").to_lowercase();
    let words = words.replace(',', "").replace('^', "ctrl-");
    words.replace(' ', "-")
}

const fn seconds(fault: Fault) -> u32 {
    match fault {
        Fault::Stall | Fault::Collapse | Fault::LateSuspend => SECONDS + WAITING,
        _ => SECONDS,
    }
}

/// Prints the results of all cells that were tried.
pub fn print() -> Result<(), Failed> {
    if let Some(table) = tally::all() {
        eprintln!("{table}");
    }
    Ok(())
}

fn tried(world: &mut World, phase: Phase, fault: Fault, then: Then) -> Result<()> {
    let timeline = Timeline::start();
    let tried = try_cell(world, phase, fault, then);
    let row = Row {
        phase,
        fault,
        then,
        seconds: timeline.seconds(),
        tried: tried
            .as_ref()
            .map_err(|error| format!("{error:#}"))
            .cloned(),
    };
    timeline.phase(&row);
    tally::enter(row);
    tried.map(drop)
}

/// Returns the guest that cells hand on to each other. It uses lull's network script: Xen's
/// own script runs in all other scenarios, and would take half of the time here.
fn guest(world: &mut World) -> Result<Guest> {
    world.host.run("lull enable vif")?.checked()?;
    let guest = world.guest_like(&GuestSpec {
        name: "tried".into(),
        ..small()
    });
    // This guest keeps the script; later guests do not get it.
    world.host.run("lull disable vif")?.checked()?;
    guest
}

/// The observations of an attempt.
#[derive(Debug, Clone)]
struct Seen {
    code: i32,
    /// The pause as lull observed it, in milliseconds.
    pause_ms: Option<u64>,
    /// The time until lull had ended, in seconds.
    attempt_took: f64,
    /// The outages as the observer outside saw them, if they prove anything.
    outage: Option<Outages>,
}

fn try_cell(world: &mut World, phase: Phase, fault: Fault, then: Then) -> Result<Seen> {
    let timeline = Timeline::start();
    let host = world.host.clone();
    let guest = guest(world)?;
    let before = guest.set_load(LOAD)?;
    if let Some(command) = fault.prepared_by() {
        host.run(command)?.checked()?;
    }
    let observer = host.observe_soon(&guest)?;
    let tried = attempt(&host, &guest, phase, fault);
    // This runs whatever the result was, because the next cell would find the fault in
    // place.
    if let Some(command) = fault.repaired_by() {
        host.run(command)?.checked()?;
    }
    let ended = tried?;
    let attempt_took = timeline.seconds();
    judge::judge(world, &guest, &before, &ended, then)
        .with_context(|| format!("after: {}", ended.in_short()))?;
    // If the guest is gone, or if the rig itself held it, the outage proves nothing.
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
        // The timeout counts from the start of the attempt, and includes the first pass and
        // the landing.
        (Fault::Stall, Phase::ChannelRound) => plan.timeout(5 * TIMEOUT),
        _ => plan,
    };
    // The rig itself prolongs these pauses, so no attempt uses the history of another.
    plan.start(host, guest)?.finish()
}
