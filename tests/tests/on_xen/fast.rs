//! The fast landing: the destination attaches all devices before the guest stops.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Load};

use crate::aftermath;
use crate::attempt::{Ended, Plan, Running, is};
use crate::moves::{check_compared, compare, say_nothing_unasked};
use crate::world::{World, small, spec};

/// Moves a guest over ssh as a user would, observed from outside. The guest is quiet,
/// because on a slow machine the emulated ssh carries one megabyte a second.
pub fn within_a_limit(world: &mut World) -> Result<()> {
    let limit = world.pace.scaled(Duration::from_secs(30));
    let timeline = Timeline::start();
    let guest = world.small_guest()?;
    guest.set_load(Load::QUIET)?;
    let observer = world.host.observe(&guest)?;
    let plan = Plan::over_ssh().landing("fast").limit(limit);
    let ended = plan.run(&world.host, &guest)?;
    let outages = observer.stop()?;
    let result = landed_fast(&ended)?;
    timeline.phase(format_args!(
        "limit {} ms, predicted {}, observed {}; seen from outside {:.0} ms, give or take {:.0}",
        limit.as_millis(),
        result["predicted_downtime_ms"],
        result["observed_downtime_ms"],
        outages.longest_ms,
        outages.dom0_stall_ms,
    ));
    ensure!(
        outages.longest_ms <= limit.as_millis() as f64 + outages.dom0_stall_ms,
        "paused beyond its limit: {outages:?}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// While the guest is paused, dom0's xenstored has a higher priority, and no longer.
pub fn urgent(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    // The kernel may group processes by session, whose nice value counts then.
    let look = format!(
        "{{ ps -C xenstored,oxenstored -o ni=; cat /proc/$(pidof xenstored)/autogroup; }} >{NICE}"
    );
    let way = held("stopped", &guest, &look)?;
    let ended = Plan::direct().fast_by(&way).run(&world.host, &guest)?;
    landed_fast(&ended)?;
    let meanwhile = world.host.run(&format!("cat {NICE}"))?.checked()?;
    let is_urgent = |line: &str| line.split_whitespace().last() == Some("-10");
    ensure!(
        meanwhile.lines().count() > 0 && meanwhile.lines().all(is_urgent),
        "not urgent: {meanwhile:?}"
    );
    Timeline::start().phase(format_args!("in the pause xenstored had {meanwhile:?}"));
    // This looks for a xenstored that is still urgent.
    aftermath::check(&world.host, &guest, &ended)
}

/// The file in dom0 with xenstored's nice value in the pause.
const NICE: &str = "/run/rig/nice";

/// Both domains are compared while neither runs, just before GO: by lull itself
/// (`--debug`), and by the rig's own agent.
pub fn frames_agree(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    agree(world, &guest)
}

/// Does the same with two vCPUs, whose state is set anew too.
pub fn two_processors(world: &mut World) -> Result<()> {
    world.forget_guest();
    let guest = world.guest_like(&GuestSpec {
        name: "two".into(),
        vcpus: 2,
        ..small()
    })?;
    agree(world, &guest)
}

/// Moves a guest, and has its frames compared.
pub fn agree(world: &World, guest: &Guest) -> Result<()> {
    let timeline = Timeline::start();
    say_nothing_unasked(&world.host)?;
    let name = guest.name();
    let [source, copy] = ["--migratedaway", ""].map(|suffix| format!("{name}{suffix}"));
    let plan = Plan::direct().fast_by(&held("landed", guest, &compare(&source, &copy))?);
    let ended = plan.debug().run(&world.host, guest)?;
    landed_fast(&ended)?;
    let compared = ended.events.iter().any(|event| {
        let text = event["text"].as_str().unwrap_or_default();
        is(event, "log") && text.contains("all are equal")
    });
    ensure!(compared, "nothing was compared: {}", ended.in_short());
    timeline.phase("moved, and compared by lull");
    check_compared(&world.host, &timeline)?;
    aftermath::check(&world.host, guest, &ended)
}

/// The guest's memory grows while its pages are copied.
pub fn growing(world: &mut World) -> Result<()> {
    ballooning(world, 120, 128)
}

/// The guest's memory shrinks while its pages are copied.
pub fn shrinking(world: &mut World) -> Result<()> {
    ballooning(world, 128, 120)
}

/// Changes the guest's memory after the first pass, when the first batch of a later round
/// is under way. Both sizes are in MiB.
fn ballooning(world: &mut World, before: u64, meanwhile: u64) -> Result<()> {
    let timeline = Timeline::start();
    let guest = world.spacious_guest()?;
    let host = &world.host;
    say_nothing_unasked(host)?;
    let name = guest.name();
    host.run(&format!("xl mem-set {name} {before}"))?
        .checked()?;
    has_memory(world, name, before)?;
    let change = format!("xl mem-set {name} {meanwhile}; sleep 3");
    // The destination plans to give the guest the memory that it had when it left.
    let look =
        format!("for d in {name} {name}--migratedaway; do xl list $d | tail -n 1; done >{SIZES}");
    let way =
        held("later-round", &guest, &change)? + " rig-agent " + &held("landed", &guest, &look)?;
    let ended = Plan::direct().fast_by(&way).debug().run(host, &guest)?;
    landed_fast(&ended)?;
    let sizes = host.run(&format!("cat {SIZES}"))?.checked()?;
    let sizes: Vec<&str> = sizes
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let wanted = meanwhile.to_string();
    ensure!(
        sizes == [&wanted, &wanted],
        "{sizes:?} MiB, not {meanwhile}"
    );
    timeline.phase(format_args!("moved while it went to {meanwhile} MiB"));
    aftermath::check(host, &guest, &ended)
}

const SIZES: &str = "/run/rig/sizes";

fn has_memory(world: &World, name: &str, mib: u64) -> Result<()> {
    let timeline = Timeline::start();
    loop {
        let domain = world.host.domain(name)?.context("it is gone")?;
        if domain.memory_mib == mib {
            return Ok(());
        }
        ensure!(
            timeline.seconds() < 60.0,
            "it has {} MiB, not {mib}",
            domain.memory_mib
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Returns a command that connects to `lull land` and runs `command` at that place.
pub fn held(place: &str, guest: &Guest, command: &str) -> Result<String> {
    let source = guest.domid()?;
    Ok(format!(
        "hold-land {place} 0 {source} {} --",
        quote(command)
    ))
}

/// Moves a guest ten times on one host, which is source and destination.
pub fn ten_times(world: &mut World) -> Result<()> {
    const MOVES: u32 = 10;
    // The guest's network driver loses memory at each move.
    let guest = world.spacious_guest()?;
    guest.set_load(Load::steady(200, 512))?;
    let mut pauses = Vec::new();
    for _ in 0..MOVES {
        let ended = Plan::direct().fast_by("").run(&world.host, &guest)?;
        pauses.push(landed_fast(&ended)?["observed_downtime_ms"].to_string());
        aftermath::runs_whole(&guest)?;
    }
    Timeline::start().phase(format_args!("paused for {} ms", pauses.join(", ")));
    aftermath::check_whole(&world.host, &guest)
}

/// With a lull of the first edition at the destination, xl's handshake follows once
/// everything is in place, and is part of the pause.
pub fn as_before(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let limit = world.pace.scaled(Duration::from_secs(30));
    let plan = Plan::direct().fast_by("older-land 2 --").limit(limit);
    let ended = plan.run(&world.host, &guest)?;
    let result = ended.expect(0)?;
    ensure!(result["landing"] == "fast-handshake-last", "{result}");
    let place = |kind: &str| {
        let place = ended.events.iter().position(|event| is(event, kind));
        place.with_context(|| format!("no {kind}: {}", ended.in_short()))
    };
    ensure!(
        ended.event("handed-over").is_none() && place("suspended")? < place("ready")?,
        "the handshake came first: {}",
        ended.in_short()
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// Where the destination's lull takes no copy without contents, round 0 goes into the stream,
/// and xl's handshake comes first all the same.
pub fn first_pass_in_the_stream(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let plan = Plan::direct().fast_by("older-land 3 --").debug();
    let ended = plan.run(&world.host, &guest)?;
    landed_fast(&ended)?;
    let place = |wanted: fn(&serde_json::Value) -> bool| ended.events.iter().position(wanted);
    let first_pages = place(|event| event["pages_sent"].as_u64().unwrap_or(0) > 0);
    ensure!(
        first_pages < place(|event| is(event, "target-ready")),
        "READY came before the first pass: {}",
        ended.in_short()
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// The copy is built before any page is sent. A guest whose memory is zero by half costs few
/// bytes: at most 0.6 of what they are in a stream.
pub fn few_bytes_for_zero_pages(world: &mut World) -> Result<()> {
    world.forget_guest();
    // A guest that has just started has written to some 70 MiB.
    let guest = world.guest_like(&GuestSpec {
        memory_mib: 160,
        ..spec("zeros")
    })?;
    guest.set_load(Load::QUIET)?;
    let bytes = |ended: &Ended| {
        let event = ended.event("ended").context("no end was reported")?;
        event["bytes_sent"]
            .as_u64()
            .context("no bytes were counted")
    };
    let classic = Plan::direct().landing("classic").run(&world.host, &guest)?;
    classic.expect(0)?;
    let fast = Plan::direct().fast_by("").run(&world.host, &guest)?;
    landed_fast(&fast)?;
    let place = |wanted: fn(&serde_json::Value) -> bool| fast.events.iter().position(wanted);
    let ready = place(|event| is(event, "target-ready")).context("no READY")?;
    let first_pages = place(|event| event["pages_sent"].as_u64().unwrap_or(0) > 0);
    ensure!(
        first_pages.is_none_or(|first| ready < first),
        "pages were sent before READY: {}",
        fast.in_short()
    );
    let (classic, sent) = (bytes(&classic)?, bytes(&fast)?);
    let words = format!("{sent} bytes, {classic} in a classic landing");
    Timeline::start().phase(&words);
    ensure!(10 * sent <= 6 * classic, "{words}");
    aftermath::check(&world.host, &guest, &fast)
}

/// Without a lull that answers at the destination, the guest lands the classic way, and the
/// operator is told why.
pub fn falls_back(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let before = world.host.run("ls /var/lib/lull/runs | wc -l")?.checked()?;
    let newer = "echo '{\"land\":[7,9],\"lull\":\"9.0.0\"}'";
    for (land, why) in [("exit 127", "no lull answers"), (newer, "9.0.0")] {
        let refused = world.host.run(&format!(
            "lull migrate --landing fast --receiver-command {} -s '' {} 'xl migrate-receive'",
            quote(land),
            guest.name()
        ))?;
        ensure!(
            refused.status == 2
                && refused.stderr.contains("cannot land fast")
                && refused.stderr.contains(why),
            "{refused:?}"
        );
    }
    let records = world.host.run("ls /var/lib/lull/runs | wc -l")?.checked()?;
    ensure!(records == before, "what never began is recorded: {records}");
    let ended = Plan::direct().land("exit 127").run(&world.host, &guest)?;
    let result = ended.expect(0)?;
    let why = result["landing_reason"].as_str().unwrap_or_default();
    ensure!(
        result["landing"] == "classic" && why.contains("no lull answers"),
        "{result}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// Checks that the guest moved and that it landed fast, with xl's handshake before it
/// stopped.
pub fn landed_fast(ended: &Ended) -> Result<&serde_json::Value> {
    let result = ended.expect(0)?;
    ensure!(result["landing"] == "fast", "{result}");
    let monotonic = |event: &str, name: &str| {
        let at = ended.event(event).and_then(|event| event[name].as_u64());
        at.with_context(|| format!("no {name} of {event}: {}", ended.in_short()))
    };
    ensure!(
        monotonic("handed-over", "over_monotonic_ns")?
            <= monotonic("suspended", "requested_monotonic_ns")?,
        "stopped before it was handed over: {}",
        ended.in_short()
    );
    Ok(result)
}

/// The connection to `lull land` ends during the first pass: the guest lands the classic way.
pub fn lull_land_lost(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let plan = Plan::direct().capped("4MiB/s");
    let plan = plan.land("exec timeout 8 lull land");
    let mut running = plan.start(&world.host, &guest)?;
    running.wait_for(|event| is(event, "ended"))?;
    landed_after_all(world, &guest, running)
}

/// It is silent, as where a firewall has forgotten it: that is noticed, though nothing of
/// ssh's asks.
pub fn lull_land_silent(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    let plan = Plan::direct().capped("1MiB/s");
    let plan = plan.land("exec rig-agent throttle 100000000 -- lull land");
    let mut running = plan.start(&world.host, &guest)?;
    running.wait_until_copying()?;
    running.beside("pkill -STOP -f '^rig-agent throttle 100000000 '")?;
    let ended = running.wait_for(|event| is(event, "ended"))?;
    let reason = ended["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("sent nothing for"), "{ended}");
    landed_after_all(world, &guest, running)
}

fn landed_after_all(world: &World, guest: &Guest, mut running: Running<'_>) -> Result<()> {
    let copies_again =
        |event: &serde_json::Value| is(event, "started") && event["landing"] == "classic";
    running.wait_for(copies_again)?;
    running.beside(&format!("lull set --bandwidth none {}", guest.name()))?;
    let ended = running.finish()?;
    ensure!(ended.code() == 0, "{}", ended.in_short());
    let result = ended.result()?;
    ensure!(
        result["outcome"] == "moved"
            && result["landing"] == "classic"
            && result["landing_reason"]
                .as_str()
                .is_some_and(|why| why.contains("lull land was lost")),
        "{result}"
    );
    aftermath::check(&world.host, guest, &ended)
}
