//! Limits in `/etc/lull.toml`, which xl keeps as well with lull as its save helper only: an
//! option that comes before `migrate` makes Xen's own xl do it (see [`crate::plain_xl`] for
//! the other way).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::{Guest, Host, Output};

use crate::aftermath;
use crate::attempt::{LEDGER, Plan, until_copying};
use crate::world::{HEAVY, MODERATE, World};

const FILE: &str = "/etc/lull.toml";

/// The longest time that a plain migration may take; none in here takes that long.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A migration is refused because of its limit, another because the file is broken, and one
/// succeeds; at the end the host has Xen's own xl again.
pub fn kept_by_plain_xl(world: &mut World) -> Result<()> {
    let kept = keep(world);
    // This runs whatever the result was, so that later scenarios have no limits.
    let cleared = world.host.run(&format!("lull disable xl; rm -f {FILE}"));
    kept?;
    cleared?.checked()?;
    Ok(())
}

fn keep(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host.clone();
    says(host, "lull limits check", "no limits")?;
    says(host, "lull enable xl", "/usr/local/sbin/xl")?;
    says(host, "lull enable xl", "already")?;
    says(host, "lull doctor", "plain `xl migrate` keeps the limits")?;

    guest.set_load(HEAVY)?;
    let set =
        "lull limits set 'b*' --max-suspend-time 4s && lull limits set --default --timeout 5min";
    says(host, set, "timeout = 5m")?;
    says(
        host,
        "lull limits show busy",
        "/etc/lull.toml line 2, [guest.\"b*\"]",
    )?;
    says(host, "lull limits show bsuy 2>&1", "did you mean `busy`?")?;
    let slow = "xl -T migrate -s '' busy 'rig-agent throttle 4000000 -- xl migrate-receive'";
    stays(
        host,
        &guest,
        slow,
        &["would have fitted", "line 2, [guest.\"b*\"]"],
    )?;

    guest.set_load(MODERATE)?;
    let fast = "xl -T migrate -s '' busy 'xl migrate-receive'";
    for (spoil, word) in [
        (
            "sed -i s/max-suspend-time/max-suspnd-time/",
            "`max-suspend-time`",
        ),
        ("chmod o+w", "chmod go-w"),
    ] {
        host.run(&format!("cp -p {FILE} /run/good && {spoil} {FILE}"))?
            .checked()?;
        stays(host, &guest, fast, &[word])?;
        let ended = Plan::direct().run(host, &guest)?;
        ensure!(
            ended.code() == 2 && ended.output.stderr.contains(word),
            "a broken file, and lull migrate: {:?}",
            ended.output
        );
        host.run(&format!("cp -p /run/good {FILE}"))?.checked()?;
    }

    says(
        host,
        "lull limits set busy --max-suspend-time 12s",
        "[guest.busy]",
    )?;
    steered(host, &guest, slow)?;
    moves(host, &guest, fast)?;
    says(
        host,
        "lull limits unset busy && lull limits show --json busy",
        "\"limit_us\":4000000",
    )?;
    // Plain xl alone cannot report the reason.
    says(host, "lull limits unset 'b*'", "changed")?;
    let mut slow = host.spawn(slow)?;
    std::thread::sleep(Duration::from_secs(2));
    guest.crash()?;
    let dead = slow.wait(TIMEOUT)?.context("xl does not end")?;
    ensure!(
        dead.stderr.contains("busy was not moved: ") && dead.stderr.contains("busy has crashed."),
        "a guest that died: {dead:?}"
    );
    says(host, "lull disable xl", "Xen's own again")?;
    says(host, "command -v xl", "/usr/sbin/xl")?;
    world.bury_guest()
}

/// A migration by plain xl can be observed, steered and cancelled like any other.
fn steered(host: &Host, guest: &Guest, command: &str) -> Result<()> {
    let before = guest.domid()?;
    let mut running = host.spawn(command)?;
    says(host, &until_copying("busy"), "\"limit_ms\":12000")?;
    says(
        host,
        "lull set --max-suspend-time 30s --timeout 10min busy && lull status --json busy",
        "\"limit_ms\":30000",
    )?;
    says(host, "lull cancel busy", "busy runs here")?;
    let cancelled = running.wait(TIMEOUT)?.context("xl does not end")?;
    ensure!(
        cancelled.status != 0
            && cancelled
                .stderr
                .contains("busy was not moved: the attempt was cancelled"),
        "{cancelled:?}"
    );
    ensure!(guest.domid()? == before, "it is another domain");
    aftermath::check_whole(host, guest)
}

fn says(host: &Host, command: &str, words: &str) -> Result<()> {
    let output = host.run(command)?.checked()?;
    ensure!(output.contains(words), "{command}: {output}");
    Ok(())
}

fn migrate(host: &Host, command: &str) -> Result<Output> {
    host.run(&format!("rm -f {LEDGER}"))?.checked()?;
    host.run_for(command, TIMEOUT)
}

/// Checks that the migration is refused with these words for the operator, and that the
/// guest keeps running at the source.
fn stays(host: &Host, guest: &Guest, command: &str, words: &[&str]) -> Result<()> {
    let before = guest.domid()?;
    let output = migrate(host, command)?;
    eprintln!("{command}:\n{}", output.stderr);
    ensure!(output.status != 0, "it was moved: {output:?}");
    ensure!(guest.domid()? == before, "it is another domain: {output:?}");
    for word in ["busy was not moved: ", "busy runs on here."]
        .iter()
        .chain(words)
    {
        ensure!(
            output.stderr.contains(word),
            "no {word:?}: {}",
            output.stderr
        );
    }
    aftermath::check_whole(host, guest)
}

fn moves(host: &Host, guest: &Guest, command: &str) -> Result<()> {
    let before = guest.domid()?;
    migrate(host, command)?.checked()?;
    ensure!(guest.domid()? != before, "it was not moved");
    aftermath::check_whole(host, guest)
}
