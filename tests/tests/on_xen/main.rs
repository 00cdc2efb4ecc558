//! Tests on a real Xen host, which the first of them boots.
//!
//! A test ends as a success, a *failure* (the product did wrong) or an *error*
//! (the rig did); the message says which.

use std::cell::OnceCell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, HostConfig, Load, Mark};
use serde::Deserialize;

/// The host all scenarios share. A mutex, so that they come one by one.
static HOST: Mutex<OnceCell<Host>> = Mutex::new(OnceCell::new());

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = vec![
        scenario("host-boots-and-xl-lists-dom0", host_boots),
        scenario("link-can-be-slowed", link_is_shaped),
        scenario("guest-answers-and-takes-a-load", guest_takes_a_load),
        scenario("stock-migration-keeps-every-page", stock_migration),
        scenario("source-and-destination-agree-at-ready", frames_agree),
        scenario("suspend-can-be-ignored", suspend_ignored),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The host dies here rather than with the process: its folder goes too.
    if let Ok(mut cell) = HOST.lock() {
        cell.take();
    }
    conclusion.exit_code()
}

/// A scenario on the shared host. A failure with a rig fault on the console
/// is reported as the rig's error; a success with one is an error as well.
fn scenario(name: &'static str, run: fn(&Host) -> Result<()>) -> Trial {
    Trial::test(name, move || {
        let cell = HOST
            .lock()
            .map_err(|_| Failed::from("an earlier scenario panicked"))?;
        let host = match cell.get() {
            Some(host) => host,
            None => {
                let host = Host::boot(&HostConfig::default())
                    .map_err(|error| Failed::from(format!("Error (rig): {error:#}")))?;
                cell.get_or_init(|| host)
            }
        };
        eprintln!("--- {name}");
        let mark = host.console().mark();
        let outcome = run(host);
        let report = verdict(host, mark, outcome);
        tidy(host);
        report.map_err(Failed::from)
    })
}

fn verdict(host: &Host, mark: Mark, outcome: Result<()>) -> Result<(), String> {
    let faults = host.rig_faults_since(mark);
    match (outcome, faults.first()) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(fault)) => Err(format!("Error (rig): passed, but saw: {}", fault.line)),
        (Err(error), Some(fault)) => Err(format!("Error (rig): {}; {error:#}", fault.line)),
        (Err(error), None) if !host.is_running() => {
            Err(format!("Error (rig): QEMU is gone; {error:#}"))
        }
        (Err(error), None) => Err(format!("Failure: {error:#}")),
    }
}

/// Takes away what a scenario left, so that the next starts clean.
fn tidy(host: &Host) {
    if let Ok(domains) = host.domains() {
        for domain in domains.iter().filter(|d| d.id != 0) {
            let _ = host.run(&format!("xl destroy {}", domain.id));
        }
    }
    let _ = host.shape(None);
}

fn host_boots(host: &Host) -> Result<()> {
    let domains = host.domains()?;
    ensure!(
        domains.len() == 1 && domains[0].name == "Domain-0",
        "domains: {domains:?}"
    );
    let leaks = host.leaks(&[])?;
    ensure!(leaks.is_empty(), "{leaks:?}");
    Ok(())
}

fn link_is_shaped(host: &Host) -> Result<()> {
    let timeline = Timeline::start();
    // A busy machine can only make this slower, so the bound holds on any.
    host.shape(Some(512 << 10))?;
    let start = timeline.seconds();
    host.run("dd if=/dev/zero bs=64k count=64 2>/dev/null | ssh dest 'cat >/dev/null'")?
        .checked()?;
    let seconds = timeline.seconds() - start;
    let shaped = host.run("tc qdisc show dev lo")?.checked()?;
    host.shape(None)?;
    let lifted = host.run("tc qdisc show dev lo")?.checked()?;
    timeline.phase(format_args!("4 MiB at 512 KiB/s: {seconds:.1} s"));
    ensure!(seconds > 7.0, "4 MiB at 512 KiB/s took {seconds:.1} s");
    ensure!(
        shaped.contains("tbf") && !lifted.contains("tbf"),
        "{shaped}{lifted}"
    );
    Ok(())
}

fn guest_takes_a_load(host: &Host) -> Result<()> {
    let timeline = Timeline::start();
    let guest = host.create_guest(&GuestSpec::new("load"))?;
    timeline.phase("guest answers");
    for rate in [500, 20_000] {
        let before = guest.set_load(Load::steady(rate, 8_192))?;
        std::thread::sleep(Duration::from_secs(4));
        let after = guest.status()?;
        let seconds = (after.uptime_ms - before.uptime_ms) as f64 / 1e3;
        let seen = (after.pages_written - before.pages_written) as f64 / seconds;
        timeline.phase(format_args!("asked for {rate} pages/s, got {seen:.0}"));
        ensure!(
            (seen / rate as f64 - 1.0).abs() < 0.2,
            "asked for {rate} pages/s, got {seen:.0}"
        );
        ensure!(after.hash_errors == 0, "{after:?}");
    }
    let quiet = host.observe(&guest)?;
    std::thread::sleep(Duration::from_secs(3));
    let slack = quiet.stop()?;
    timeline.phase(format_args!("slack of the observer: {slack:?}"));
    guest.destroy()
}

