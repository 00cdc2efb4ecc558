//! Rehearsals, which move a probe guest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host};
use serde_json::Value;

use crate::aftermath;
use crate::attempt::{LEDGER, Plan, is};
use crate::world::World;

/// The longest time that a rehearsal may take: it makes several connections over an
/// emulated ssh, one after the other.
const TIMEOUT: Duration = Duration::from_secs(400);

/// The path of the record of a rehearsal.
const RECORD: &str = "/run/lull-rehearsal/record";

/// Rehearses a move to a host with lull, as a user would.
pub fn there(world: &mut World) -> Result<()> {
    rehearse(world, "", "fast")
}

/// Rehearses the classic landing, for guests that xl and virsh will move.
pub fn there_classic(world: &mut World) -> Result<()> {
    rehearse(world, "--landing classic", "classic")
}

/// Rehearses over ssh with that order of landing; nothing receives guests here outside of
/// ssh. The costs are in the ledger afterwards, and nothing of the rehearsal is left on the
/// host, which is source and destination.
fn rehearse(world: &mut World, options: &str, order: &str) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    let timeline = Timeline::start();
    host.run(&format!("rm -f {LEDGER}"))?.checked()?;
    let command = format!("lull rehearse {options} --json localhost");
    let output = host.run_for(&command, TIMEOUT)?;
    let said = output.clone().checked()?;
    let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default())
        .with_context(|| format!("{output:?}"))?;
    ensure!(
        is(&last, "rehearsed")
            && last["outcome"] == "learned"
            && last["landing"] == order
            && last["left_behind"] == false,
        "{output:?}"
    );
    let landing = last["observed"]["landing_ms"].as_u64();
    ensure!(landing.is_some_and(|ms| ms > 0), "{last}");
    timeline.phase(format_args!(
        "landing {} ms; there {} ms",
        last["observed"]["landing_ms"], last["there_ms"]
    ));
    let entries = ledger(host, "localhost")?;
    ensure!(
        entries.len() == 1
            && entries[0]["landing_ms"].as_u64() == landing
            && entries[0]["landing"] == order
            && entries[0]["guest"].is_null()
            && entries[0]["suspend_ms"].is_null(),
        "{entries:?}"
    );
    nothing_is_left(host, &guest)
}

/// A rehearsal that is killed in the middle leaves nothing either; its guard cleans up.
pub fn killed(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    kill_one(host, "^rehearse")?;
    let timeline = Timeline::start();
    while host.run(&format!("cat {RECORD}"))?.checked()? != "null" {
        ensure!(
            timeline.seconds() < 120.0,
            "the probe guest was not removed"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    nothing_is_left(host, &guest)
}

/// A rehearsal that is killed together with its guard leaves its guest until the next
/// rehearsal. That one is requested by a move, and made once.
pub fn killed_then_before_a_move(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    kill_one(host, "^(rehearse|guard-rehearsal)")?;
    ensure!(probe_guest(host)?, "the probe guest went by itself");
    let refused =
        host.run("lull migrate $(xl list | awk '/lull-rehearsal/{print $1; exit}') localhost")?;
    ensure!(
        refused.status == 2 && refused.stderr.contains("probe guest"),
        "{refused:?}"
    );

    let plan = Plan::direct()
        .rehearsed()
        .limit(world.pace.scaled(Duration::from_secs(12)));
    let ended = plan.run(host, &guest)?;
    ended.expect(0)?;
    let rehearsed = ended.event("rehearsed").context("no rehearsal")?;
    ensure!(
        rehearsed["outcome"] == "learned" && rehearsed["left_behind"] == false,
        "{rehearsed}"
    );
    for words in ["an earlier rehearsal left here", "with 1 network interface"] {
        ensure!(
            ended.output.stderr.contains(words),
            "no {words:?}: {}",
            ended.output.stderr
        );
    }
    let costs = &ended.event("started").context("no start")?["fixed_costs"];
    ensure!(
        costs["landing_ms"].as_u64() >= rehearsed["observed"]["landing_ms"].as_u64(),
        "{costs} after {rehearsed}"
    );
    aftermath::check(host, &guest, &ended)?;
    nothing_is_left(host, &guest)?;

    let plan = Plan::direct().rehearsed().limit(Duration::from_millis(1));
    let again = plan.start_as_it_is(host, &guest)?.finish()?;
    again.expect(3)?;
    ensure!(
        again.event("rehearsed").is_none(),
        "rehearsed although the way is known: {}",
        again.in_short()
    );
    Ok(())
}

/// Starts a rehearsal and kills the processes of that name once its guest is there.
fn kill_one(host: &Host, name: &str) -> Result<()> {
    let timeline = Timeline::start();
    let _spawned = host.spawn("lull rehearse -s '' 'xl migrate-receive'")?;
    while !probe_guest(host)? {
        ensure!(timeline.seconds() < 60.0, "no probe guest came");
    }
    host.run(&format!(
        "kill -KILL $(ps -eo pid=,args= | awk '$2 ~ /lull$/ && $3 ~ /{name}/ {{print $1}}')"
    ))?
    .checked()?;
    Ok(())
}

fn probe_guest(host: &Host) -> Result<bool> {
    let domains = host.domains()?;
    Ok(domains
        .iter()
        .any(|d| d.name.starts_with("lull-rehearsal-of-")))
}

fn ledger(host: &Host, destination: &str) -> Result<Vec<Value>> {
    let text = host.run(&format!("cat {LEDGER}"))?.checked()?;
    let book: Value = serde_json::from_str(&text)?;
    let entries = book["destinations"][destination].as_array();
    entries
        .cloned()
        .with_context(|| format!("no entries: {text}"))
}

/// Checks that no domain, process, log or file is left except the record, which is empty.
fn nothing_is_left(host: &Host, guest: &Guest) -> Result<()> {
    aftermath::no_leaks(host, &[guest])?;
    let files = host
        .run("find /run/lull-rehearsal /var/log/xen -name '*lull-rehearsal-of*' -o -name kernel -o -name config")?
        .checked()?;
    ensure!(files.is_empty(), "left behind: {files}");
    let record = host.run(&format!("cat {RECORD}"))?.checked()?;
    ensure!(record == "null", "it is remembered: {record}");
    Ok(())
}
