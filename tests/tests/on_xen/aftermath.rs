//! The conditions that must hold after every attempt, whatever its outcome.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host, Status};

use crate::attempt::Ended;
use crate::world::World;

/// The longest time that the cleanup may take after the last event: domains die page by
/// page, and the machine may be busy.
const SETTLING: Duration = Duration::from_secs(45);

/// Checks that one guest runs where the attempt reported it, that it is intact, and that
/// nothing is left behind.
pub fn check(host: &Host, guest: &Guest, ended: &Ended) -> Result<()> {
    let timeline = Timeline::start();
    let moved = ended.code() == 0;
    let now = guest.domid()?;
    ensure!(
        (now != ended.source) == moved,
        "exit code {}, but the guest was domain {} and is {now}",
        ended.code(),
        ended.source
    );
    check_whole(host, guest).with_context(|| format!("after: {}", ended.in_short()))?;
    timeline.phase("looked after");
    Ok(())
}

/// Does the same where no attempt got far enough to report anything.
pub fn check_whole(host: &Host, guest: &Guest) -> Result<()> {
    runs_whole(guest)?;
    no_leaks(host, &[guest])
}

/// Checks that the guest runs: its counters increase, and every page and every block of its
/// disk is as last written.
pub fn runs_whole(guest: &Guest) -> Result<()> {
    runs_whole_since(guest, &guest.status()?)
}

/// Does the same with the status that the guest reported earlier.
pub fn runs_whole_since(guest: &Guest, before: &Status) -> Result<()> {
    let after = guest.verify_all()?;
    ensure!(
        after.verified > before.verified
            && after.uptime_ms > before.uptime_ms
            && (before.load.pages_per_sec == 0 || after.pages_written > before.pages_written),
        "the guest does nothing: {before:?}, {after:?}"
    );
    ensure!(after.hash_errors == 0, "damaged pages: {after:?}");
    if let (Some(before), Some(after)) = (before.disk, after.disk) {
        ensure!(
            after.written > before.written && after.errors == 0,
            "its disk: {before:?}, {after:?}"
        );
    }
    Ok(())
}

/// Checks that the guest's own reboot is carried out; its configuration has the domain
/// destroyed on reboot. The guest is gone afterwards.
pub fn its_reboot_is_carried_out(world: &mut World, guest: &Guest) -> Result<()> {
    let domain = guest.domid()?;
    world.host.run(&format!("xl reboot {domain}"))?.checked()?;
    let gone = format!(
        "for i in $(seq 300); do xl list {domain} >/dev/null 2>&1 || exit 0; sleep 0.2; done; xl list; exit 1"
    );
    let waited = world.host.run_for(&gone, Duration::from_secs(120))?;
    let log = world.host.run(&format!(
        "tail -n 5 /var/log/xen/xl-{}*.log",
        quote(guest.name())
    ))?;
    ensure!(
        waited.success(),
        "its reboot was not carried out: {}\n{}",
        waited.stdout,
        log.stdout
    );
    world.bury_guest()
}

/// Checks that nothing is left behind, or that it disappears by itself.
pub fn no_leaks(host: &Host, guests: &[&Guest]) -> Result<()> {
    let timeline = Timeline::start();
    loop {
        let leaks = host.leaks(guests)?;
        if leaks.is_empty() {
            return Ok(());
        }
        if timeline.seconds() > SETTLING.as_secs_f64() {
            let kernel = host.run("dmesg | tail -n 20")?.stdout;
            bail!("left behind: {leaks:?}; dom0's kernel:\n{kernel}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
