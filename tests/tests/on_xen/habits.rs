//! Actions of operators and hosts while a guest is moved: a second move begins, the guest's
//! memory changes, all guests are shut down, or a login shell greets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::GuestSpec;

use crate::aftermath;
use crate::attempt::{Plan, is};
use crate::world::{World, small};

/// The longest time that a command may take; none here takes that long by itself.
const TIMEOUT: Duration = Duration::from_secs(200);

/// A bandwidth cap that slows an attempt down, so that there is time for another action.
const CAP: &str = "1MiB/s";

/// A second move of a guest is refused, whichever command asks for it, and does not affect
/// the first.
pub fn second_move(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let mut first = Plan::direct().capped(CAP).start(&world.host, &guest)?;
    first.wait_until_copying()?;
    let name = guest.name();
    let second = world.host.run_for(
        &format!(
            "runs=$(ls /var/lib/lull/runs); \
             lull migrate -s '' --landing fast --receiver-command 'touch rig-called; exec lull land' {name} \
             'xl migrate-receive'; status=$?; \
             test ! -e rig-called && test \"$runs\" = \"$(ls /var/lib/lull/runs)\" && \
             echo neither called nor recorded; exit $status"
        ),
        TIMEOUT,
    )?;
    ensure!(
        second.status == 2 && second.stderr.contains("is being moved already"),
        "{second:?}"
    );
    ensure!(
        second.stdout.contains("neither called nor recorded"),
        "{second:?}"
    );
    first.beside(&format!("lull set --bandwidth none {name}"))?;
    let ended = first.finish()?;
    ended.expect(0)?;
    aftermath::check(&world.host, &guest, &ended)
}

/// `lull migrate` stands still from the first pass on, as one does whose host swaps. It
/// holds nothing up: READY and all that the landing waits for pass it by.
pub fn front_end_stands_still(world: &mut World) -> Result<()> {
    for plan in [Plan::direct().fast_by(""), Plan::direct()] {
        let guest = world.small_guest()?;
        let limit = world.pace.scaled(Duration::from_secs(20));
        let mut running = plan.capped(CAP).limit(limit).start(&world.host, &guest)?;
        running.wait_until_copying()?;
        let source = guest.domid()?;
        // Nothing that `lull migrate` prints is seen until it is continued.
        let moved = world.host.run_for(
            &format!(
                "migrate=$(pgrep -o -f '^lull migrate ') && kill -STOP $migrate && \
                 lull set --bandwidth none {}; n=0; \
                 while xl list {source} >/dev/null 2>&1 && [ $n -lt 150 ]; do n=$((n + 1)); sleep 1; done; \
                 xl list {source} >/dev/null 2>&1 || echo moved; \
                 grep '^State' /proc/$migrate/status; kill -CONT $migrate",
                guest.name()
            ),
            TIMEOUT,
        )?;
        let ended = running.finish()?;
        ensure!(
            moved.stdout.contains("moved") && moved.stdout.contains("T (stopped)"),
            "it was waited for: {moved:?}; {}",
            ended.in_short()
        );
        ended.expect(0)?;
        aftermath::check(&world.host, &guest, &ended)?;
    }
    Ok(())
}

