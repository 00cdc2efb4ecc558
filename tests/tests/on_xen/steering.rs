//! Migrations that are observed and steered while they run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::Output;
use lull_tests::ssh::quote;
use serde_json::Value;

use crate::aftermath;
use crate::attempt::{Plan, Running};
use crate::world::World;

/// A link rate, bytes a second, that leaves time to observe the attempt.
const SLOW: u64 = 4_000_000;

/// An operator looks at the attempt, asks for another guest, and cancels. Meanwhile the
/// agent's hostile clients disturb the control socket.
pub fn looked_at_and_cancelled(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = world.host.clone();
    let nothing = said(&host.run("lull status")?, 0)?;
    ensure!(nothing.contains("No migration runs"), "{nothing}");
    let not = output_of(&host.run("lull cancel busy")?, 2)?;
    ensure!(not.contains("busy is not being migrated"), "{not}");

    let mut running = Plan::throttled(SLOW)
        .limit(Duration::from_secs(10))
        .start(&host, &guest)?;
    let started = running.wait_until_copying()?;
    let mut watcher = host.spawn("lull status --watch --json busy")?;
    let mut screen = host.spawn("rig-agent screen 'lull status --watch busy'")?;
    let mut pesterer = host.spawn("rig-agent pester /run/lull")?;
    let status = status(&running)?;
    ensure!(
        status["name"] == "busy"
            && status["phase"] == "copying"
            && status["domid"] == started["domid"]
            && status["helper_pid"] == started["helper_pid"]
            && status["limit_ms"] == 10_000
            && status["progress"]["pages_sent"].as_u64() > Some(0),
        "{status}"
    );
    let words = said(&host.run("lull status busy")?, 0)?;
    ensure!(words.contains("limit 10.0 s"), "{words}");
    let unknown = output_of(&host.run("lull status bussy")?, 2)?;
    ensure!(unknown.contains("busy"), "no near name: {unknown}");
    let cancelled = said(&host.run("lull cancel busy")?, 0)?;
    ensure!(cancelled.contains("busy runs here"), "{cancelled}");

    let ended = running.finish()?;
    ended.expect(5)?;
    let watched = watcher.wait(Duration::from_secs(30))?;
    check_watch(&watched.context("the watch has no end")?)?;
    let drawn = screen.wait(Duration::from_secs(30))?;
    check_screen(&drawn.context("the screen has no end")?)?;
    let pestered = pesterer.wait(Duration::from_secs(30))?;
    let pestered = said(&pestered.context("it pesters on")?, 0)?;
    let times: u32 = pestered.trim().parse()?;
    ensure!(times > 8, "the control socket was not used");
    aftermath::check(&host, &guest, &ended)
}

/// Checks that the watching client saw the progress and the outcome.
fn check_watch(watched: &Output) -> Result<()> {
    let lines = said(watched, 5)?;
    let lines: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let copying = lines.iter().any(|line| line["phase"] == "copying");
    let last = lines.last().context("nothing was seen")?;
    ensure!(
        copying && last["type"] == "outcome" && last["outcome"] == "cancelled",
        "{lines:?}"
    );
    Ok(())
}

/// Checks that a watch on a terminal drew the progress, and restored the terminal.
fn check_screen(drawn: &Output) -> Result<()> {
    const DRAWN_ON: &str = "\x1b[?1049h";
    const LEFT: &str = "\x1b[?1049l";
    let text = said(drawn, 5)?;
    let (screen, after) = text
        .rsplit_once(LEFT)
        .with_context(|| format!("not left: {text:?}"))?;
    for words in [DRAWN_ON, "busy", "pause", "time", "round", "rates"] {
        ensure!(screen.contains(words), "no {words:?}: {text:?}");
    }
    ensure!(after.contains("It runs here"), "{after:?}");
    Ok(())
}

/// Returns the status of the one migration.
fn status(running: &Running<'_>) -> Result<Value> {
    let text = said(&running.host.run("lull status --json busy")?, 0)?;
    serde_json::from_str(&text).with_context(|| format!("no status: {text:?}"))
}

/// Checks that a command ended with this exit code, and returns its standard output.
fn said(output: &Output, code: i32) -> Result<String> {
    ensure!(output.status == code, "not {code}: {output:?}");
    Ok(output.stdout.clone())
}

/// Does the same, and returns the standard error.
fn output_of(output: &Output, code: i32) -> Result<String> {
    ensure!(output.status == code, "not {code}: {output:?}");
    Ok(output.stderr.clone())
}

/// Both limits are set although there was none at first. The guest is stopped after the
/// first round, because the operator does not want to wait for another.
pub fn steered(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = world.host.clone();
    let mut running = Plan::throttled(4 * SLOW).start(&host, &guest)?;
    running.wait_until_copying()?;
    running.limit(Duration::from_secs(12))?;
    said(&host.run("lull set --timeout 10min busy")?, 0)?;
    let status = status(&running)?;
    ensure!(
        status["timeout_ms"] == 600_000 && status["limit_ms"] == 12_000,
        "{status}"
    );
    let stopped = said(&host.run("lull switch-now busy")?, 0)?;
    ensure!(stopped.contains("was asked to stop"), "{stopped}");
    let ended = running.finish()?;
    ended.expect(0)?;
    // The rounds are the full pass and the final round.
    ensure!(ended.rounds().count() == 2, "{}", ended.in_short());
    aftermath::check(&host, &guest, &ended)
}

