//! A stub that goes astray, or stands still, while pages are being copied.

use anyhow::{Result, ensure};

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::World;

/// Slow enough that it happens in the middle of the first round.
const LINK: u64 = 4_000_000;

/// It runs into nowhere: dom0 shows the record its handler leaves.
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

/// It never comes to the cancel: dom0's own machine does.
pub fn stub_stands_still(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let mut running = Plan::throttled(LINK).start(&world.host, &guest)?;
    let started = running.wait_until_copying()?;
    running.beside(&format!("xl pause {}", started["stub_domid"]))?;
    running.beside("lull cancel busy")?;
    let ended = running.finish()?;
    // Not 7, for a stub that has been silent for too long.
    ended.expect(5)?;
    ended.expect_never_suspended()?;
    aftermath::check(&world.host, &guest, &ended)
}
