//! The output that remains of attempts: records, drawings and metrics; and the predictions
//! for a guest.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host, Load, Spawned};
use serde_json::Value;

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::{HEAVY, MODERATE, World};

const COLLECTED: &str = "/var/lib/prometheus/node-exporter";
const LIMIT: Duration = Duration::from_secs(200);

/// A move by `lull migrate` and one by plain xl, explained in every form.
pub fn afterwards(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host;
    host.run(&format!(
        "rm -rf {COLLECTED} /var/lib/lull/runs /var/lib/lull/metrics.json; mkdir -p {COLLECTED}"
    ))?
    .checked()?;
    let name = guest.name();
    // No attempt has been made yet.
    let none = host.run("lull report")?;
    ensure!(none.status == 2, "an empty folder: {}", none.stderr);

    let plan = Plan::direct().limit(world.pace.scaled(Duration::from_secs(30)));
    let running = plan.start(host, &guest)?;
    let ended = running.finish()?;
    let result = ended.expect(0)?.clone();
    aftermath::check(host, &guest, &ended)?;

    let report = json(host, "lull report --last --json")?;
    ensure!(report["begun"]["guest"] == name, "not its guest: {report}");
    ensure!(report["lines_not_understood"] == 0, "{report}");
    for field in [
        "outcome",
        "limit_ms",
        "predicted_downtime_ms",
        "observed_downtime_ms",
    ] {
        let (reported, then) = (&report[field], &result[field]);
        ensure!(reported == then, "{field} was {then} and is now {reported}");
    }
    let rounds = report["rounds"].as_array().map_or(0, Vec::len);
    ensure!(rounds >= 2, "{rounds} rounds");
    let landing = report["observed"]["landing_ms"].as_u64();
    ensure!(landing.is_some(), "no landing: {report}");
    let text = host.run("lull report")?.checked()?;
    ensure!(
        text.contains("Moved.") && text.contains("landing"),
        "{text}"
    );
    let markdown = host.run("lull report --markdown")?.checked()?;
    ensure!(markdown.starts_with(&format!("# {name}")), "{markdown}");
    let drawn = host
        .run("lull report --plot /run/rig/plot.svg >/dev/null && cat /run/rig/plot.svg; rm -f /run/rig/plot.svg")?
        .checked()?;
    ensure!(drawn.contains("</svg>"), "no drawing");
    if let Ok(file) = std::env::var("LULL_TESTS_PLOT") {
        std::fs::write(file, drawn)?;
    }
    let first = metrics(host)?;
    ensure!(
        first["lull_attempts_total{outcome=\"moved\"}"] == 1.0,
        "{first:?}"
    );
    ensure!(first["lull_running_migrations"] == 0.0, "{first:?}");
    ensure!(
        first["lull_observed_downtime_seconds_count"] == 1.0,
        "{first:?}"
    );

    // This move is by plain xl: only the helper is lull's.
    host.run_for(
        &format!(
            "LIBXL_SAVE_HELPER=/usr/local/bin/lull xl migrate -s '' {name} 'xl migrate-receive'"
        ),
        LIMIT,
    )?
    .checked()?;
    aftermath::check_whole(host, &guest)?;
    let report = json(host, "lull report --json")?;
    ensure!(report["begun"]["through"] == "libxl", "{report}");
    ensure!(report["begun"]["guest"] == name, "{report}");
    ensure!(report["outcome"] == "sent", "{report}");
    let second = metrics(host)?;
    ensure!(
        second["lull_attempts_total{outcome=\"sent\"}"] == 1.0,
        "{second:?}"
    );
    ensure!(
        second["lull_attempts_total{outcome=\"moved\"}"] == 1.0,
        "{second:?}"
    );
    ensure!(
        second["lull_sent_bytes_total"] > first["lull_sent_bytes_total"],
        "{second:?}"
    );
    let list = json(host, "lull report --list --json")?;
    let runs = list["runs"].as_array().context("no list")?;
    ensure!(runs.len() == 2, "{list}");
    let table = host.run("lull report --list")?.checked()?;
    for run in runs {
        let run = run["run"].as_str().context("it has no name")?;
        ensure!(table.contains(run), "no {run}: {table}");
    }
    // This is the older of the two runs.
    let run = runs[1]["run"].as_str().unwrap_or_default();
    let older = host.run(&format!("lull report {run}"))?.checked()?;
    ensure!(
        older.contains(name) && older.contains("Moved."),
        "{run}: {older}"
    );
    let version = host.run("lull --version")?.checked()?;
    ensure!(version.contains("stub"), "{version}");
    learned(host, name)?;
    without_a_guest(host)
}

/// Checks what the ledger holds of the move, and that `lull ledger` forgets it on request.
fn learned(host: &Host, name: &str) -> Result<()> {
    let ledger = json(host, "lull ledger --json")?;
    let row = &ledger["rows"][0];
    ensure!(row["guest"] == name && row["pauses"] == 1, "{ledger}");
    let destination = row["destination"].as_str().context("to nowhere")?;
    let table = host.run("lull ledger")?.checked()?;
    ensure!(
        table.contains(&format!("On the way to {destination}")) && table.contains(name),
        "{table}"
    );
    let of_it = quote(destination);
    let reported = host
        .run(&format!("lull predict {name} --for 2s --to {of_it}"))?
        .checked()?;
    ensure!(
        reported.contains(&format!("{name} would move"))
            && reported.contains("as the ledger knows it"),
        "{reported}"
    );
    let forgotten = host
        .run(&format!("lull ledger --forget {of_it}"))?
        .checked()?;
    ensure!(forgotten.contains("Forgot 1 pause"), "{forgotten}");
    let empty = host.run("lull ledger")?.checked()?;
    ensure!(empty.contains("Nothing yet"), "{empty}");
    Ok(())
}

