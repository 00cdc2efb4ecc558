//! A stub that crashes, that stops running, or that spins, while pages are being copied.

use anyhow::{Context, Result, ensure};
use lull_tests::timeline::Timeline;

use crate::aftermath;
use crate::attempt::{Plan, Running, is};
use crate::world::World;

/// A link rate, bytes a second, at which the fault falls into the middle of the first
/// round.
const LINK: u64 = 4_000_000;

/// The stub jumps to an invalid address; dom0 prints the record that its handler leaves.
pub fn stub_astray(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let mut running = Plan::throttled(LINK).start(&world.host, &guest)?;
    let started = running.wait_until_copying()?;
    running.beside(&format!("rig-agent derail {}", started["stub_domid"]))?;
    let ended = running.finish()?;
    let result = ended.expect(7)?;
    ended.expect_never_suspended()?;
    let reason = result["reason"].to_string();
    ensure!(
        reason.contains("exception 14") && reason.contains("at 0x8,"),
        "no record of its crash: {reason}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// The stub never processes the cancel; dom0's own machine does.
pub fn stub_stands_still(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let mut running = Plan::throttled(LINK).start(&world.host, &guest)?;
    let started = running.wait_until_copying()?;
    running.beside(&format!("xl pause {}", started["stub_domid"]))?;
    running.beside("lull cancel busy")?;
    let ended = running.finish()?;
    // The exit code is not 7, which stands for a stub that has been silent for too long.
    ended.expect(5)?;
    ended.expect_never_suspended()?;
    aftermath::check(&world.host, &guest, &ended)
}

/// How long dom0 and the stub compete for a processor, in seconds.
const CONTEST: u32 = 6;

/// The stub spins on dom0's own processor and signals without end. It gets less of the
/// processor than dom0, and cannot delay a cancel or the timeout: an attempt that
/// waited for the stub would end with code 7, after the 15 s that a stub may be silent.
pub fn stub_burns(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = world.host.clone();

    let mut running = Plan::throttled(LINK).start(&host, &guest)?;
    burning(&mut running)?;
    running.beside("lull cancel busy")?;
    let ended = running.finish()?;
    ended.expect(5)?;
    ended.expect_never_suspended()?;
    aftermath::check(&host, &guest, &ended)?;

    // A stub that is behind with its messages takes no other limits, so the timeout is set
    // first.
    let mut running = Plan::throttled(LINK).start(&host, &guest)?;
    let begun = running.wait_for(|event| is(event, "progress"))?["at_ms"].as_u64();
    let timeout = begun.context("no time")? + 12_000;
    running.beside(&format!("lull set --timeout {timeout}ms busy"))?;
    burning(&mut running)?;
    let ended = running.finish()?;
    ended.expect(4)?;
    ended.expect_never_suspended()?;
    aftermath::check(&host, &guest, &ended)?;

    let mut running = Plan::throttled(LINK).start(&host, &guest)?;
    let stub = burning(&mut running)?;
    let share = share_of(world, stub)?;
    running.finish()?.expect(7)?;
    ensure!(share < 0.42, "the stub got {share:.2} of dom0's processor");
    Ok(())
}

/// Waits for the copying, and makes the stub spin on dom0's processor. Returns its domid.
fn burning(running: &mut Running<'_>) -> Result<u64> {
    let started = running.wait_until_copying()?;
    let stub = started["stub_domid"].as_u64().context("no stub")?;
    running.beside(&format!("xl vcpu-pin {stub} 0 0 && rig-agent burn {stub}"))?;
    Ok(stub)
}

/// Returns the share of the processor that the stub gets while dom0 wants all of it.
fn share_of(world: &World, stub: u64) -> Result<f64> {
    let used = format!("xl list {stub} | awk 'END {{ print $NF }}'");
    let contest = format!(
        "a=$({used}); d=$(xl list 0 | awk 'END {{ print $NF }}'); \
         timeout {CONTEST} sh -c 'while :; do :; done'; \
         b=$({used}); e=$(xl list 0 | awk 'END {{ print $NF }}'); echo $a $b $d $e"
    );
    let seen = world.host.run(&contest)?;
    let numbers: Vec<f64> = seen
        .stdout
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [before, after, dom0_before, dom0_after] = numbers[..] else {
        anyhow::bail!("no figures: {seen:?}");
    };
    let (stub, dom0) = (after - before, dom0_after - dom0_before);
    ensure!(stub > 0.0 && dom0 > 0.0, "it does not spin: {seen:?}");
    Timeline::start().phase(format_args!("stub {stub:.1} s, dom0 {dom0:.1} s"));
    Ok(stub / (stub + dom0))
}
