//! HVM guests: QEMU emulates a disk and a PCI bus that the guest uses throughout.
//!
//! The guest reads a register of the emulated machine again and again, and notices if it
//! ever runs while its QEMU is stopped. It writes its disk through QEMU, which puts what is
//! read back into the guest's memory by itself. [`machines`] are guests with other emulated
//! machines.

mod machines;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Load, MachineStatus};

use crate::aftermath;
use crate::attempt::{Ended, Plan, is};
use crate::newer::newer;
use crate::sites::Site;
use crate::world::{HEAVY, Scenario, World, scenario, scenario_at};
use crate::{fast, moves, plain_xl, refusals, virsh};

/// The scenarios. The first that runs boots the guest, which takes longest.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("hvm-guest-moves-within-its-limit", 200, within_a_limit),
        scenario("hvm-guest-refused-once-it-has-stopped", 90, refused),
        scenario("hvm-source-and-destination-agree", 120, frames_agree),
        scenario("hvm-helper-killed", 120, helper_killed),
        scenario("hvm-qemu-stands-still", 120, qemu_stands_still),
        scenario("hvm-qemu-killed", 110, qemu_killed),
        scenario("hvm-fast-within-its-limit", 200, fast_within_a_limit),
        scenario("hvm-fast-frames-agree", 150, fast_frames_agree),
        scenario("hvm-fast-refused", 180, fast_refused),
        scenario("hvm-fast-fifo-removed", 120, fifo_removed),
        scenario("hvm-fast-holder-killed", 180, holder_killed),
        scenario("hvm-fast-older-destination", 150, older_destination),
        scenario("hvm-fast-qemu-stands-still", 150, fast_qemu_stands_still),
        scenario("hvm-fast-qemu-killed", 150, fast_qemu_killed),
        scenario("hvm-plain-xl-lands-fast", 250, by_plain_xl),
        scenario("hvm-limits-kept-by-virsh", 400, virsh::keeps_limits_of_hvm),
    ]
}

/// Scenarios that would take much of a run's time, and are not drawn.
pub fn long() -> Vec<Scenario> {
    vec![
        scenario("hvm-ten-in-a-row", 600, ten_in_a_row),
        scenario("hvm-limit-below-fixed-costs", 60, limit_below_fixed_costs),
        scenario("hvm-writes-too-fast", 150, writes_too_fast),
        scenario("hvm-lands-too-late", 150, lands_too_late),
        scenario("hvm-without-pv-drivers", 200, machines::without_pv_drivers),
        scenario("hvm-fast-many-devices", 200, machines::fast_many_devices),
        scenario("hvm-boots-from-disk", 200, machines::boots_from_disk),
        newer("hvm-fast-frames-agree", 150, fast_frames_agree),
        newer("hvm-fast-within-its-limit", 350, fast_within_a_limit),
        scenario("hvm-many-devices", 600, machines::many_devices),
        scenario_at(Site::Shadow, "hvm-hap-0", 600, machines::without_hap),
    ]
}

const LOAD: Load = Load::steady(500, 2_048);

/// A link rate, bytes a second, at which a fault falls into the middle of the first round.
const LINK: u64 = 4_000_000;

/// Returns a fast landing over a connection of that rate.
fn fast_over_a_slow_link() -> Plan {
    Plan::direct().fast_by(&format!("throttle {LINK} --"))
}

fn guest(world: &mut World) -> Result<Guest> {
    let guest = world.guest_like(&GuestSpec::hvm("hvm"))?;
    let status = guest.set_load(LOAD)?;
    ensure!(status.hash_errors == 0, "damaged before: {status:?}");
    Ok(guest)
}

/// Checks what follows every attempt, and that the guest never ran without its emulated
/// devices.
fn check(world: &World, guest: &Guest, ended: &Ended) -> Result<()> {
    with_devices(guest, || aftermath::check(&world.host, guest, ended))
}

/// Does that, and checks that the guest used its emulated devices meanwhile and that it has
/// never run without them.
pub fn with_devices(guest: &Guest, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = machine(guest)?;
    what()?;
    let after = machine(guest)?;
    ensure!(
        after.errors == 0 && after.read > before.read,
        "its emulated devices: {before:?}, then {after:?}"
    );
    Ok(())
}

fn machine(guest: &Guest) -> Result<MachineStatus> {
    guest.status()?.machine.context("no emulated machine")
}