/// The attempt ends when another program resets the dirty log, because the record of
/// earlier writes is lost.
pub fn log_reset(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let mut running = Plan::direct().capped(CAP).start(&world.host, &guest)?;
    running.wait_until_copying()?;
    // By now all pages that the guest writes to are dirty.
    running
        .wait_for(|event| is(event, "progress") && event["dirty_pages"].as_u64() > Some(1_800))?;
    running.beside(&format!("rig-agent reset-log {}", guest.domid()?))?;
    let ended = running.finish()?;
    let result = ended.expect(7)?;
    ensure!(
        result["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("dirty log")),
        "{result}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// The balloon changes all the time once the destination has the first pass. The guest
/// moves within its limit or is refused with advice; it is never reported as a failure.
/// (Before the first pass is complete, xl itself may build the copy too small.)
pub fn balloon_in_motion(world: &mut World) -> Result<()> {
    let spec = GuestSpec {
        name: "balloon".to_owned(),
        memory_mib: 136,
        ..small()
    };
    let guest = world.guest_like(&spec)?;
    let name = guest.name();
    let motion = format!(
        "while sleep 1; do xl mem-set {name} 128; sleep 1; xl mem-set {name} 132; done >/dev/null 2>&1"
    );
    let limit = world.pace.scaled(Duration::from_secs(12));
    let plan = Plan::direct()
        .fast_by("")
        .limit(limit)
        .timeout(Duration::from_secs(180));
    let mut running = plan.start(&world.host, &guest)?;
    running.wait_for(|event| is(event, "target-ready"))?;
    let mut hand = world.host.spawn(&format!(
        "sh -c {} rig-hand",
        lull_tests::ssh::quote(&motion)
    ))?;
    let ended = running.finish();
    world.host.run("pkill -KILL -f rig-hand")?;
    hand.wait(Duration::from_secs(10))?
        .context("the hand does not rest")?;
    let ended = ended?;
    ensure!(matches!(ended.code(), 0 | 3 | 4), "{}", ended.in_short());
    let result = ended.expect(ended.code())?;
    let advice = result["advice"].as_str().unwrap_or_default();
    ensure!(ended.code() == 0 || !advice.is_empty(), "{result}");
    aftermath::check(&world.host, &guest, &ended)
}

/// `xl shutdown -a -w` runs during a move: the stub does not delay it, and the guest that
/// is being moved shuts down with the others.
pub fn host_goes_down(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let mut running = Plan::direct().capped(CAP).start(&world.host, &guest)?;
    running.wait_until_copying()?;
    let stub = format!("lull-stub-{}", guest.domid()?);
    // The command asks only the stub, as `xl shutdown -a` does, because the rig's guests do
    // not support a shutdown.
    let asked = world.host.run_for(
        &format!("timeout 30 xl shutdown {stub} && echo asked"),
        TIMEOUT,
    )?;
    ensure!(
        asked.stdout.contains("asked"),
        "the stub does not answer: {asked:?}"
    );
    let ended = running.finish()?;
    ended.expect(5)?;
    aftermath::check(&world.host, &guest, &ended)
}

/// A login shell prints something before the receiver's banner; xl itself takes that for a
/// broken receiver.
pub fn greeting(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let plan = Plan::by_command("echo welcome to $(uname -n); exec xl migrate-receive");
    let ended = plan.run(&world.host, &guest)?;
    ended.expect(0)?;
    aftermath::check(&world.host, &guest, &ended)
}

/// Pauses a guest's processors the moment it has acknowledged a request to suspend, prints
/// the state of the domain, runs a command, and lets the guest go on.
fn once_acknowledged(domain: u32, command: &str) -> String {
    let command = format!("xl list {domain} | tail -n 1; {command}");
    // The watch reports the initial value, the request, and the guest's answer.
    format!(
        "xenstore-watch -n 3 /local/domain/{domain}/control/shutdown | rig-agent pause-after 3 \
         {domain} {}",
        lull_tests::ssh::quote(&command)
    )
}

/// The attempt is cancelled after the guest has acknowledged the request and before it
/// stops. The attempt ends at once; the guest, which follows the request much later, keeps
/// running here.
pub fn cancelled_while_it_stops(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let source = guest.domid()?;
    let command = format!(
        "lull cancel {}; n=0; while pgrep -f '^lull migrate ' >/dev/null && [ $n -lt 100 ]; do \
         n=$((n + 1)); sleep 0.5; done; pgrep -f '^lull migrate ' >/dev/null || echo ended first",
        guest.name()
    );
    let mut hand = world.host.spawn(&once_acknowledged(source, &command))?;
    let ended = Plan::direct().fast_by("").run(&world.host, &guest)?;
    // Because of the rig's own pause lull sees no guest that runs, and reports that.
    let how = ended.event("ended").map(|event| event["how"].clone());
    ensure!(
        ended.code() == 8
            && how.is_some_and(|how| how == "cancelled")
            && ended.output.stderr.contains("it is paused"),
        "{}",
        ended.in_short()
    );
    let stood = hand.wait(TIMEOUT)?.context("it never was asked")?;
    ensure!(
        stood.stdout.contains("--p---") && stood.stdout.contains("ended first"),
        "{stood:?}"
    );
    // Paused for long, Linux may give up freezing its tasks, and the guard cannot know: it
    // waits for as long as a guest may take.
    world.host.run_for(
        "n=0; while pgrep -f '^/proc/self/exe guard ' >/dev/null && [ $n -lt 180 ]; do \
         n=$((n + 1)); sleep 1; done",
        TIMEOUT,
    )?;
    aftermath::check_whole(&world.host, &guest)
}

/// Linux acknowledges a request to suspend at once, and may need a long time to follow it.
/// The engine dies in between; the guard stays, and resumes the guest once it has stopped.
/// The delay is made by a pause of the guest's processors, which nothing else notices.
pub fn slow_to_stop(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let source = guest.domid()?;
    let command = "pkill -KILL -f '^[^ ]*lull engine '; sleep 15";
    let mut hand = world.host.spawn(&once_acknowledged(source, command))?;
    let ended = Plan::direct().fast_by("").run(&world.host, &guest)?;
    ensure!(ended.code() != 0, "it moved: {}", ended.in_short());
    let stood = hand.wait(TIMEOUT)?.context("it never was asked")?;
    ensure!(
        stood.stdout.contains("--p---"),
        "the rig was too slow, it had stopped already: {stood:?}"
    );
    aftermath::check_whole(&world.host, &guest)
}

/// Another program suspends the guest while it is copied. The attempt neither moves it nor
/// resumes it. After `lull resume` the guest runs, and doctor reports that xl's monitor has
/// taken the suspend for the guest's end, as those before Xen 4.20 do.
pub fn suspended_by_another(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let name = guest.name();
    let domain = guest.domid()?;
    let host = &world.host;
    let mut running = Plan::direct().capped(CAP).start(host, &guest)?;
    running.wait_until_copying()?;
    let suspend = format!(
        "xenstore-write /local/domain/{domain}/control/shutdown suspend; \
         n=0; until xl list {domain} | tail -n 1 | grep -q -- '--s'; do n=$((n + 1)); \
         [ $n -lt 300 ] || exit 1; sleep 0.1; done; lull set --bandwidth none {name}"
    );
    running.beside(&suspend)?;
    let ended = running.finish()?;
    let result = ended.expect(8)?;
    let reason = result["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("suspended already"), "{result}");
    let resumed = host.run_for(&format!("lull resume {name}"), TIMEOUT)?;
    ensure!(resumed.success(), "{resumed:?}");
    aftermath::check_whole(host, &guest)?;
    let doctor = host.run_for("lull doctor", TIMEOUT)?;
    let found = format!("no xl waits for {name}'s end");
    ensure!(doctor.stdout.contains(&found), "{}", doctor.stdout);
    world.forget_guest();
    Ok(())
}

/// Another program resumes the guest while its last pages are on the way. It goes on running
/// here, and the destination is not told to start its copy.
pub fn resumed_by_another(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let domain = guest.domid()?;
    let command = lull_tests::ssh::quote(&format!("rig-agent resume {domain}"));
    // At this rate the last pages take seconds.
    let plan = Plan::by(&format!("hold-at stopped 200000 {domain} {command} --"));
    let ended = plan.run(&world.host, &guest)?;
    let result = ended.expect(7)?;
    let reason = result["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("another program has resumed"), "{result}");
    aftermath::check(&world.host, &guest, &ended)
}

/// A kernel that announces that it does not suspend itself is refused before anything is
/// copied.
pub fn cannot_suspend(world: &mut World) -> Result<()> {
    // This takes a guest that has not moved: Linux makes the announcement once, and a copy
    // starts with a new xenstore directory.
    world.forget_guest();
    let guest = world.guest_like(&small())?;
    let feature = format!("/local/domain/{}/control/feature-suspend", guest.domid()?);
    let host = &world.host;
    let says = host.run(&format!("xenstore-read {feature}"))?.checked()?;
    ensure!(says.trim() == "1", "the rig's guest says {says:?}");
    host.run(&format!("xenstore-write {feature} 0"))?
        .checked()?;
    let refused = host.run(&format!(
        "lull migrate -s '' {} 'xl migrate-receive'",
        guest.name()
    ));
    host.run(&format!("xenstore-write {feature} 1"))?
        .checked()?;
    let refused = refused?;
    ensure!(
        refused.status == 2 && refused.stderr.contains("does not suspend itself"),
        "{refused:?}"
    );
    aftermath::check_whole(host, &guest)
}
