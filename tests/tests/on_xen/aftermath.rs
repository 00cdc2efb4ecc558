//! What must hold after every attempt, whatever became of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host, Status};

use crate::attempt::Ended;
use crate::world::World;

/// How long what was begun may take to be undone after the last word: domains
/// die page by page, and the machine may be busy.
const SETTLING: Duration = Duration::from_secs(30);

/// One guest runs where the attempt said, whole, and nothing is left behind.
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

/// The same, where no attempt got so far as to say anything.
pub fn check_whole(host: &Host, guest: &Guest) -> Result<()> {
    runs_whole(guest)?;
    no_leaks(host, &[guest])
}

/// Seen to run: what it counts goes up, and every page and every block of its disk
/// is as last written.
pub fn runs_whole(guest: &Guest) -> Result<()> {
    runs_whole_since(guest, &guest.status()?)
}

/// The same, since it said this of itself.
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

/// The guest's own reboot is carried out: its configuration has it destroyed then. Takes
/// the guest away.
pub fn somebody_carries_out_its_reboot(world: &mut World, guest: &Guest) -> Result<()> {
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
        "nobody carried out its reboot: {}\n{}",
        waited.stdout,
        log.stdout
    );
    world.bury_guest()
}

/// Nothing is left behind, or it goes away by itself.
pub fn no_leaks(host: &Host, guests: &[&Guest]) -> Result<()> {
    let timeline = Timeline::start();
    loop {
        let leaks = host.leaks(guests)?;
        if leaks.is_empty() {
            return Ok(());
        }
        ensure!(
            timeline.seconds() < SETTLING.as_secs_f64(),
            "left behind: {leaks:?}"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}
