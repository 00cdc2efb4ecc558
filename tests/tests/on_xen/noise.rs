//! Moves between two hosts whose dom0 has other work: on each a process runs without a
//! pause, as beside a backup or a build. The scenarios test the estimate for a link and a
//! guest that are delayed now and then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, Load, Outages};
use serde_json::Value;

use crate::aftermath;
use crate::attempt::{Ended, Plan};
use crate::sites::{Pair, Site};
use crate::two_hosts::{self, Before, TIMEOUT};
use crate::world::{MODERATE, Scenario, World, scenario_with, spec};

/// The largest ratio of lull's pause to stock's.
const BESIDE_STOCK: f64 = 1.1;

/// Returns the scenarios between two hosts. They would take half of a run's time, and are not
/// drawn.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario_with(
            Site::Installed,
            "two-hosts-busy-beside-stock",
            860,
            beside_stock,
        ),
        scenario_with(
            Site::Installed,
            "two-hosts-busy-as-the-oracle",
            400,
            as_the_oracle,
        ),
    ]
}

/// Other work in dom0; it runs until this is dropped.
struct Noise<'a>(&'a Host);

impl<'a> Noise<'a> {
    fn on(host: &'a Host) -> Result<Self> {
        host.run("sh -c 'while :; do :; done' rig-noise >/dev/null 2>&1 &")?
            .checked()?;
        Ok(Self(host))
    }
}

impl Drop for Noise<'_> {
    fn drop(&mut self) {
        let _ = self.0.run("pkill -KILL -f rig-noise");
    }
}

/// The guest writes 500 pages a second over 32 MiB. Stock xl moves it there and lull moves it
/// back, with the classic landing under a limit that leaves room; then lull moves it there and
/// stock xl moves it back. In that order neither gains from a machine that becomes slower, nor
/// from a direction.
fn beside_stock(pair: &mut Pair<'_>) -> Result<()> {
    let guest = pair.here.guest_like(&spec("busy"))?;
    guest.set_load(Load::steady(MODERATE.pages_per_sec, 8_192))?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let limit = pair.here.pace.ample();
    let _noise = (Noise::on(&here)?, Noise::on(&there)?);

    let plan = |to: &Host| Plan::called(to).landing("classic").limit(limit);
    let (guest, way_there) = stock(&guest, &there)?;
    let (guest, lulls_back, report_back) = two_hosts::observed(&plan(&here), &guest, &here)?;
    let (guest, lulls_there, report_there) = two_hosts::observed(&plan(&there), &guest, &there)?;
    let (_, way_back) = stock(&guest, &here)?;

    let sum = |outages: [&Outages; 2]| outages.map(|one| one.longest_ms).iter().sum::<f64>();
    let (stock, lull) = (
        sum([&way_there, &way_back]),
        sum([&lulls_there, &lulls_back]),
    );
    let slack = [way_there, way_back, lulls_there, lulls_back].map(|one| one.dom0_stall_ms);
    let slack = slack.into_iter().fold(0.0, f64::max);
    Timeline::start().phase(format_args!(
        "there and back: stock xl {stock:.0} ms, lull landing classic {lull:.0} ms, ratio \
         {:.2}; dom0 late by {slack:.0} ms at most",
        lull / stock
    ));
    ensure!(
        lull <= stock * BESIDE_STOCK + slack,
        "paused {lull:.0} ms, where stock xl paused {stock:.0}: {}\n{}",
        report_there.in_short(),
        report_back.in_short()
    );
    Ok(())
}

/// Moves the guest to the other host with stock xl.
fn stock(guest: &Guest, there: &Host) -> Result<(Guest, Outages)> {
    let here = guest.host();
    let before = Before::of(guest)?;
    let observer = here.observe(guest)?;
    let command = format!(
        "xl migrate -s 'rig-agent call' {} {}",
        quote(guest.name()),
        there.name()
    );
    let moved = here.run_for(&command, TIMEOUT);
    let outages = observer.stop()?;
    moved?.checked().context("stock xl does not move it")?;
    Ok((two_hosts::arrived(guest, &before, here, there)?, outages))
}

/// The guest writes 3,000 pages a second over 64 MiB. It moves within its limit; or it
/// stays, and then none of its rounds could have been the last within that limit.
fn as_the_oracle(pair: &mut Pair<'_>) -> Result<()> {
    let guest = pair.here.guest_like(&GuestSpec {
        memory_mib: 168,
        reserve_pages: 16_384,
        ..GuestSpec::new("writer")
    })?;
    guest.set_load(Load::steady(3_000, 16_384))?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let limit = pair.here.pace.ample();
    let _noise = (Noise::on(&here)?, Noise::on(&there)?);
    let plan = Plan::called(&there).landing("classic").limit(limit);
    let before = Before::of(&guest)?;
    let ended = plan.run(&here, &guest)?;
    if ended.code() == 0 {
        ended.expect(0)?;
        return two_hosts::arrived(&guest, &before, &here, &there).map(drop);
    }
    let best = best_pause(&ended)?;
    ensure!(
        matches!(ended.code(), 3 | 4) && best > limit,
        "refused in vain: a pause of {best:?} would have done: {}",
        ended.in_short()
    );
    ended.expect(ended.code())?;
    aftermath::runs_whole_since(&guest, &before.status)
}

/// Returns the shortest possible pause. The pages that are left when a round ends are those
/// of the next round, which shows how long they took; everything else is as it was assumed.
fn best_pause(ended: &Ended) -> Result<Duration> {
    let started = ended.event("started").context("not started")?;
    let fixed: u64 = [
        "suspend_ms",
        "final_bitmap_ms",
        "cpu_state_ms",
        "landing_ms",
    ]
    .iter()
    .filter_map(|part| started["fixed_costs"][part].as_u64())
    .sum();
    let shortest = ended
        .rounds()
        .skip(1)
        .filter_map(|round| round["duration_ms"].as_u64())
        .min()
        .context("no round but the first")?;
    Ok(Duration::from_millis(fixed + shortest))
}

/// Moves the same guest under ever larger limits. It never stops more than one round
/// earlier than under a smaller limit.
pub fn larger_limits(world: &mut World) -> Result<()> {
    let guest = world.guest_like(&spec("busy"))?;
    guest.set_load(Load::steady(MODERATE.pages_per_sec, 8_192))?;
    let mut latest: Option<(u64, Duration)> = None;
    for seconds in [3, 6, 20, 60] {
        let limit = world.pace.scaled(Duration::from_secs(seconds));
        let plan = Plan::direct().landing("classic").limit(limit);
        let ended = plan.run(&world.host, &guest)?;
        // The smallest limit may be below what a pause costs here.
        if ended.code() != 0 {
            ensure!(seconds == 3, "{}", ended.in_short());
            ended.expect(ended.code())?;
            continue;
        }
        ended.expect(0)?;
        aftermath::check(&world.host, &guest, &ended)?;
        let rounds = ended.rounds().count() as u64;
        let left = ended
            .event("suspended")
            .map_or(&Value::Null, |event| &event["dirty_pages"]);
        Timeline::start().phase(format_args!(
            "limit {limit:?}: stopped after {rounds} rounds with {left} pages left"
        ));
        if let Some((most, smaller)) = latest {
            ensure!(
                rounds + 1 >= most,
                "stopped after {rounds} rounds under {limit:?}, after {most} under {smaller:?}: {}",
                ended.in_short()
            );
        }
        latest = latest
            .filter(|(most, _)| *most >= rounds)
            .or(Some((rounds, limit)));
    }
    Ok(())
}
