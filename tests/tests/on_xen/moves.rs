//! Migrations that succeed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Host, Load};
use serde::Deserialize;

use crate::aftermath;
use crate::attempt::{LEDGER, Plan};
use crate::world::World;

/// Moves a guest over ssh as a user would. The pause stays within the limit, by lull's
/// clock and by that of an observer outside. The guest writes few pages, but often, because
/// on a slow machine the emulated ssh carries one megabyte a second.
pub fn within_a_limit(world: &mut World) -> Result<()> {
    let limit = world.pace.scaled(Duration::from_secs(30));
    let timeline = Timeline::start();
    let guest = world.small_guest()?;
    guest.set_load(Load::steady(500, 512))?;
    let observer = world.host.observe(&guest)?;
    let plan = Plan::over_ssh().landing("classic").limit(limit);
    let ended = plan.run(&world.host, &guest)?;
    let outages = observer.stop()?;
    let result = ended.expect(0)?;
    timeline.phase(format_args!(
        "limit {} ms, predicted {}, observed {}; seen from outside {:.0} ms, give or take {:.0}",
        limit.as_millis(),
        result["predicted_downtime_ms"],
        result["observed_downtime_ms"],
        outages.longest_ms,
        outages.dom0_stall_ms,
    ));
    let (predicted, observed) = (
        result["predicted_downtime_ms"]
            .as_u64()
            .context("no prediction")?,
        result["observed_downtime_ms"]
            .as_u64()
            .context("no observation")?,
    );
    ensure!(
        predicted <= limit.as_millis() as u64 && observed > 0,
        "{result}"
    );
    ensure!(outages.lost > 0, "no outage was seen: {outages:?}");
    ensure!(
        outages.longest_ms <= limit.as_millis() as f64 + outages.dom0_stall_ms,
        "paused beyond its limit: {outages:?}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// The wall clock jumps ahead while pages are copied, and back while the guest is paused.
/// None of lull's figures depends on it.
///
/// The clock jumps back while the stream is held, when libxl at the destination waits for
/// nothing but bytes. libxl measures its own timeouts by the wall clock, and a timeout that
/// it sets just before a jump back expires at once (4.17, `libxl_event.c`: a pass of its
/// loop compares with the time it began at).
pub fn while_the_clock_jumps(world: &mut World) -> Result<()> {
    const JUMP: Duration = Duration::from_secs(10);
    let limit = world.pace.scaled(Duration::from_secs(12));
    let guest = world.guest()?;
    let set = |seconds: i64| format!("date -s @$(($(date +%s) + {seconds}))");
    let jump = JUMP.as_secs() as i64;
    let observer = world.host.observe(&guest)?;
    let held = format!(
        "hold-at cpu-state 0 {} {} -- rig-agent throttle 16000000 --",
        guest.domid()?,
        quote(&set(-2 * jump)),
    );
    let mut running = Plan::by(&held).limit(limit).start(&world.host, &guest)?;
    running.wait_until_copying()?;
    running.beside(&set(jump))?;
    let ended = running.finish()?;
    let outages = observer.stop()?;
    world.host.run(&set(jump))?.checked()?;
    let result = ended.expect(0)?;
    let observed = result["observed_downtime_ms"]
        .as_u64()
        .context("no observation")? as f64;
    // ping measures from the guest's last answer to its next.
    let apart = (observed - outages.longest_ms).abs();
    ensure!(
        apart < JUMP.as_millis() as f64 / 2.0 && outages.longest_ms > 0.0,
        "a clock got into it: {outages:?}, {result}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// The output of the agent's comparison.
#[derive(Debug, Deserialize)]
struct Comparison {
    compared: u64,
    differing: u64,
    only_first: u64,
    only_second: u64,
    differing_gfns: Vec<u64>,
    only_first_gfns: Vec<u64>,
    only_second_gfns: Vec<u64>,
    first_grant_frames: u64,
    first_pages: u64,
    second_pages: u64,
    differences: Vec<serde_json::Value>,
}

/// The frames that libxl makes anew at the destination, from here up to 4 GiB (Xen 4.17,
/// xg_dom_x86.c: the special pages of an HVM or PVH guest).
const SPECIAL_GFNS: std::ops::Range<u64> = 0xfeff8..0xff000;

/// The number of frames for each guest that belong to Xen.
const SHARED_INFO: u64 = 1;

/// Returns a command for dom0 that compares the guest with its copy, by their names.
pub fn compare(guest: &str, copy: &str) -> String {
    format!(
        "rig-agent compare $(xl domid {guest}) $(xl domid {copy}) \
         >/run/rig/compare.json 2>/run/rig/compare.err"
    )
}

const STREAM: &str = "/run/rig/stream";

/// Checks independently of lull: the frames of source and destination are compared while
/// neither runs, and Xen's own checker reads the stream.
pub fn frames_agree(world: &mut World) -> Result<()> {
    let timeline = Timeline::start();
    let guest = world.small_guest()?;
    say_nothing_unasked(&world.host)?;
    let transport = format!(
        "tee-stream {STREAM} -- rig-agent hold-ready {} --",
        quote(&compare(
            guest.name(),
            &format!("{}--incoming", guest.name())
        ))
    );
    // The comparison takes long, and lull counts it as landing.
    let plan = Plan::by(&transport).limit(Duration::from_secs(120));
    let ended = plan.run(&world.host, &guest)?;
    ended.expect(0)?;
    timeline.phase("moved");
    check_compared(&world.host, &timeline)?;

    let verdict = world.host.run(&format!(
        "/usr/lib/xen-4.*/bin/verify-stream-v2 --verbose --format xl --in {STREAM}; \
         s=$?; rm -f {STREAM}; exit $s"
    ))?;
    let said = verdict.checked().context("verify-stream-v2 objects")?;
    ensure!(
        said.contains("xl header") && said.contains("Libxl Record: End"),
        "verify-stream-v2 did not read it all: {said}"
    );
    timeline.phase("verify-stream-v2 has accepted the stream");
    aftermath::check(&world.host, &guest, &ended)
}

/// Without this, dom0 would greet the destination's new interface over the bridge, and the
/// QEMU of an HVM guest's copy would announce the guest there. Guests look for IPv6 routers,
/// too. The source's backend would still put these packets into the memory of its guest. The
/// interface of the copy comes later and gets them all.
pub fn say_nothing_unasked(host: &Host) -> Result<()> {
    let greets_not = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done";
    let hears_not = "for f in /sys/class/net/vif*/brport; do \
         echo 0 >$f/broadcast_flood; echo 0 >$f/multicast_flood; done";
    host.run(&format!("{greets_not}; {hears_not}"))?.checked()?;
    Ok(())
}

/// Reads the result of [`compare`].
pub fn check_compared(host: &Host, timeline: &Timeline) -> Result<()> {
    let text = host
        .run("cat /run/rig/compare.err >&2; cat /run/rig/compare.json; rm /run/rig/compare.json")?
        .checked()?;
    let comparison: Comparison =
        serde_json::from_str(&text).with_context(|| format!("the agent said {text:?}"))?;
    timeline.phase(format_args!(
        "{} frames compared, {} differ: {:x?}; only here {:x?}, only there {:x?}; \
         pages here {}, there {}",
        comparison.compared,
        comparison.differing,
        comparison.differing_gfns,
        comparison.only_first_gfns,
        comparison.only_second_gfns,
        comparison.first_pages,
        comparison.second_pages,
    ));
    check_comparison(&comparison)
}

fn check_comparison(comparison: &Comparison) -> Result<()> {
    ensure!(comparison.compared > 20_000, "{comparison:x?}");
    let named = comparison.differing_gfns.len() as u64;
    let ordinary = comparison
        .differing_gfns
        .iter()
        .filter(|gfn| !SPECIAL_GFNS.contains(gfn))
        .count();
    ensure!(
        ordinary == 0 && named == comparison.differing,
        "ordinary frames differ: {comparison:x?}, {:?}",
        comparison.differences
    );
    // The guest's shared info and its grant table are Xen's memory, mapped into the guest.
    // The guest maps them anew after its resume.
    ensure!(
        comparison.only_first <= SHARED_INFO + comparison.first_grant_frames
            && comparison.only_second == 0,
        "frames without a twin: {comparison:x?}"
    );
    ensure!(
        comparison.first_pages == comparison.second_pages,
        "the copy has more or fewer pages than the guest: {comparison:?}"
    );
    Ok(())
}

/// A binary without the feature `terminal` moves a guest in both landings.
pub fn without_the_terminal(world: &mut World) -> Result<()> {
    let host = world.host.clone();
    host.install_lull_without_terminal()?;
    let moved = move_without_the_terminal(world);
    // Later scenarios use the whole binary, whatever became of this one.
    host.install_lull()?;
    moved
}

fn move_without_the_terminal(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let limit = world.pace.ample();
    let refused = world.host.run("lull generate man /run/rig")?;
    ensure!(refused.status == 2, "it has a terminal: {refused:?}");
    for plan in [
        Plan::direct().limit(limit),
        Plan::direct().limit(limit).fast_by(""),
    ] {
        let ended = plan.run(&world.host, &guest)?;
        ended.expect(0)?;
        aftermath::check(&world.host, &guest, &ended)?;
    }
    Ok(())
}

/// Checks the output that a user sees: tables, and at the end the host where the guest
/// runs.
pub fn without_limits(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let before = guest.domid()?;
    let command = Plan::direct().command("", guest.name());
    let output = world.host.run_for(&command, Duration::from_secs(200))?;
    let report = output.clone().checked()?;
    for part in [
        "round",
        "dirtied",
        "predicted, at most",
        "observed",
        "landing",
        "MiB/s",
        "helper",
        "stub",
        "in all",
    ] {
        ensure!(
            report.contains(part),
            "no {part:?} in the report:\n{report}"
        );
    }
    ensure!(
        report.lines().last() == Some("busy runs at the destination (xl migrate-receive)."),
        "{report}"
    );
    ensure!(
        output.stderr.contains("however long it is paused"),
        "{}",
        output.stderr
    );
    ensure!(guest.domid()? != before, "it did not move:\n{report}");
    aftermath::check_whole(&world.host, &guest)
}

/// Neither a corrupt ledger nor a full disk prevents a move.
pub fn with_a_broken_ledger(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    host.run(&format!(
        "mkdir -p /var/lib/lull && busybox mount -t tmpfs -o size=8k full /var/lib/lull && \
         echo 'no ledger' >{LEDGER} && ! head -c 9000 /dev/zero >/var/lib/lull/ballast"
    ))?
    .checked()
    .context("no full disk could be made")?;
    let ended = Plan::direct()
        .limit(world.pace.ample())
        .start_as_it_is(host, &guest)?
        .finish();
    host.run("busybox umount /var/lib/lull")?.checked()?;
    let ended = ended?;
    ended.expect(0)?;
    for warning in ["is not understood", "the ledger could not be kept"] {
        ensure!(
            ended.output.stderr.contains(warning),
            "no word of it: {}",
            ended.output.stderr
        );
    }
    aftermath::check(host, &guest, &ended)
}
