//! Guests as they occur in practice: larger, with several processors, several devices,
//! ballooned down, with odd names, or paravirtual behind Xen's shim.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::{GuestSpec, Load};

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::{Scenario, World, scenario, small};

/// Moves each guest fast and classic, within a limit that leaves room.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("guest-of-1536-mib-2-vcpus", 90, |world| large(world, 2)),
        scenario("guest-of-1536-mib-4-vcpus", 90, |world| large(world, 4)),
        scenario("guest-with-two-interfaces-and-a-disk", 75, devices),
        scenario("guest-ballooned-down", 40, ballooned),
        scenario("guest-with-blanks-in-its-name", 40, blanks),
    ]
}

/// Scenarios that have not succeeded yet. Xen's shim does not start on the processor that
/// QEMU emulates: it faults while it identifies an AMD one (4.17, `init_amd`).
pub fn unseen() -> Vec<Scenario> {
    vec![scenario("guest-behind-a-shim", 60, shim)]
}

fn large(world: &mut World, vcpus: u32) -> Result<()> {
    let spec = GuestSpec {
        memory_mib: 1536,
        vcpus,
        reserve_pages: 100_000,
        ..GuestSpec::new(&format!("large{vcpus}"))
    };
    both_ways(world, &spec, Load::steady(2_000, 16_384), "true")
}

fn devices(world: &mut World) -> Result<()> {
    world.host.run("modprobe -a nvme xen-blkback")?.checked()?;
    let spec = GuestSpec {
        second_vif: true,
        disk: Some("phy:/dev/nvme0n1,xvda,w".to_owned()),
        ..named("devices")
    };
    both_ways(world, &spec, Load::steady(500, 512), "true")
}

/// The guest has given memory back, and takes some of it again after the move.
fn ballooned(world: &mut World) -> Result<()> {
    let spec = GuestSpec {
        memory_mib: 160,
        ..named("ballooned")
    };
    both_ways(
        world,
        &spec,
        Load::steady(500, 512),
        "xl mem-set ballooned 120 && sleep 5",
    )?;
    let guest = world.guest_like(&spec)?;
    world.host.run("xl mem-set ballooned 150")?.checked()?;
    aftermath::check_whole(&world.host, &guest)
}

fn blanks(world: &mut World) -> Result<()> {
    both_ways(world, &named("web one"), Load::steady(500, 512), "true")
}

fn shim(world: &mut World) -> Result<()> {
    let spec = GuestSpec {
        pvshim: true,
        memory_mib: 160,
        ..named("shim")
    };
    both_ways(world, &spec, Load::steady(200, 256), "true")
}

fn named(name: &str) -> GuestSpec {
    GuestSpec {
        name: name.to_owned(),
        ..small()
    }
}

/// Creates the guest, runs a command in dom0, and moves the guest twice.
fn both_ways(world: &mut World, spec: &GuestSpec, load: Load, command: &str) -> Result<()> {
    let guest = world.guest_like(spec)?;
    guest.set_load(load)?;
    world.host.run(command)?.checked()?;
    let limit = world.pace.ample();
    for landing in ["fast", "classic"] {
        let plan = match landing {
            "fast" => Plan::direct().fast_by(""),
            other => Plan::direct().landing(other),
        };
        let ended = plan.limit(limit).run(&world.host, &guest)?;
        let result = ended.expect(0)?;
        ensure!(result["landing"] == landing, "{result}");
        aftermath::check(&world.host, &guest, &ended)
            .with_context(|| format!("{} landing", quote(landing)))?;
        // The load catches up before the next move.
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
