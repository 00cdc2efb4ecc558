//! The destination announces a guest that has landed fast.

use anyhow::{Context, Result, ensure};
use lull_tests::link::Noted;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host};

use crate::attempt::Plan;
use crate::sites::{Pair, Site};
use crate::two_hosts::{guest, observed};
use crate::world::{Scenario, scenario_with};

/// Returns the scenarios between two hosts.
pub fn scenarios() -> Vec<Scenario> {
    vec![scenario_with(
        Site::Installed,
        "two-hosts-announced",
        90,
        announced,
    )]
}

/// There with announcements, and back without, as the limits of the host that receives the
/// guest say.
fn announced(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let (arrived, noted) = frames(pair, &guest, &there)?;
    let announcements: Vec<&Noted> = noted.iter().filter(|it| it.is_announcement()).collect();
    let [announcement, ..] = announcements[..] else {
        anyhow::bail!("no announcement among {noted:?}");
    };
    let own = noted
        .iter()
        .find(|it| it.host == announcement.host && !it.is_announcement());
    let own = own.context("the guest sends nothing at the destination")?;
    // The source announces nothing, and the guest there sends nothing afterwards.
    let elsewhere = |it: &Noted| it.host != announcement.host;
    ensure!(
        !announcements.iter().any(|it| elsewhere(it))
            && noted
                .iter()
                .all(|it| !elsewhere(it) || it.at < announcement.at),
        "it was announced while it ran at the source: {noted:?}"
    );
    Timeline::start().phase(format_args!(
        "announced {} times, {} ms before the guest's own first frame",
        announcements.len(),
        own.at
            .saturating_duration_since(announcement.at)
            .as_millis(),
    ));

    here.run("lull limits set --default --announce none")?
        .checked()?;
    let back = frames(pair, &arrived, &here);
    here.run("rm -f /etc/lull.toml")?.checked()?;
    let (_, noted) = back?;
    ensure!(
        !noted.is_empty() && !noted.iter().any(Noted::is_announcement),
        "it was announced all the same: {noted:?}"
    );
    Ok(())
}

/// Moves the guest, and returns what the link carried from it meanwhile.
fn frames(pair: &Pair<'_>, guest: &Guest, there: &Host) -> Result<(Guest, Vec<Noted>)> {
    let mut station = [0; 6];
    for (byte, text) in station.iter_mut().zip(guest.mac().split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    pair.link.watch(station);
    let plan = Plan::called(there).landing("fast");
    let moved = observed(&plan, guest, there);
    let noted = pair.link.watched();
    let (arrived, outages, _) = moved?;
    Timeline::start().phase(format_args!(
        "{} pings of {} without an answer",
        outages.lost,
        outages.lost + outages.answered
    ));
    Ok((arrived, noted))
}
