//! Two guests of one host that are moved at the same time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::{Guest, Host};

use crate::aftermath;
use crate::attempt::{Ended, Plan};
use crate::world::{MODERATE, World, spec};

/// The longest time that two simultaneous landings may take under emulation.
const LIMIT: Duration = Duration::from_secs(25);

/// The bandwidth cap of each attempt before its suspend.
const CAP: &str = "512KiB/s";

/// The command that receives at the second destination.
const SECOND: &str = "unshare -m sh -c 'mount -t tmpfs none /run/lock && exec xl migrate-receive'";

/// The folder that the node exporter would read.
const COLLECTED: &str = "/var/lib/prometheus/node-exporter";

/// Both attempts are visible. One is cancelled and the other is not affected; then both
/// guests move, and each attempt leaves a record and an entry in the ledger.
///
/// One host stands for two destinations, so the second has xl's lock in a mount of its own.
/// With one lock between them stock xl's second receiver was seen to give up ("Domain
/// creation failed"); the cause was not found.
pub fn two_at_once(world: &mut World) -> Result<()> {
    let busy = world.guest()?;
    let host = world.host.clone();
    let other = host.create_guest(&spec("other"))?;
    let moved = both(&host, &busy, &other);
    let collected = host.run(&format!("rm -rf {COLLECTED}"));
    moved?;
    collected?.checked()?;
    other.destroy()
}

fn both(host: &Host, busy: &Guest, other: &Guest) -> Result<()> {
    other.set_load(MODERATE)?;
    host.run(&format!("mkdir -p {COLLECTED}"))?.checked()?;
    let records = number(host, "ls /var/lib/lull/runs 2>/dev/null | wc -l")?;

    // With the cap each attempt takes minutes, so neither ends while they are inspected.
    let mut first = Plan::direct().limit(LIMIT).capped(CAP).start(host, busy)?;
    first.wait_until_copying()?;
    let mut second = Plan::by_command(SECOND)
        .limit(LIMIT)
        .capped(CAP)
        .start_as_it_is(host, other)?;
    second.wait_until_copying()?;
    for (what, command) in [
        (
            "status",
            "lull status --json | grep -c '\"type\":\"status\"'",
        ),
        ("sockets", "ls /run/lull/*.sock | wc -l"),
        ("claims", "ls /run/lull/*.log | wc -l"),
        ("stubs", "xl list | grep -c lull-stub"),
    ] {
        let seen = number(host, command)?;
        ensure!(seen == 2, "{what}: {seen}");
    }
    counted_as_running(host, 2)?;

    let cancelled = host.run("lull cancel other")?.checked()?;
    ensure!(cancelled.contains("other runs here"), "{cancelled}");
    let status = host.run("lull status --json")?.checked()?;
    ensure!(
        status.contains("\"busy\"") && !status.contains("\"other\""),
        "{status}"
    );
    let second = second.finish()?;
    second.expect(5)?;

    host.run("lull set --bandwidth none busy")?.checked()?;
    let again = Plan::by_command(SECOND)
        .limit(LIMIT)
        .start_as_it_is(host, other)?;
    let first = first.finish()?;
    let again = again.finish()?;
    moved_or_refused(&first)?;
    moved_or_refused(&again)?;
    for (guest, ended) in [(busy, &first), (other, &again)] {
        let is_here = guest.domid()? == ended.source;
        ensure!(is_here == (ended.code() != 0), "{}", ended.in_short());
        aftermath::runs_whole(guest)?;
    }
    aftermath::no_leaks(host, &[busy, other])?;
    let records = number(host, "ls /var/lib/lull/runs | wc -l")? - records;
    ensure!(records == 3, "{records} records of 3 attempts");
    let ledger = host.run("cat /var/lib/lull/ledger.json")?.checked()?;
    for guest in ["\"busy\"", "\"other\""] {
        ensure!(
            ledger.contains(guest),
            "nothing learned of {guest}: {ledger}"
        );
    }
    counted_as_running(host, 0)
}

/// Checks how many attempts the metrics count as running. The process that keeps an attempt's
/// record counts it, and on a busy host that process may come to it late.
fn counted_as_running(host: &Host, attempts: u32) -> Result<()> {
    let wanted = format!("lull_running_migrations {attempts}");
    let metrics = host.run(&format!(
        "n=40; until grep -qx '{wanted}' {COLLECTED}/lull.prom || [ $n -eq 0 ]; do \
         sleep 0.5; n=$((n - 1)); done; cat {COLLECTED}/lull.prom"
    ))?;
    let metrics = metrics.checked()?;
    ensure!(metrics.contains(&wanted), "{metrics}");
    Ok(())
}

/// Checks that the guest moved within its limit or not at all. The result depends on how
/// much of the one emulated processor the other attempt left.
fn moved_or_refused(ended: &Ended) -> Result<()> {
    match ended.code() {
        code @ (0 | 3 | 4) => ended.expect(code).map(drop),
        other => anyhow::bail!("exit code {other}: {}", ended.in_short()),
    }
}

fn number(host: &Host, command: &str) -> Result<u32> {
    let output = host.run(command)?;
    let text = output.stdout.trim();
    text.parse()
        .with_context(|| format!("{command}: {output:?}"))
}

/// xl takes one guest at a time where it makes room for guests (`autoballoon`). The second
/// receiver waits until the first guest has been received, and its source's stream stands
/// still. That is said, is not taken for the link's rate, and outlasts no timeout; then both
/// guests move.
pub fn two_behind_xls_lock(world: &mut World) -> Result<()> {
    let busy = world.guest()?;
    let host = world.host.clone();
    let other = host.create_guest(&spec("other"))?;
    host.run("cp /etc/xen/xl.conf /run/rig/ && echo 'autoballoon=\"on\"' >>/etc/xen/xl.conf")?
        .checked()?;
    let moved = one_by_one(&host, &busy, &other);
    host.run("cp /run/rig/xl.conf /etc/xen/")?.checked()?;
    moved?;
    other.destroy()
}

fn one_by_one(host: &Host, busy: &Guest, other: &Guest) -> Result<()> {
    let waits = |event: &serde_json::Value| {
        let text = event["text"].as_str().unwrap_or_default();
        text.contains("the destination reads nothing yet")
    };
    let classic = Plan::direct().landing("classic").limit(LIMIT);
    let mut first = classic.clone().capped(CAP).start(host, busy)?;
    first.wait_until_copying()?;

    let hurried = classic.clone().timeout(Duration::from_secs(40));
    let hurried = hurried.start_as_it_is(host, other)?.finish()?;
    hurried.expect(4)?;
    hurried.expect_never_suspended()?;
    ensure!(hurried.advises("another guest"), "{}", hurried.in_short());

    let mut second = classic.start_as_it_is(host, other)?;
    second.wait_for(waits)?;
    host.run("lull set --bandwidth none busy")?.checked()?;
    let first = first.finish()?;
    let second = second.finish()?;
    first.expect(0)?;
    second.expect(0)?;
    for guest in [busy, other] {
        aftermath::runs_whole(guest)?;
    }
    aftermath::no_leaks(host, &[busy, other])
}