/// Runs the commands that need no guest.
fn without_a_guest(host: &Host) -> Result<()> {
    let newest = "ls -t /var/lib/lull/traces/*.jsonl | head -1";
    let again = host.run(&format!("lull replay $({newest})"))?.checked()?;
    ensure!(!again.is_empty(), "nothing was replayed");
    let written = host
        .run(
            "cd /run/rig && lull generate man m && lull generate completions c && ls m c; rm -rf m c",
        )?
        .checked()?;
    for file in [
        "lull.8",
        "lull-migrate.8",
        "lull.bash",
        "_lull",
        "lull.fish",
    ] {
        ensure!(written.contains(file), "no {file}: {written}");
    }
    Ok(())
}

/// Checks that a prediction moves nothing and leaves nothing switched on: for a quiet
/// guest, for a busy one, after a kill in the middle, and beside a migration.
pub fn predicted(world: &mut World) -> Result<()> {
    const LINK: &str = "--for 2s --bandwidth 100MiB/s --json";
    let guest = world.guest()?;
    let host = &world.host;
    let name = guest.name();
    host.run("rm -f /var/lib/lull/ledger.json")?.checked()?;

    guest.set_load(Load::QUIET)?;
    let quiet = foretold(
        host,
        0,
        &format!("lull predict {name} --max-suspend-time 20s {LINK}"),
    )?;
    ensure!(quiet["expected"]["outcome"] == "moved", "{quiet}");
    ensure!(quiet["cost"]["cleans"]["number"] == 3, "{quiet}");
    let smallest = quiet["smallest_limit_ms"].as_u64();
    guest.set_load(HEAVY)?;
    let tiny = foretold(
        host,
        3,
        &format!("lull predict {name} --max-suspend-time 5ms {LINK}"),
    )?;
    ensure!(tiny["expected"]["outcome"] == "refused-downtime", "{tiny}");
    let busy = foretold(
        host,
        4,
        &format!(
            "lull predict {name} --for 2s --max-suspend-time 4s --bandwidth 8MiB/s --json --plot /run/rig/plot.svg"
        ),
    )?;
    ensure!(
        busy["smallest_limit_ms"].as_u64() > smallest,
        "{busy} after {quiet}"
    );
    let drawn = host
        .run("cat /run/rig/plot.svg; rm -f /run/rig/plot.svg")?
        .checked()?;
    ensure!(drawn.contains("</svg>"), "no drawing");
    if let Ok(file) = std::env::var("LULL_TESTS_PREDICTION_PLOT") {
        std::fs::write(file, drawn)?;
    }
    aftermath::no_leaks(host, &[&guest])?;

    let mut killed = long_prediction(host, &guest)?;
    host.run("pkill -KILL -f '^lull predict'")?.checked()?;
    ensure!(killed.wait(LIMIT)?.is_some(), "it was not killed");
    aftermath::check_whole(host, &guest)?;

    let mut stopped = long_prediction(host, &guest)?;
    host.run("pkill -TERM -f '^lull predict'")?.checked()?;
    let stopped = stopped.wait(LIMIT)?.context("it does not end")?;
    ensure!(stopped.status == 5, "not cancelled: {stopped:?}");
    aftermath::no_leaks(host, &[&guest])?;

    // A migration has precedence over a prediction.
    guest.set_load(MODERATE)?;
    let mut first = long_prediction(host, &guest)?;
    let mut running = Plan::throttled(20_000_000)
        .limit(world.pace.scaled(Duration::from_secs(30)))
        .start(host, &guest)?;
    let first = first.wait(LIMIT)?.context("it goes on")?;
    ensure!(
        first.status == 2 && first.stderr.contains("a migration of it has begun"),
        "it did not make way: {first:?}"
    );
    running.wait_until_copying()?;
    let second = host.run(&format!("lull predict {name} {LINK}"))?;
    ensure!(
        second.status == 2 && second.stderr.contains("it is being migrated"),
        "not refused: {second:?}"
    );
    let ended = running.finish()?;
    ended.expect(0)?;
    aftermath::check(host, &guest, &ended)
}

/// Runs a prediction, checks that it ended with this exit code, and returns its output.
fn foretold(host: &Host, code: i32, command: &str) -> Result<Value> {
    let output = host.run(command)?;
    ensure!(output.status == code, "{command}: not {code}: {output:?}");
    serde_json::from_str(&output.stdout).with_context(|| format!("{command}: {output:?}"))
}

/// Starts a prediction that keeps the dirty log on.
fn long_prediction<'a>(host: &'a Host, guest: &Guest) -> Result<Spawned<'a>> {
    let spawned = host.spawn(&format!("exec lull predict {} --for 10min", guest.name()))?;
    let start = Timeline::start();
    while host.leaks(&[guest])?.log_dirty.is_empty() {
        ensure!(start.seconds() < 30.0, "the dirty log does not come on");
    }
    Ok(spawned)
}

fn json(host: &Host, command: &str) -> Result<Value> {
    let said = host.run(command)?.checked()?;
    serde_json::from_str(&said).with_context(|| format!("{command} said {said}"))
}

/// Returns every sample of the metrics.
fn metrics(host: &Host) -> Result<BTreeMap<String, f64>> {
    let text = host.run(&format!("cat {COLLECTED}/lull.prom"))?.checked()?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let sample = line.rsplit_once(' ').context("no value");
            let (name, value) = sample.with_context(|| line.to_owned())?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}