fn within_a_limit(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let limit = world.pace.ample();
    let timeline = Timeline::start();
    let ended = Plan::direct().limit(limit).run(&world.host, &guest)?;
    let result = ended.expect(0)?;
    timeline.phase(format_args!(
        "limit {} ms, predicted {}, observed {}",
        limit.as_millis(),
        result["predicted_downtime_ms"],
        result["observed_downtime_ms"],
    ));
    landed_classic(&ended, "receiver-command")?;
    check(world, &guest, &ended)
}

/// Checks that the guest moved and landed the classic way, and that the reason told for that
/// has these words.
fn landed_classic(ended: &Ended, why: &str) -> Result<()> {
    let result = ended.expect(0)?;
    let reason = result["landing_reason"].as_str().unwrap_or_default();
    ensure!(
        result["landing"] == "classic" && reason.contains(why),
        "{result}"
    );
    Ok(())
}

/// Gate 0: nothing is copied, and QEMU is never stopped.
fn limit_below_fixed_costs(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let limit = Duration::from_secs(1);
    let ended = Plan::direct().limit(limit).run(&world.host, &guest)?;
    let result = ended.expect(3)?;
    ended.expect_never_suspended()?;
    ensure!(result["rounds"] == 0, "copied before it refused: {result}");
    check(world, &guest, &ended)
}

/// Gate 1: the guest writes faster than its link carries. It is never stopped, nor is its QEMU.
fn writes_too_fast(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    guest.set_load(HEAVY)?;
    // More than the fixed costs, and too little for all that the guest writes.
    let limit = Duration::from_secs(8);
    let plan = Plan::throttled(LINK).limit(limit);
    let ended = plan.run(&world.host, &guest)?;
    ended.expect(4)?;
    ended.expect_never_suspended()?;
    ensure!(ended.rounds().count() > 0, "nothing was copied");
    guest.set_load(LOAD)?;
    check(world, &guest, &ended)
}

/// Gate 4 of the classic landing: the stream is held back before its end, until READY would come
/// too late. The guest and its QEMU have stopped, and run on.
fn lands_too_late(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let limit = world.pace.ample();
    let held = quote(&format!("sleep {}", limit.as_secs() + 2));
    let plan = Plan::by(&format!("hold-at cpu-state 0 {} {held} --", guest.domid()?));
    let ended = plan.limit(limit).run(&world.host, &guest)?;
    ended.expect(3)?;
    let reported = ended.event("ended").context("no last word")?;
    ensure!(
        ended.event("suspended").is_some() && reported["how"] == "stream-complete",
        "refused by another gate: {reported}"
    );
    // The stream is complete, so xl there starts the copy's QEMU, waits for GO, and destroys
    // the copy once it hears of none.
    let copy = quote(&format!("{}--incoming", guest.name()));
    let gone =
        format!("n=240; while xl domid {copy} && [ $n -gt 0 ]; do sleep 0.5; n=$((n - 1)); done");
    world.host.run_for(&gone, Duration::from_secs(150))?;
    check(world, &guest, &ended)?;
    moves_after_that(world, &guest)
}

/// Gate 2: the guest, with its QEMU, has stopped, and runs on.
fn refused(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let plan = refusals::over_a_slow_link(world);
    let ended = refusals::with_a_burst(world, &guest, plan)?.finish()?;
    refused_in_the_pause(&ended)?;
    guest.set_load(LOAD)?;
    check(world, &guest, &ended)
}

/// Checks that the guest was paused and the move then refused.
fn refused_in_the_pause(ended: &Ended) -> Result<()> {
    ended.expect(3)?;
    let stopped = ended.event("suspended").context("it was never stopped")?;
    let reported = ended.event("ended").context("no last word")?;
    ensure!(
        reported["refused_pause_ms"].is_u64(),
        "not paused: {stopped}, {reported}"
    );
    Ok(())
}

/// The frames of source and destination are compared while neither guest runs. What QEMU
/// wrote in the last round is among them.
fn frames_agree(world: &mut World) -> Result<()> {
    let timeline = Timeline::start();
    let guest = guest(world)?;
    moves::say_nothing_unasked(&world.host)?;
    let copy = format!("{}--incoming", guest.name());
    let transport = format!(
        "hold-ready {} --",
        quote(&moves::compare(guest.name(), &copy))
    );
    // The comparison takes long, and lull counts it as landing.
    let plan = Plan::by(&transport).limit(Duration::from_secs(120));
    let ended = plan.run(&world.host, &guest)?;
    ended.expect(0)?;
    timeline.phase("moved");
    moves::check_compared(&world.host, &timeline)?;
    check(world, &guest, &ended)
}

