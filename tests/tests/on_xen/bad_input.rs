//! Requests that cannot be met are refused with a message, and nothing else happens.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::{GuestSpec, GuestType, Host};

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::{World, spec};

/// Requests whose refusal costs nothing.
pub fn wrong_words(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let before = guest.domid()?;
    let host = &world.host;
    let tries = [
        ("lull migrate busi localhost", "did you mean `busy`?"),
        ("lull migrate 0 localhost", "the host itself"),
        ("lull migrate busy 'a;b'", "is not a host's name"),
        ("lull migrate --timeout 0 busy localhost", "`0`"),
        ("lull migrate --timeout soon busy localhost", "`soon`"),
        (
            "lull migrate --max-suspend-time -5s busy localhost",
            "`-5s`",
        ),
        (
            "lull migrate --max-suspend-time 99999999999999999999 busy localhost",
            "`99999999999999999999`",
        ),
        (
            "lull migrate -p --max-suspend-time 2s busy localhost",
            "keeps none",
        ),
    ];
    for (command, words) in tries {
        refused(host, command, words)?;
    }
    for (command, words) in [
        ("migrate busy localhost", "this needs root"),
        ("rehearse localhost", "this needs root"),
        ("predict busy", "this needs root"),
        ("status", "this needs root"),
        ("cancel busy", "this needs root"),
        ("set --timeout 5min busy", "this needs root"),
        ("switch-now busy", "this needs root"),
        ("resume busy", "this needs root"),
        ("limits set busy --timeout 5min", "Permission denied"),
        ("enable xl", "Permission denied"),
    ] {
        let command = format!("setpriv --reuid=65534 --regid=65534 --clear-groups lull {command}");
        refused(host, &command, words)?;
    }
    in_another_view(
        host,
        "echo 3 >/run/rig/minor && busybox mount --bind /run/rig/minor /sys/hypervisor/version/minor",
        "Xen 4.3 is not known",
    )?;
    in_another_view(
        host,
        "busybox mount -t tmpfs nothing /sys/hypervisor",
        "does not run on Xen",
    )?;
    ensure!(guest.domid()? == before, "it moved");
    aftermath::check_whole(host, &guest)
}

/// Checks for exit code 2, one clear message, and no message of libxl's.
fn refused(host: &Host, command: &str, words: &str) -> Result<()> {
    let output = host.run(command)?;
    ensure!(
        output.status == 2 && output.stderr.contains(words),
        "{command}: no {words:?} in {output:?}"
    );
    ensure!(
        !output.stderr.contains("libxl") && output.stdout.is_empty(),
        "{command}: more than its own words: {output:?}"
    );
    Ok(())
}

/// Does the same in a mount namespace of its own, where `change` makes the host look
/// different to this one command.
fn in_another_view(host: &Host, change: &str, words: &str) -> Result<()> {
    let inner = format!("{change} && exec lull migrate busy localhost");
    refused(host, &format!("unshare -m sh -c {}", quote(&inner)), words)
}

/// ssh cannot reach the destination.
pub fn unreachable_host(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let ended = Plan::to_host("nowhere.invalid").run(&world.host, &guest)?;
    let result = ended.expect(6)?;
    ended.expect_never_suspended()?;
    ensure!(
        result["pages_sent"] == 0
            && result["reason"]
                .as_str()
                .is_some_and(|r| r.contains("nowhere.invalid")),
        "{result}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// The destination has too little memory: another guest occupies nearly all of it.
pub fn no_memory(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    let free: u32 = host
        .run("xl info free_memory")?
        .checked()?
        .trim()
        .parse()
        .context("xl info free_memory")?;
    // The memory that stays free is enough for a stub and for at most two thirds of the
    // guest, even after Xen has taken another hundredth for the page tables. The guest that
    // occupies the memory never runs.
    let hog = (free - 50) * 98 / 100;
    host.run(&format!(
        "printf 'name=\"hog\"\ntype=\"pvh\"\nkernel=\"/boot/vmlinux\"\nmemory={hog}\n' \
         >/run/rig/hog.cfg && xl create -q -p /run/rig/hog.cfg"
    ))?
    .checked()
    .context("nothing takes the memory")?;
    let ended = Plan::direct().run(host, &guest);
    host.run("xl destroy hog")?.checked()?;
    let ended = ended?;
    ended.expect(6)?;
    ended.expect_never_suspended()?;
    aftermath::check(host, &guest, &ended)
}

/// The hypervisor cannot track what a PV guest writes.
pub fn pv_guest(world: &mut World) -> Result<()> {
    let host = &world.host;
    let guest = host.create_guest(&GuestSpec {
        kind: GuestType::Pv,
        vif: false,
        ..spec("para")
    })?;
    let before = guest.domid()?;
    refused(host, "lull migrate para localhost", "para is a PV guest")?;
    refused(
        host,
        "lull migrate --max-suspend-time 5s para localhost",
        "without limits",
    )?;
    ensure!(guest.domid()? == before, "it moved");
    guest.destroy()
}

/// The guest ignores the request to suspend.
pub fn deaf_guest(world: &mut World) -> Result<()> {
    let host = &world.host;
    let guest = host.create_guest(&GuestSpec {
        ignores_suspend: true,
        ..spec("deaf")
    })?;
    let plan = Plan::direct().limit(world.pace.scaled(Duration::from_secs(12)));
    let ended = plan.run(host, &guest)?;
    let result = ended.expect(7)?;
    ensure!(
        result["reason"]
            .as_str()
            .is_some_and(|r| r.contains("did not suspend itself"))
            && ended.event("suspended").is_none(),
        "{result}"
    );
    let kept = world.guest()?;
    let host = &world.host;
    aftermath::runs_whole(&guest)?;
    ensure!(guest.domid()? == ended.source, "it moved");
    aftermath::no_leaks(host, &[&guest, &kept])?;
    guest.destroy()
}
