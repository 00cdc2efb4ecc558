//! Guests that stay at the source because of a limit or because the operator cancels.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::Guest;

use crate::aftermath;
use crate::attempt::{Plan, Running, is};
use crate::world::{HEAVY, MODERATE, World};

/// Gate 0 refuses: the fixed costs alone exceed the limit.
pub fn fixed_costs(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let limit = Duration::from_secs(1);
    let ended = Plan::direct().limit(limit).run(&world.host, &guest)?;
    let result = ended.expect(3)?;
    ended.expect_never_suspended()?;
    ensure!(
        result["pages_sent"] == 0 && result["rounds"] == 0,
        "copied before it refused: {result}"
    );
    names_what_would_fit(result["advice"].as_str(), &["--max-suspend-time"])?;
    aftermath::check(&world.host, &guest, &ended)
}

/// A guest that writes faster than its link can send is refused soon and with figures. Once
/// it is quieter, it moves.
pub fn hopeless_then_moved(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    guest.set_load(HEAVY)?;
    let limit = Duration::from_secs(4);
    let ended = Plan::throttled(4_000_000)
        .limit(limit)
        .run(&world.host, &guest)?;
    let result = ended.expect(4)?;
    ended.expect_never_suspended()?;
    ensure!(
        result["rounds"].as_u64() <= Some(8),
        "hopeless, but tried for long: {result}"
    );
    let reported = ended.event("ended").context("no last word")?;
    let last = ended.rounds().last().context("no round")?;
    ensure!(
        reported["smallest_limit_ms"].as_u64() > Some(limit.as_millis() as u64)
            && reported["needed_rate"].as_u64() > last["transfer_rate"].as_u64(),
        "what would fit does not: {reported}"
    );
    names_what_would_fit(
        result["advice"].as_str(),
        &["--max-suspend-time", "a link that carries"],
    )?;
    aftermath::check(&world.host, &guest, &ended)?;

    guest.set_load(MODERATE)?;
    let again = Plan::direct()
        .limit(world.pace.scaled(Duration::from_secs(12)))
        .run(&world.host, &guest)?;
    again.expect(0)?;
    aftermath::check(&world.host, &guest, &again)
}

fn names_what_would_fit(advice: Option<&str>, words: &[&str]) -> Result<()> {
    let advice = advice.unwrap_or_default();
    for word in words {
        ensure!(
            advice.contains(word),
            "no {word:?} in the advice: {advice:?}"
        );
    }
    Ok(())
}

/// The limit that a burst exceeds, and the link rate, bytes a second, at which it does. A
/// slow machine, where a guest takes longer to stop, uses a larger limit and a lower rate.
const LIMIT: Duration = Duration::from_secs(8);
const LINK: u64 = 4_000_000;

fn burst_limit(world: &World) -> Duration {
    world.pace.scaled(LIMIT)
}

pub fn over_a_slow_link(world: &World) -> Plan {
    Plan::throttled((LINK as f64 / burst_limit(world).div_duration_f64(LIMIT)) as u64)
}

/// Gate 2: the guest dirties as much as it can between the decision to stop it and its
/// stop. xl is held during that time, so that the guest has time to do so. xl takes no part
/// in the copying, but the request to suspend goes through xl.
pub fn with_a_burst<'a>(world: &'a World, guest: &'a Guest, plan: Plan) -> Result<Running<'a>> {
    let plan = plan.limit(burst_limit(world));
    let mut running = plan.start(&world.host, guest)?;
    let helper = running.wait_until_copying()?["helper_pid"].to_string();
    let xl = format!("$(ps -o ppid= -p {helper})");
    running.beside(&format!("kill -STOP {xl}"))?;
    running.wait_for(|event| is(event, "round") && event["decision"] == "suspend")?;
    guest.set_load(HEAVY)?;
    std::thread::sleep(Duration::from_secs(2));
    running.beside(&format!("kill -CONT {xl}"))?;
    Ok(running)
}

/// With a timeout the attempt goes on, and once the guest is quieter it moves.
pub fn tried_again(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let plan = over_a_slow_link(world).timeout(Duration::from_secs(1_200));
    let mut running = with_a_burst(world, &guest, plan)?;
    let ran_on = running.wait_for(|event| is(event, "ran-on"))?;
    guest.set_load(MODERATE)?;
    let ended = running.finish()?;
    let result = ended.expect(0)?;
    ensure!(
        ran_on["pause_ms"].as_u64() <= Some(burst_limit(world).as_millis() as u64)
            && ran_on["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("once the guest had stopped")),
        "{ran_on}"
    );
    let given_up = result["given_up_ms"].as_array().map_or(0, Vec::len);
    ensure!(
        (1..=2).contains(&given_up) && result["given_up_ms"][0] == ran_on["pause_ms"],
        "{result}"
    );
    aftermath::check(&world.host, &guest, &ended)
}

/// Without a timeout the attempt is refused.
pub fn burst_before_the_stop(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let running = with_a_burst(world, &guest, over_a_slow_link(world))?;
    let ended = running.finish()?;

    ended.expect(3)?;
    let stopped = ended.event("suspended").context("it was never stopped")?;
    ensure!(
        stopped["dirty_pages"].as_u64() > Some(HEAVY.working_set_pages / 2),
        "the burst was not there: {stopped}"
    );
    let reported = ended.event("ended").context("no last word")?;
    let pause = reported["refused_pause_ms"]
        .as_u64()
        .context("not paused")?;
    ensure!(
        pause <= burst_limit(world).as_millis() as u64,
        "refused, but paused beyond the limit: {reported}"
    );
    ensure!(
        reported["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("once the guest had stopped")),
        "refused by another gate: {reported}"
    );
    let in_rounds: u64 = ended
        .rounds()
        .filter_map(|round| round["pages_sent"].as_u64())
        .sum();
    ensure!(
        reported["pages_sent"] == in_rounds,
        "{in_rounds} pages were sent before the stop: {reported}"
    );
    aftermath::check(&world.host, &guest, &ended)?;
    let advice = ended.result()?["advice"].to_string();
    ensure!(!advice.contains("No xl waits"), "{advice}");
    aftermath::its_reboot_is_carried_out(world, &guest)
}

/// A timeout never forces a suspend.
pub fn timeout(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let ended = Plan::throttled(4_000_000)
        .timeout(Duration::from_secs(12))
        .run(&world.host, &guest)?;
    let result = ended.expect(4)?;
    ended.expect_never_suspended()?;
    ensure!(result["pages_sent"].as_u64() > Some(0), "{result}");
    aftermath::check(&world.host, &guest, &ended)
}