/// The helper dies once the guest has stopped. Its guard makes QEMU run and then the guest,
/// and has QEMU log no more: twice would end QEMU.
fn helper_killed(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    // At this rate the last pages take seconds.
    let kill = quote("pkill -KILL -f '^[^ ]* --save-domain'");
    let held = format!("hold-at stopped 200000 {} {kill} --", guest.domid()?);
    let ended = Plan::by(&held).run(&world.host, &guest)?;
    ended.expect(7)?;
    ensure!(ended.event("suspended").is_some(), "it was never stopped");
    check(world, &guest, &ended)?;
    // QEMU still can do all that a move needs.
    let again = Plan::direct().run(&world.host, &guest)?;
    again.expect(0)?;
    check(world, &guest, &again)
}

/// QEMU hangs when it is to stop. The attempt is given up, and the guest runs on; so does
/// QEMU, once it can.
fn qemu_stands_still(world: &mut World) -> Result<()> {
    stands_still(world, &Plan::throttled(LINK))
}

/// The copy and its QEMU go, too.
fn fast_qemu_stands_still(world: &mut World) -> Result<()> {
    stands_still(world, &fast_over_a_slow_link())?;
    no_state_is_left(world)
}

fn stands_still(world: &mut World, plan: &Plan) -> Result<()> {
    let guest = guest(world)?;
    let qemu = qemu_of(&guest)?;
    let mut running = plan.start(&world.host, &guest)?;
    running.wait_until_copying()?;
    running.beside(&format!("kill -STOP {qemu}"))?;
    let reported = running.wait_for(|event| is(event, "ended"));
    // It must not stay so, whatever was seen.
    running.beside(&format!("kill -CONT {qemu}"))?;
    reported?;
    let ended = running.finish()?;
    let reason = ended.expect(7)?["reason"].to_string();
    ensure!(reason.contains("QEMU"), "{reason}");
    aftermath::check(&world.host, &guest, &ended)?;
    // Its devices answer again.
    let before = machine(&guest)?;
    std::thread::sleep(Duration::from_secs(2));
    let after = machine(&guest)?;
    ensure!(
        after.read > before.read && after.errors == before.errors,
        "its emulated devices: {before:?}, then {after:?}"
    );
    world.forget_guest();
    Ok(())
}

/// QEMU dies while pages are copied. The guest is not asked to suspend.
fn qemu_killed(world: &mut World) -> Result<()> {
    killed(world, &Plan::throttled(LINK))
}

/// The copy, whose QEMU waits for a state, goes as well.
fn fast_qemu_killed(world: &mut World) -> Result<()> {
    killed(world, &fast_over_a_slow_link())?;
    no_state_is_left(world)
}

fn killed(world: &mut World, plan: &Plan) -> Result<()> {
    let guest = guest(world)?;
    let qemu = qemu_of(&guest)?;
    let mut running = plan.start(&world.host, &guest)?;
    running.wait_until_copying()?;
    running.beside(&format!("kill -KILL {qemu}"))?;
    let ended = running.finish()?;
    let result = ended.expect(7)?;
    let reason = result["reason"].to_string();
    ensure!(reason.contains("QEMU"), "{reason}");
    let said = &ended.output.stderr;
    ensure!(said.contains("QEMU does not run any more"), "{said}");
    // A program of the guest's that waits for its disk waits for ever.
    let domain = world.host.domain(guest.name())?;
    ensure!(
        domain
            .as_ref()
            .is_some_and(|domain| domain.state.is_alive()),
        "it does not run on: {domain:?}"
    );
    world.bury_guest()
}

/// The copy's QEMU waits for its state while the guest runs here.
fn fast_within_a_limit(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let limit = world.pace.ample();
    let timeline = Timeline::start();
    let plan = Plan::direct().limit(limit).fast_by("");
    let ended = plan.run(&world.host, &guest)?;
    let result = fast::landed_fast(&ended)?;
    timeline.phase(format_args!(
        "limit {} ms, predicted {}, observed {}",
        limit.as_millis(),
        result["predicted_downtime_ms"],
        result["observed_downtime_ms"],
    ));
    no_state_is_left(world)?;
    check(world, &guest, &ended)
}