/// READY is held until it is too late for the limit that was set last, though not for the
/// first one.
pub fn limit_lowered(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = world.host.clone();
    let late = "throttle 16000000 -- rig-agent hold-ready 'sleep 20' --";
    let mut running = Plan::by(late)
        .limit(Duration::from_secs(60))
        .start(&host, &guest)?;
    running.wait_until_copying()?;
    running.limit(Duration::from_secs(8))?;
    let ended = running.finish()?;
    let result = ended.expect(3)?;
    ensure!(ended.event("hung-up").is_some(), "{}", ended.in_short());
    ensure!(result["limit_ms"] == 8_000, "{result}");
    let pause = &ended.event("hung-up").context("no word of it")?["refused_pause_ms"];
    ensure!(
        pause.as_u64().is_some_and(|pause| pause <= 8_000),
        "{pause}"
    );
    aftermath::check(&host, &guest, &ended)
}

/// The helper has exited, and the destination is ready, which nothing at the source knows
/// yet. `lull migrate` still handles a cancel at this moment.
pub fn cancelled_while_landing(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = world.host.clone();
    let ask = "lull status --json busy >/run/asked; lull switch-now busy >>/run/asked 2>&1; \
               { lull cancel busy; echo code $?; } >/run/cancelled 2>&1 & sleep 2";
    let hold = format!("hold-at ready 0 {} {} --", guest.domid()?, quote(ask));
    let ended = Plan::by(&hold)
        .limit(Duration::from_secs(60))
        .run(&host, &guest)?;
    ended.expect(5)?;
    let asked = said(&host.run("cat /run/asked")?, 0)?;
    ensure!(
        asked.contains("\"phase\":\"landing\"") && asked.contains("too late"),
        "{asked}"
    );
    let cancelled = said(&host.run("cat /run/cancelled")?, 0)?;
    ensure!(
        cancelled.contains("busy runs here") && cancelled.ends_with("code 0\n"),
        "{cancelled}"
    );
    aftermath::check(&host, &guest, &ended)
}

/// With a cap by the operator the attempt sends less than the link carries, and it runs at
/// full speed again once the cap is lifted. The estimate of the link does not follow the
/// capped rate, and the last pages are not held back.
pub fn capped(world: &mut World) -> Result<()> {
    const CAP: u64 = 2 << 20;
    let guest = world.guest()?;
    let host = world.host.clone();
    let mut running = Plan::throttled(4 * SLOW)
        .limit(world.pace.scaled(Duration::from_secs(12)))
        .start(&host, &guest)?;
    running.wait_for(|event| {
        event["type"] == "progress" && event["pages_sent"].as_u64() > Some(8_192)
    })?;
    let capped = said(&host.run("lull set --bandwidth 2MiB/s busy")?, 0)?;
    ensure!(capped.contains("bandwidth 2.0 MiB/s"), "{capped}");
    let before = status(&running)?;
    std::thread::sleep(Duration::from_secs(6));
    let after = status(&running)?;
    let words = said(&host.run("lull status busy")?, 0)?;
    ensure!(words.contains("2.0 MiB/s allowed"), "{words}");
    let of = |status: &Value, what: &str| status["progress"][what].as_u64().unwrap_or(0);
    let bytes = (of(&after, "pages_sent") - of(&before, "pages_sent")) * 4_096;
    let ms = of(&after, "at_ms") - of(&before, "at_ms");
    // The slots that were full when the cap was set count when they are empty.
    let most = CAP * ms / 1_000 + (12 << 20);
    ensure!(bytes > 0 && bytes <= most, "{bytes} in {ms} ms");
    let rate = of(&after, "transfer_rate");
    ensure!(
        after["bandwidth"] == CAP && rate > CAP && rate <= 4 * SLOW * 2,
        "not the link's rate: {after}"
    );
    said(&host.run("lull set --bandwidth none busy")?, 0)?;
    ensure!(status(&running)?["bandwidth"].is_null(), "not lifted");
    let ended = running.finish()?;
    ended.expect(0)?;
    let newest = "ls -t /var/lib/lull/traces/*.jsonl | head -1";
    said(&host.run(&format!("lull replay $({newest})"))?, 0)?;
    aftermath::check(&host, &guest, &ended)?;
    // The cap is set from the start, and applies until the suspend.
    let mut running = Plan::throttled(4 * SLOW)
        .capped("8MiB/s")
        .start(&host, &guest)?;
    running.wait_until_copying()?;
    let capped = status(&running)?;
    ensure!(capped["bandwidth"] == 8 << 20, "{capped}");
    let ended = running.finish()?;
    ended.expect(0)?;
    let full = ended.rounds().next().context("no round")?;
    let (pages, ms) = (full["pages_sent"].as_u64(), full["duration_ms"].as_u64());
    let (pages, ms) = pages.zip(ms).context("no figures")?;
    ensure!(pages * 4_096 <= (8 << 20) * (ms + 100) / 1_000, "{full}");
    aftermath::check(&host, &guest, &ended)
}
