//! A stub that crashes, or that stops running, while pages are being copied.

use anyhow::{Result, ensure};

use crate::aftermath;
use crate::attempt::Plan;
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