fn stock_migration(host: &Host) -> Result<()> {
    let timeline = Timeline::start();
    let guest = busy_guest(host, "stock")?;
    let observer = host.observe(&guest)?;
    timeline.phase("migrating");
    let source = guest.domid()?;
    let mut migration = host.spawn("xl migrate stock localhost")?;
    let mut logged = false;
    while !logged && migration.wait(Duration::from_secs(1))?.is_none() {
        logged = host.log_dirty_state(source)? == Some(true);
    }
    ensure!(logged, "dirty logging never seen during a migration");
    timeline.phase("dirty logging is on");
    let output = migration
        .wait(Duration::from_secs(400))?
        .context("xl migrate does not end")?;
    timeline.phase(format_args!("xl migrate: status {}", output.status));
    output.checked()?;
    let outages = observer.stop()?;
    timeline.phase(format_args!(
        "outage {:.0} ms, {} pings lost, dom0 stalled {:.0} ms at most",
        outages.longest_ms, outages.lost, outages.dom0_stall_ms
    ));
    let status = guest.verify_all()?;
    ensure!(status.hash_errors == 0, "damaged pages: {status:?}");
    let leaks = host.leaks(&[&guest])?;
    ensure!(leaks.is_empty(), "{leaks:?}");
    guest.destroy()
}

/// What the agent prints.
#[derive(Debug, Deserialize)]
struct Comparison {
    compared: u64,
    differing: u64,
    only_first: u64,
    only_second: u64,
    differing_gfns: Vec<u64>,
    only_first_gfns: Vec<u64>,
    only_second_gfns: Vec<u64>,
}

/// The frames that libxl makes anew at the destination: from here up to 4 GiB
/// (Xen 4.17, xg_dom_x86.c: the special pages of an HVM or PVH guest).
const SPECIAL_GFNS: std::ops::Range<u64> = 0xfeff8..0xff000;

fn frames_agree(host: &Host) -> Result<()> {
    let timeline = Timeline::start();
    busy_guest(host, "twin")?;
    let compare = "rig-agent compare $(xl domid twin) $(xl domid twin--incoming) \
                   >/run/rig/compare.json 2>/run/rig/compare.err";
    let transport = format!("rig-agent hold-ready {} -- ssh", quote(compare));
    host.run_for(
        &format!("xl migrate -s {} twin localhost", quote(&transport)),
        Duration::from_secs(400),
    )?
    .checked()?;
    timeline.phase("migrated");
    let text = host
        .run("cat /run/rig/compare.err >&2; cat /run/rig/compare.json")?
        .checked()?;
    let comparison: Comparison =
        serde_json::from_str(&text).with_context(|| format!("the agent said {text:?}"))?;
    timeline.phase(format_args!("{comparison:x?}"));
    ensure!(comparison.compared > 48_000, "{comparison:x?}");
    let named = comparison.differing_gfns.len() as u64;
    let ordinary = comparison
        .differing_gfns
        .iter()
        .filter(|gfn| !SPECIAL_GFNS.contains(gfn))
        .count();
    ensure!(
        ordinary == 0 && named == comparison.differing,
        "ordinary frames differ: {comparison:x?}"
    );
    ensure!(
        comparison.only_first == comparison.only_first_gfns.len() as u64
            && comparison.only_second == comparison.only_second_gfns.len() as u64,
        "frames without a twin: {comparison:x?}"
    );
    Ok(())
}

fn suspend_ignored(host: &Host) -> Result<()> {
    let guest = host.create_guest(&GuestSpec {
        ignores_suspend: true,
        ..GuestSpec::new("deaf")
    })?;
    let id = guest.domid()?;
    host.run(&format!(
        "xenstore-write /local/domain/{id}/control/shutdown suspend; sleep 3"
    ))?
    .checked()?;
    let left = host
        .run(&format!(
            "xenstore-read /local/domain/{id}/control/shutdown"
        ))?
        .checked()?;
    ensure!(left.trim() == "suspend", "the guest acknowledged: {left:?}");
    guest.status()?;
    guest.destroy()
}

fn busy_guest(host: &Host, name: &str) -> Result<Guest> {
    let guest = host.create_guest(&GuestSpec::new(name))?;
    guest.set_load(Load::steady(500, 8_192))?;
    Ok(guest)
}
