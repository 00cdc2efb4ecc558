//! `virsh migrate --live` between two real libvirt daemons, on one host and on two,
//! started as `lull enable libvirt` has systemd start them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::libvirt::{BACK, THERE};
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, Load, Output};

use crate::aftermath;
use crate::attempt::{LEDGER, until_copying};
use crate::hvm;
use crate::sites::Pair;
use crate::world::World;

const FILE: &str = "/etc/lull.toml";

/// The complete message that virsh prints for a refusal.
const SENTENCE: &str = "internal error: Failed to send migration data to destination host";

/// The file in which libvirt logs libxl's messages.
const LOG: &str = "/var/log/libvirt/libxl/libxl-driver.log";

/// The longest time that a migration may take; none in here takes that long.
const TIMEOUT: Duration = Duration::from_secs(420);

/// The number of pages that the guest can dirty; it is small, because a tunnel is slow.
const RESERVE: u64 = 4_096;

/// A load that a migration catches up with.
const LIGHT: Load = Load::steady(100, 256);

/// A load that leaves more pages than fit into the part of a pause that [`TIGHT`] leaves.
const HEAVY: Load = Load::steady(20_000, RESERVE);

/// A limit slightly above the assumed costs of a landing and the other fixed costs.
const TIGHT: &str = "3300ms";

/// Such a limit for an HVM guest.
const TIGHT_FOR_HVM: &str = "5600ms";

/// A migration is refused, one is cancelled, one moves directly, and one moves back through
/// a tunnel.
pub fn keeps_limits(world: &mut World) -> Result<()> {
    on_one_host(world, keep)
}

/// A migration of an HVM guest is refused, and one moves it directly.
pub fn keeps_limits_of_hvm(world: &mut World) -> Result<()> {
    on_one_host(world, keep_for_hvm)
}

fn on_one_host(world: &mut World, keep: fn(&Host) -> Result<()>) -> Result<()> {
    world.forget_guest();
    let host = world.host.clone();
    let kept = keep(&host);
    // This runs whatever the result was, so that later scenarios have no limits. The
    // daemons have ended, and need no helper any more.
    let cleared = host.run(&format!("rm -f {FILE} {LEDGER}; lull disable libvirt"));
    kept?;
    let said = cleared?.checked()?;
    ensure!(said.contains("libvirt's own again"), "{said}");
    let left = "ls /etc/systemd/system/libvirtd.service.d /usr/lib/xen-lull";
    let left = host.run(left)?.stdout;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}

/// Between the daemons of two hosts a migration is refused, and then moves within its
/// limit.
pub fn keeps_limits_between_hosts(pair: &mut Pair<'_>) -> Result<()> {
    pair.here.forget_guest();
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let kept = keep_between(&here, &there, pair.here.pace.ample());
    let cleared = here.run(&format!("rm -f {FILE} {LEDGER}; lull disable libvirt"));
    kept?;
    cleared?.checked()?;
    Ok(())
}

fn keep_between(here: &Host, there: &Host, ample: Duration) -> Result<()> {
    for host in [here, there] {
        host.install_libvirt()?;
    }
    here.run("lull enable libvirt")?.checked()?;
    let daemons = [here.start_libvirt()?, there.start_libvirt()?];
    let guest = create(here, &pvh())?;
    let command = format!(
        "virsh migrate --live virt xen+ssh://{}/system",
        there.name()
    );

    guest.set_load(HEAVY)?;
    limit(here, &format!("--max-suspend-time {TIGHT}"))?;
    let output = here.run_for(&command, TIMEOUT)?;
    stays(here, &guest, guest.domid()?, &output, "would have fitted")?;
    aftermath::no_leaks(there, &[])?;

    guest.set_load(LIGHT)?;
    let seconds = ample.as_secs();
    limit(here, &format!("--max-suspend-time {seconds}s"))?;
    let before = guest.status()?;
    let output = here.run_for(&command, TIMEOUT)?;
    let report = here.run("lull report --last")?.checked()?;
    output.checked().context(report.clone())?;
    ensure!(
        report.contains(&format!("{seconds}.0 s allowed")),
        "{report}"
    );
    let arrived = guest.on(there);
    aftermath::runs_whole_since(&arrived, &before)?;
    aftermath::no_leaks(here, &[])?;
    aftermath::no_leaks(there, &[&arrived])?;
    let state = there.run("virsh domstate virt")?.checked()?;
    ensure!(state.trim() == "running", "libvirt says it is {state}");
    arrived.destroy()?;
    drop(daemons);
    Ok(())
}

fn keep(host: &Host) -> Result<()> {
    host.install_libvirt()?;
    let said = host.run("lull enable libvirt")?.checked()?;
    ensure!(said.contains("libvirtd.service"), "{said}");
    let daemons = host.start_libvirt_twice()?;
    let said = host.run("lull enable libvirt")?.checked()?;
    ensure!(said.contains("in force already"), "{said}");
    let said = host.run("lull doctor")?.stdout;
    ensure!(said.contains("`virsh migrate` keeps the limits"), "{said}");

    let guest = create(host, &pvh())?;
    refused(host, &guest, TIGHT)?;
    not_live(host, &guest)?;
    cancelled(host, &guest)?;
    stopped_and_resumed(host, &guest)?;
    dies_when_all_is_sent(host, &guest)?;
    let there = moved(host, &guest)?;
    let back = moved_back(host, &there)?;
    drop(daemons);
    back.destroy()
}

