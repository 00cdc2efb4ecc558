//! What must hold after every attempt, whatever became of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host, Status};

use crate::attempt::Ended;

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
