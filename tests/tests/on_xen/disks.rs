//! Guests that use a disk while they move.

use anyhow::{Context, Result, ensure};
use lull_tests::{Guest, GuestSpec, Host, Load};

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::{World, small};

const FILE: &str = "/etc/lull.toml";

/// A disk of the host's that is on the list lets its guest land fast without an option.
pub fn listed(world: &mut World) -> Result<()> {
    let host = world.host.clone();
    host.run("modprobe -a nvme xen-blkback")?.checked()?;
    let guest = with_disk(world, "listed", "/dev/nvme0n1")?;
    moves(&host, &guest, "fast", "")
}

/// A loop device reads through the host's page cache. Its guest lands the classic way until
/// the operator vouches for the device.
pub fn vouched_for(world: &mut World) -> Result<()> {
    let vouched = vouched(world);
    // This runs whatever the result was, so that later scenarios have no loop device.
    let buried = world.bury_guest();
    let cleared = world.host.run(&format!(
        "rm -f {FILE}; busybox losetup -d /dev/loop0; rm -f {IMAGE}"
    ));
    vouched?;
    buried?;
    cleared?.checked()?;
    Ok(())
}

const IMAGE: &str = "/run/rig/image";

fn vouched(world: &mut World) -> Result<()> {
    let host = world.host.clone();
    let made = format!(
        "modprobe -a loop xen-blkback && truncate -s 1M {IMAGE} && \
         busybox losetup /dev/loop0 {IMAGE}"
    );
    host.run(&made)?.checked()?;
    let guest = with_disk(world, "vouched", "/dev/loop0")?;
    moves(&host, &guest, "classic", "its disk xvda is not on the list")?;
    host.run("lull limits set vouched --disks trusted")?
        .checked()?;
    moves(&host, &guest, "fast", "")
}

fn with_disk(world: &mut World, name: &str, device: &str) -> Result<Guest> {
    let guest = world.guest_like(&GuestSpec {
        name: name.to_owned(),
        disk: Some(format!("phy:{device},xvda,w")),
        ..small()
    })?;
    guest.set_load(Load::steady(200, 512))?;
    Ok(guest)
}

/// Moves the guest, and checks the order of landing, the reason for it, and that every
/// block is as the guest last wrote it: before, during and after the move.
fn moves(host: &Host, guest: &Guest, landing: &str, why: &str) -> Result<()> {
    let ended = Plan::direct().land("exec lull land").run(host, guest)?;
    let result = ended.expect(0)?;
    let reason = result["landing_reason"].as_str().unwrap_or_default();
    ensure!(
        result["landing"] == landing && reason.contains(why),
        "{result}"
    );
    aftermath::check(host, guest, &ended)?;
    let disk = guest.status()?.disk.context("it uses no disk")?;
    ensure!(disk.checked > 0 && disk.errors == 0, "{disk:?}");
    Ok(())
}
