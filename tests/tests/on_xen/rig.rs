//! Tests of the rig itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use lull_tests::Load;
use lull_tests::timeline::Timeline;

use crate::aftermath::no_leaks;
use crate::world::World;

pub fn host_boots(world: &mut World) -> Result<()> {
    let domains = world.host.domains()?;
    ensure!(
        domains.len() == 1 && domains[0].name == "Domain-0",
        "domains: {domains:?}"
    );
    no_leaks(&world.host, &[])
}

pub fn link_is_shaped(world: &mut World) -> Result<()> {
    let host = &world.host;
    let timeline = Timeline::start();
    // A busy machine can only make this slower, so the bound holds on any machine.
    host.shape(Some(512 << 10))?;
    let start = timeline.seconds();
    host.run("dd if=/dev/zero bs=64k count=32 2>/dev/null | ssh dest 'cat >/dev/null'")?
        .checked()?;
    let seconds = timeline.seconds() - start;
    let shaped = host.run("tc qdisc show dev lo")?.checked()?;
    host.shape(None)?;
    let lifted = host.run("tc qdisc show dev lo")?.checked()?;
    timeline.phase(format_args!("2 MiB at 512 KiB/s: {seconds:.1} s"));
    ensure!(seconds > 3.5, "2 MiB at 512 KiB/s took {seconds:.1} s");
    ensure!(
        shaped.contains("tbf") && !lifted.contains("tbf"),
        "{shaped}{lifted}"
    );
    Ok(())
}

pub fn guest_takes_a_load(world: &mut World) -> Result<()> {
    let timeline = Timeline::start();
    let guest = world.guest()?;
    timeline.phase("guest answers");
    for rate in [500, 20_000] {
        let before = guest.set_load(Load::steady(rate, 8_192))?;
        std::thread::sleep(Duration::from_secs(3));
        let after = guest.status()?;
        let seconds = (after.uptime_ms - before.uptime_ms) as f64 / 1e3;
        let seen = (after.pages_written - before.pages_written) as f64 / seconds;
        timeline.phase(format_args!("asked for {rate} pages/s, got {seen:.0}"));
        ensure!(
            (seen / rate as f64 - 1.0).abs() < 0.2,
            "asked for {rate} pages/s, got {seen:.0}"
        );
        ensure!(after.hash_errors == 0, "{after:?}");
    }
    let quiet = world.host.observe(&guest)?;
    std::thread::sleep(Duration::from_secs(2));
    let slack = quiet.stop()?;
    ensure!(slack.answered > 0, "no reply: {slack:?}");
    timeline.phase(format_args!(
        "slack of the observer: {:.0} ms",
        slack.dom0_stall_ms
    ));
    Ok(())
}
