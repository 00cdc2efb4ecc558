//! Requests that cannot be met are refused with a message, and nothing else happens.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::{GuestSpec, GuestType, Host};

use crate::aftermath;
use crate::attempt::{Ended, Plan};
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

/// The destination accepts the connection and says nothing, at once or once xl has called.
/// The timeout is over all the same; a wait of lull's own would be a minute.
pub fn swallowing_host(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    host.run(
        "printf '%s\\n' '#!/bin/sh' 'shift' \
         'case \"$*\" in *migrate-receive*) exec sleep 300;; *) exec sh -c \"$*\";; esac' \
         >/run/rig/swallow && chmod +x /run/rig/swallow",
    )?
    .checked()?;
    for way in [
        "-s 'sh -c \"sleep 300\" x'",
        "-s 'sh -c \"sleep 300\" x' --landing classic",
        "-s '' --receiver-command 'exec sleep 300'",
        "-s /run/rig/swallow --landing classic",
    ] {
        let command = format!("timeout 50 lull migrate --timeout 8s {way} busy nowhere");
        let ended = host.run_for(&command, Duration::from_secs(120))?;
        ensure!(
            ended.status == 4
                && ended
                    .stdout
                    .ends_with("busy runs at the source (this host).\n"),
            "{way}: {ended:?}"
        );
        aftermath::check_whole(host, &guest)?;
    }
    Ok(())
}

/// Xen has too little free memory for a stub, and xl is set to take none from dom0. That is
/// said before anything is begun, with the cure that doctor knows.
pub fn no_room_for_the_stub(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    // The second takes what the first, whose page tables cost some memory too, has left.
    let filler = |name: &str, mib: &str| {
        format!(
            "printf 'name=\"{name}\"\ntype=\"pvh\"\nkernel=\"/boot/vmlinux\"\nmemory=%s\n' \
             $(( {mib} )) >/run/rig/{name}.cfg && xl create -q -p /run/rig/{name}.cfg"
        )
    };
    let free = "$(xl info free_memory)";
    let filled = host.run_for(
        &format!(
            "{} && {} && xl info free_memory",
            filler("filler-one", &format!("{free} - 300")),
            filler("filler-two", &format!("{free} - 14")),
        ),
        Duration::from_secs(120),
    );
    let asked = filled.and_then(|filled| {
        let left = filled.checked()?;
        let moved = host.run("lull migrate -s '' busy 'xl migrate-receive'")?;
        let doctor = host.run_for("lull doctor", Duration::from_secs(120))?;
        Ok((left, moved, doctor))
    });
    host.run("xl destroy filler-two; xl destroy filler-one")?;
    let (left, moved, doctor) = asked?;
    let left: u32 = left.trim().parse().context("xl info free_memory")?;
    ensure!(left < 16, "the rig left {left} MiB");
    let cure = "Take it from dom0: `xl mem-set 0 ";
    ensure!(
        moved.status == 2
            && moved.stderr.contains("Nothing was done.")
            && moved.stderr.contains(cure),
        "{moved:?}"
    );
    ensure!(doctor.stdout.contains(cure), "{}", doctor.stdout);
    aftermath::check_whole(host, &guest)
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

/// The guest ignores the request to suspend. libxl takes the request back after a minute.
pub fn deaf_guest(world: &mut World) -> Result<()> {
    ignoring(world, Plan::direct()).map(drop)
}

/// Likewise, in the fast landing: there the request is lull's own, and is taken back before
/// a pause could exceed its limit.
pub fn deaf_guest_fast(world: &mut World) -> Result<()> {
    let ended = ignoring(world, Plan::direct().fast_by(""))?;
    let at = |event: Option<&serde_json::Value>| event.and_then(|event| event["at_ms"].as_u64());
    let asked = at(ended.rounds().last()).context("no round")?;
    let over = at(ended.event("ended")).context("no end")?;
    let limit = ended.result()?["limit_ms"].as_u64().context("no limit")?;
    ensure!(over - asked <= limit, "{} ms of {limit}", over - asked);
    Ok(())
}

fn ignoring(world: &mut World, plan: Plan) -> Result<Ended> {
    let host = &world.host;
    let guest = host.create_guest(&GuestSpec {
        ignores_suspend: true,
        ..spec("deaf")
    })?;
    let plan = plan.limit(world.pace.scaled(Duration::from_secs(12)));
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
    guest.destroy()?;
    Ok(ended)
}
