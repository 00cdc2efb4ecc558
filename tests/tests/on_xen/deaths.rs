//! A part dies while pages are being copied: one guest goes on running, and
//! nothing is left behind.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::aftermath;
use crate::attempt::{Ended, Plan, Running};
use crate::world::World;

/// Slow enough that the part dies in the middle of the first round.
const LINK: u64 = 4_000_000;

/// lull's own helper.
pub fn helper(world: &mut World) -> Result<()> {
    killed(world, 7, |started| {
        format!("kill -KILL {}", started["helper_pid"])
    })?;
    Ok(())
}

/// The stub domain.
pub fn stub(world: &mut World) -> Result<()> {
    killed(world, 7, |started| {
        format!("xl destroy {}", started["stub_domid"])
    })?;
    Ok(())
}

/// The stub runs into nowhere: dom0 shows the record its handler leaves.
pub fn stub_astray(world: &mut World) -> Result<()> {
    let ended = killed(world, 7, |started| {
        format!("rig-agent derail {}", started["stub_domid"])
    })?;
    let reason = ended.result()?["reason"].to_string();
    ensure!(
        reason.contains("exception 14") && reason.contains("at 0x8,"),
        "no record of its crash: {reason}"
    );
    Ok(())
}

/// lull's relay, through which xl speaks to the destination.
pub fn relay(world: &mut World) -> Result<()> {
    killed(world, 7, |_| {
        "kill -KILL $(pgrep -o -f '^/usr/local/bin/lull transport')".into()
    })?;
    Ok(())
}

/// What leads to the destination, as ssh would.
pub fn transport(world: &mut World) -> Result<()> {
    killed(world, 6, |_| "pkill -KILL -x rig-agent".into())?;
    Ok(())
}

/// What reads the stream at the destination, under its name of 15 letters.
pub fn receiver(world: &mut World) -> Result<()> {
    killed(world, 6, |_| "pkill -KILL -x libxl-save-help".into())?;
    Ok(())
}

/// The toolstack at the source.
pub fn xl(world: &mut World) -> Result<()> {
    killed(world, 7, |started| {
        format!("kill -KILL $(ps -o ppid= -p {})", started["helper_pid"])
    })?;
    Ok(())
}

/// lull itself. Nobody is left to say how it ended.
pub fn front_end(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let before = guest.domid()?;
    let mut running = Plan::throttled(LINK).start(&world.host, &guest)?;
    kill(&mut running, |started| {
        let helper = &started["helper_pid"];
        format!("kill -KILL $(ps -o ppid= -p $(ps -o ppid= -p {helper}))")
    })?;
    let ended = running.finish()?;
    ensure!(
        ended.code() == 137 && ended.result().is_err(),
        "it was not killed: {ended:?}"
    );
    aftermath::check_whole(&world.host, &guest)?;
    ensure!(guest.domid()? == before, "it moved all the same");
    Ok(())
}

fn killed(world: &mut World, code: i32, weapon: impl Fn(&Value) -> String) -> Result<Ended> {
    let guest = world.guest()?;
    let mut running = Plan::throttled(LINK).start(&world.host, &guest)?;
    kill(&mut running, weapon)?;
    let ended = running.finish()?;
    ended.expect(code)?;
    ended.expect_never_suspended()?;
    aftermath::check(&world.host, &guest, &ended)?;
    Ok(ended)
}

fn kill(running: &mut Running<'_>, weapon: impl Fn(&Value) -> String) -> Result<()> {
    let started = running.wait_until_copying()?;
    running.beside(&weapon(&started))
}