/// The guest boots anew, because libvirt restores only what it has saved itself.
fn keep_for_hvm(host: &Host) -> Result<()> {
    host.install_libvirt()?;
    host.install_device_model()?;
    host.run("lull enable libvirt")?.checked()?;
    let daemons = host.start_libvirt_twice()?;
    let spec = GuestSpec {
        reserve_pages: RESERVE,
        ..GuestSpec::hvm("virt")
    };
    let guest = create(host, &spec)?;
    hvm::with_devices(&guest, || {
        refused(host, &guest, TIGHT_FOR_HVM)?;
        guest.set_load(LIGHT)?;
        limit(host, "--max-suspend-time 1min")?;
        moved(host, &guest)?;
        Ok(())
    })?;
    drop(daemons);
    guest.renamed("virt-2").destroy()
}

fn pvh() -> GuestSpec {
    GuestSpec {
        memory_mib: 112,
        reserve_pages: RESERVE,
        ..GuestSpec::new("virt")
    }
}

/// Creates a guest that belongs to libvirt.
fn create(host: &Host, spec: &GuestSpec) -> Result<Guest> {
    // libvirt has no syntax for "all but one" processor; with two processors, this is the
    // one meant.
    Guest::create_by(host, spec, |file| {
        format!(
            "sed -i 's/all,^0/1/' {file} && virsh domxml-from-native xen-xl {file} >{file}.xml \
             && virsh create {file}.xml"
        )
    })
}

/// The guest writes so fast that its last pages do not fit into the limit.
fn refused(host: &Host, guest: &Guest, tight: &str) -> Result<()> {
    guest.set_load(HEAVY)?;
    limit(host, &format!("--max-suspend-time {tight}"))?;
    let before = guest.domid()?;
    let timeline = Timeline::start();
    let output = host.run_for(&migrate(""), TIMEOUT)?;
    timeline.phase("refused");
    stays(host, guest, before, &output, "would have fitted")
}

/// Without `--live` libvirt suspends the guest for the whole copy, which is refused under a
/// limit. A save into a file goes to the stock helper.
fn not_live(host: &Host, guest: &Guest) -> Result<()> {
    guest.set_load(LIGHT)?;
    limit(host, &format!("--max-suspend-time {TIGHT}"))?;
    let before = guest.domid()?;
    let command = format!("virsh migrate --dname virt-2 virt {THERE}");
    let output = host.run_for(&command, TIMEOUT)?;
    stays(host, guest, before, &output, "not live")?;
    let saved =
        "virsh save virt /run/rig/saved && virsh restore /run/rig/saved; rm -f /run/rig/saved";
    host.run_for(saved, TIMEOUT)?.checked()?;
    aftermath::check_whole(host, guest)
}

/// An operator cancels while a cap in the file leaves enough time.
fn cancelled(host: &Host, guest: &Guest) -> Result<()> {
    guest.set_load(LIGHT)?;
    limit(host, "--max-suspend-time 1min --bandwidth 2MiB/s")?;
    let before = guest.domid()?;
    let timeline = Timeline::start();
    let mut running = host.spawn(&migrate(""))?;
    let status = host.run(&until_copying("virt"))?.checked()?;
    ensure!(
        status.contains("\"bandwidth\":2097152") && status.contains("\"limit_ms\":60000"),
        "{status}"
    );
    host.run("lull set --max-suspend-time 50s virt")?
        .checked()?;
    let status = host.run("lull status --json virt")?.checked()?;
    ensure!(status.contains("\"limit_ms\":50000"), "{status}");
    let said = host.run("lull cancel virt")?.checked()?;
    ensure!(said.contains("virt runs here"), "{said}");
    let output = running.wait(TIMEOUT)?.context("virsh does not end")?;
    timeline.phase("cancelled");
    stays(host, guest, before, &output, "ancelled")
}

/// The attempt fails after the guest was asked to stop, at the operator's request, and the
/// guest does stop. libvirt never resumes it.
fn stopped_and_resumed(host: &Host, guest: &Guest) -> Result<()> {
    guest.set_load(HEAVY)?;
    limit(host, "--max-suspend-time 1min --bandwidth none")?;
    let before = guest.domid()?;
    let timeline = Timeline::start();
    let mut running = host.spawn(&migrate(""))?;
    let fail = format!(
        "{}; \
         stub=$(xl domid lull-stub-{before}) && lull switch-now virt && exec rig-agent derail $stub",
        until_copying("virt")
    );
    host.run(&fail)?.checked()?;
    let output = running.wait(TIMEOUT)?.context("virsh does not end")?;
    timeline.phase("stopped, and resumed");
    let report = host.run("lull report --last --json")?.checked()?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    ensure!(
        report["outcome"] == "source-failed" && report["observed_downtime_ms"].is_u64(),
        "it was not stopped: {report}"
    );
    stays(host, guest, before, &output, "the stub domain")
}