/// Ten fast landings of one guest, which reads and writes memory, disk and network
/// throughout.
fn ten_in_a_row(world: &mut World) -> Result<()> {
    const MOVES: u32 = 10;
    // The guest's network driver loses memory at each move.
    world.forget_guest();
    let guest = guest(world)?;
    let timeline = Timeline::start();
    let limit = world.pace.ample();
    for number in 1..=MOVES {
        let plan = Plan::direct().limit(limit).fast_by("");
        let ended = plan.run(&world.host, &guest)?;
        let pause = fast::landed_fast(&ended)?["observed_downtime_ms"].clone();
        // This asks over the network, and reads all memory and the whole disk.
        with_devices(&guest, || aftermath::runs_whole(&guest))
            .with_context(|| format!("after move {number}: {}", ended.in_short()))?;
        timeline.phase(format_args!(
            "move {number} of {MOVES}: paused for {pause} ms"
        ));
    }
    no_state_is_left(world)?;
    with_devices(&guest, || aftermath::check_whole(&world.host, &guest))
}

/// What QEMU wrote in the last round is among what is compared.
fn fast_frames_agree(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    fast::agree(world, &guest)?;
    no_state_is_left(world)?;
    let before = machine(&guest)?;
    ensure!(before.errors == 0, "its emulated devices: {before:?}");
    Ok(())
}

/// The last pages are held up once the guest and its QEMU have stopped: QEMU runs on, and
/// then the guest.
fn fast_refused(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let limit = world.pace.ample();
    let wait = format!("sleep {}", limit.as_secs() + 5);
    let land = fast::held("stopped", &guest, &wait)?;
    let plan = Plan::direct().limit(limit).fast_by(&land);
    let ended = plan.run(&world.host, &guest)?;
    refused_in_the_pause(&ended)?;
    no_state_is_left(world)?;
    check(world, &guest, &ended)?;
    moves_after_that(world, &guest)
}

/// The file from which the copy's QEMU is to read its state is gone before libxl opens it:
/// libxl makes another, and QEMU finds no state in it.
fn fifo_removed(world: &mut World) -> Result<()> {
    gives_up(world, "rm $fifo")
}

/// The process that keeps that file dies. Whoever waits for it goes on, and so does xl.
fn holder_killed(world: &mut World) -> Result<()> {
    gives_up(world, "pkill -KILL -f 'exe hold-state'")
}

/// Where the destination's lull does not know how to keep a QEMU waiting, the guest lands the
/// classic way, and the operator is told why.
fn older_destination(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    let older = Plan::direct().land("exec rig-agent older-land 5 -- lull land");
    let ended = older.run(&world.host, &guest)?;
    landed_classic(&ended, "QEMU waiting")?;
    check(world, &guest, &ended)
}

/// Plain `xl migrate` lands it fast, too.
fn by_plain_xl(world: &mut World) -> Result<()> {
    let guest = guest(world)?;
    with_devices(&guest, || plain_xl::moves(&world.host, &guest))
}

/// Runs `command` once the destination is armed, while the stream is on its way.
fn gives_up(world: &mut World, command: &str) -> Result<()> {
    let guest = guest(world)?;
    let armed = "fifo=$(find /var/lib/xen -name 'qemu-resume.*' -type p)";
    world.host.run(&format!(
        "(until {armed} && [ -n \"$fifo\" ]; do sleep 0.05; done; {command}) \
         >/dev/null 2>&1 </dev/null &"
    ))?;
    let ended = Plan::throttled(SLOW_LINK)
        .fast_by("")
        .run(&world.host, &guest)?;
    ended.expect(6)?;
    no_state_is_left(world)?;
    check(world, &guest, &ended)?;
    moves_after_that(world, &guest)
}

/// A link rate, bytes a second, at which naming the guest's frames takes some seconds.
const SLOW_LINK: u64 = 60_000;

/// No file with a state of QEMU's is left.
fn no_state_is_left(world: &World) -> Result<()> {
    // `lull see-off` looks every second whether the copy is gone.
    let look = "n=20; while left=$(find /var/lib/xen -name 'qemu-resume.*' -o -name \
                'qemu-save.*') && [ -n \"$left\" ] && [ $n -gt 0 ]; do sleep 0.5; \
                n=$((n - 1)); done; echo $left";
    let left = world.host.run(look)?.checked()?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// Nothing holds xl's lock, and QEMU still can do all that a move needs.
fn moves_after_that(world: &World, guest: &Guest) -> Result<()> {
    let again = Plan::direct().run(&world.host, guest)?;
    again.expect(0)?;
    check(world, guest, &again)
}

fn qemu_of(guest: &Guest) -> Result<String> {
    let path = format!("/local/domain/{}/image/device-model-pid", guest.domid()?);
    let pid = guest
        .host()
        .run(&format!("xenstore-read {path}"))?
        .checked()?;
    Ok(pid.trim().to_owned())
}