/// The helper dies when its stream is complete and libxl has not been told. libvirt takes
/// that for a failure after which it resumes nothing.
fn dies_when_all_is_sent(host: &Host, guest: &Guest) -> Result<()> {
    guest.set_load(HEAVY)?;
    limit(host, "--max-suspend-time 1min --bandwidth none")?;
    let before = guest.domid()?;
    let timeline = Timeline::start();
    let mut running = host.spawn(&migrate(""))?;
    host.run(&until_copying("virt"))?.checked()?;
    // The last pages take seconds, which leaves time to stop libvirt once it has answered
    // that the guest is suspended.
    host.shape(Some(2 << 20))?;
    let fail = "lull switch-now virt && until xl list | grep -q -e '-ss-'; do sleep 0.2; done; \
        sleep 1; kill -STOP $(cat /run/rig/libvirtd-1.pid); sleep 10; \
        pkill -KILL -f '^[^ ]*libxl-save-helper --save-domain '; \
        kill -CONT $(cat /run/rig/libvirtd-1.pid)";
    let failed = host.run_for(fail, TIMEOUT);
    host.shape(None)?;
    failed?.checked()?;
    let output = running.wait(TIMEOUT)?.context("virsh does not end")?;
    timeline.phase("all was sent, and the helper killed");
    ensure!(output.status == 1, "not failed: {output:?}");
    let report = host.run("lull report --last --json")?.checked()?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    ensure!(report["outcome"] == "sent", "it died before: {report}");
    ensure!(guest.domid()? == before, "it is another domain");
    aftermath::check_whole(host, guest)
}

/// Moves the guest directly to the other daemon. virsh's own timeout, which would have
/// libvirt pause the guest and go on, changes nothing.
fn moved(host: &Host, guest: &Guest) -> Result<Guest> {
    limit(host, "--bandwidth none")?;
    let arrived = arrives(host, guest, &migrate("--timeout 3"), "virt-2")?;
    let list = host.run("virsh list --name")?.checked()?;
    ensure!(!list.contains("virt"), "it is still at the source: {list}");
    Ok(arrived)
}

/// Moves the guest from daemon to daemon through their own connection.
fn moved_back(host: &Host, guest: &Guest) -> Result<Guest> {
    let command =
        format!("virsh -c {THERE} migrate --live --p2p --tunnelled --dname virt virt-2 '{BACK}'");
    let arrived = arrives(host, guest, &command, "virt")?;
    let state = host.run("virsh domstate virt")?.checked()?;
    ensure!(state.trim() == "running", "libvirt says it is {state}");
    Ok(arrived)
}

/// Returns the command that an operator would use, except for the new name, which the
/// shared xenstore requires.
fn migrate(options: &str) -> String {
    format!("virsh migrate --live {options} --dname virt-2 virt {THERE}")
}

/// Sets limits with a pattern that covers both names.
fn limit(host: &Host, limits: &str) -> Result<()> {
    // The history of earlier scenarios must not affect this one.
    let set = format!("rm -f {LEDGER}; lull limits set 'virt*' {limits}");
    host.run(&set)?.checked()?;
    Ok(())
}

/// Checks that the guest is not moved, and that the place that the README names gives the
/// reason.
fn stays(host: &Host, guest: &Guest, before: u32, output: &Output, why: &str) -> Result<()> {
    ensure!(
        output.status == 1 && output.stderr.contains(SENTENCE),
        "not refused: {output:?}"
    );
    let report = host.run("lull report --last")?.checked()?;
    let words = format!("virt (domain {before})");
    ensure!(
        report.contains(&words) && report.contains(why),
        "{words}, {why}: {report}"
    );
    let log = host.run(&format!("grep 'was not moved' {LOG} | tail -n 1"))?;
    ensure!(
        log.stdout.contains("virt was not moved: ") && log.stdout.contains("virt runs on here."),
        "{LOG}: {log:?}"
    );
    let state = host.run("virsh domstate virt")?.checked()?;
    ensure!(state.trim() == "running", "libvirt says it is {state}");
    ensure!(guest.domid()? == before, "it is another domain");
    aftermath::check_whole(host, guest)
}

/// Checks that lull moves the guest, intact and under its new name.
fn arrives(host: &Host, guest: &Guest, command: &str, name: &str) -> Result<Guest> {
    let before = guest.domid()?;
    let timeline = Timeline::start();
    let output = host.run_for(command, TIMEOUT)?;
    let report = host.run("lull report --last")?.checked()?;
    timeline.phase(format_args!("{command}:\n{report}"));
    output.checked().context(report.clone())?;
    let guest = guest.renamed(name);
    ensure!(guest.domid()? != before, "it is the same domain");
    aftermath::check_whole(host, &guest)?;
    ensure!(
        report.contains(&format!("(domain {before})")) && report.contains("60.0 s allowed"),
        "{report}"
    );
    Ok(guest)
}
