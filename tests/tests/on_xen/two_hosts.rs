//! Scenarios that only two hosts can show. Guests move from the first to another and back.
//! Both are on one link, with clocks an hour apart, and the other has a shorter uptime.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, Load, Outages, Output, Status};
use serde_json::Value;

use crate::aftermath::{no_leaks, runs_whole_since};
use crate::attempt::{Ended, LEDGER, Plan};
use crate::connections;
use crate::sites::{Pair, Site};
use crate::virsh;
use crate::world::{HEAVY, Scenario, scenario_with, small};

/// The longest time that a command may take; none here takes that long by itself.
pub const TIMEOUT: Duration = Duration::from_secs(400);

/// The tolerance, in milliseconds, with which clocks that are an hour apart are told apart.
const HALF_AN_HOUR: u64 = 30 * 60 * 1000;

/// The guest's load; it is small, so that a slow link catches up with it.
const LOAD: Load = Load::steady(300, 512);

/// Returns the scenarios with a host of the same release.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        installed(
            "there-fast-and-back-classic",
            90,
            there_fast_and_back_classic,
        ),
        installed(
            "there-classic-and-back-fast",
            60,
            there_classic_and_back_fast,
        ),
        installed("refused-and-runs-on", 50, refused_and_runs_on),
        installed("rehearsed", 40, rehearsed),
        installed("doctor", 70, doctor),
        installed("plain-xl", 40, plain_xl),
        installed("named-interface", 70, named_interface),
        installed("cut-at-go", 80, cut_at_go),
        installed("cut-after-the-handshake", 80, cut_after_the_handshake),
        installed("lacking-there", 80, lacking_there),
        installed("four-channels", 300, connections::four_are_faster),
        installed("channel-dies", 150, connections::one_dies),
        installed(
            "limits-kept-by-virsh",
            90,
            virsh::keeps_limits_between_hosts,
        ),
        scenario_with(
            Site::Newer,
            "two-hosts-to-a-newer-release",
            120,
            to_a_newer_release,
        ),
    ]
}

fn installed(name: &str, seconds: u32, run: fn(&mut Pair<'_>) -> Result<()>) -> Scenario {
    scenario_with(Site::Installed, format!("two-hosts-{name}"), seconds, run)
}

/// Moves a guest under a limit: there over ssh with the fast landing, back without ssh with
/// the classic one.
fn there_fast_and_back_classic(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let plan = Plan::to_host(&there.name())
        .landing("fast")
        .limit(pair.here.pace.ample());
    let arrived = moves(&plan, &guest, &there)?;
    looks_native(&arrived, &here)?;
    let plan = Plan::called(&here)
        .landing("classic")
        .limit(pair.here.pace.ample());
    let back = moves(&plan, &arrived, &here)?;
    looks_native(&back, &there)
}

/// Moves a guest without a limit: there with the classic landing, back with the fast one.
fn there_classic_and_back_fast(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let plan = Plan::called(&there).landing("classic");
    let arrived = moves(&plan, &guest, &there)?;
    looks_native(&arrived, &here)?;
    let back = moves(&Plan::called(&here).landing("fast"), &arrived, &here)?;
    looks_native(&back, &there)
}

/// The guest writes faster than the link carries, and stays. Nothing of it is left at the
/// destination.
fn refused_and_runs_on(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let before = guest.set_load(Load::steady(HEAVY.pages_per_sec, 2_000))?;
    pair.link.shape(Some(6_000_000));
    let limit = Duration::from_millis(1_500);
    let ended = Plan::called(&pair.there.host)
        .limit(limit)
        .run(&pair.here.host, &guest);
    pair.link.shape(None);
    let ended = ended?;
    let code = ended.code();
    ensure!(code == 3 || code == 4, "{}", ended.in_short());
    ended.expect(code)?;
    stayed(pair, &guest, &before)
}

/// The limits of the file apply to plain xl: one that cannot be kept, and one that can.
fn plain_xl(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let command = format!(
        "xl migrate -s 'rig-agent call' {} {}",
        quote(guest.name()),
        there.name()
    );
    here.run(&format!(
        "rm -f {LEDGER}; lull enable xl && lull limits set --default --max-suspend-time 1s"
    ))?
    .checked()?;
    let before = Before::of(&guest)?;
    let refused = here.run_for(&command, TIMEOUT);
    let allowed = here
        .run(&format!(
            "lull limits set --default --max-suspend-time {}s",
            pair.here.pace.ample().as_secs()
        ))
        .and_then(Output::checked);
    let refused = refused?;
    let stays = stayed(pair, &guest, &before.status);
    let moved = here.run_for(&command, TIMEOUT);
    here.run("lull disable xl; rm -f /etc/lull.toml")?
        .checked()?;
    allowed?;
    stays?;
    ensure!(
        refused.status == 1 && refused.stderr.contains("Refused to move small"),
        "not refused: {refused:?}"
    );
    let moved = moved?;
    ensure!(
        moved.success() && moved.stderr.contains("landing   fast"),
        "it did not land fast: {moved:?}"
    );
    arrived(&guest, &before, &here, &there).map(drop)
}

/// Rehearses over ssh: the costs are in the ledger, and nothing is left on either host.
fn rehearsed(pair: &mut Pair<'_>) -> Result<()> {
    // A guest that earlier scenarios have shared would count as left behind.
    pair.here.forget_guest();
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    here.run(&format!("rm -f {LEDGER}"))?.checked()?;
    let command = format!("lull rehearse --json {}", there.name());
    let said = here.run_for(&command, TIMEOUT)?.checked()?;
    let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    ensure!(
        last["outcome"] == "learned" && last["left_behind"] == false,
        "{last}"
    );
    let ledger = here.run("lull ledger")?.checked()?;
    ensure!(ledger.contains(&there.name()), "{ledger}");
    no_leaks(&here, &[])?;
    no_leaks(&there, &[])
}

/// Both hosts are ready; the doctor finds a name that is already taken at the destination.
fn doctor(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (&pair.here.host, &pair.there.host);
    let name = there.name();
    let ready = here.run(&format!("lull doctor {name}"))?;
    for words in [
        format!("{name} is reached").as_str(),
        "guests can land fast",
        format!("{name} is ready").as_str(),
    ] {
        ensure!(ready.stdout.contains(words), "no {words:?}: {ready:?}");
    }
    ensure!(
        ready.status == 0 && !ready.stdout.contains("this very host"),
        "{ready:?}"
    );
    let namesake = there.create_guest(&GuestSpec {
        vif: false,
        ..named(guest.name())
    })?;
    let output = here.run(&format!("lull doctor {name}"))?;
    ensure!(
        output.stdout.contains("has a guest of that name already"),
        "{output:?}"
    );
    // The destination refuses the guest only after everything has been sent.
    let before = guest.status()?;
    let ended = Plan::called(there).run(here, &guest)?;
    ended.expect(6)?;
    namesake.destroy()?;
    stayed(pair, &guest, &before)
}

/// The destination lacks something that the guest's configuration names. lull reports the
/// destination's own message, and the guest keeps running.
fn lacking_there(pair: &mut Pair<'_>) -> Result<()> {
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let guest = guest(pair)?;
    there
        .run("ip link set xenbr0 down && ip link set xenbr0 name elsewhere")?
        .checked()?;
    let before = guest.status()?;
    // The connection to that host goes over the bridge, so the rig's own connection is
    // used.
    let outcome = ["fast", "classic"].map(|landing| {
        there.run("ip link set elsewhere up")?.checked()?;
        Plan::called(&there).landing(landing).run(&here, &guest)
    });
    there
        .run(
            "ip link set elsewhere down; ip link set elsewhere name xenbr0; ip link set xenbr0 up",
        )?
        .checked()?;
    for ended in outcome {
        names_the_cause(&ended?, "bridge")?;
    }
    stayed(pair, &guest, &before)?;

    // The driver is not loaded at the destination.
    here.run("modprobe -a nvme xen-blkback")?.checked()?;
    there
        .run("rmmod nvme 2>/dev/null; ! ls /dev/nvme0n1")?
        .checked()?;
    let guest = pair.here.guest_like(&GuestSpec {
        disk: Some("phy:/dev/nvme0n1,xvda,w".to_owned()),
        ..named("disk")
    })?;
    let before = guest.status()?;
    let ended = Plan::called(&there).run(&here, &guest);
    names_the_cause(&ended?, "/dev/nvme0n1")?;
    stayed(pair, &guest, &before)?;
    pair.here.forget_guest();
    Ok(())
}

/// Checks that the destination failed, and that the last lines and the report name what it
/// lacks.
fn names_the_cause(ended: &Ended, what: &str) -> Result<()> {
    let result = ended.expect(6)?;
    let reason = result["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains(what) && ended.output.stderr.contains(what),
        "no {what:?} is named: {}",
        ended.in_short()
    );
    Ok(())
}

/// An interface that the configuration names has the same name at both ends.
fn named_interface(pair: &mut Pair<'_>) -> Result<()> {
    let guest = pair.here.guest_like(&GuestSpec {
        vifname: Some("web1.0".to_owned()),
        ..named("web1")
    })?;
    guest.set_load(LOAD)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    moves(&Plan::called(&there).landing("fast"), &guest, &there)?;
    for (host, wanted) in [(&here, false), (&there, true)] {
        let link = host.run("ip link show web1.0 master xenbr0")?;
        ensure!(link.success() == wanted, "{}: {link:?}", host.name());
    }
    Ok(())
}

/// Moves the guest and cuts the link when the handshake has come to `place`. The link is back
/// once lull has ended. Returns how it ended, and what `look` saw right before the cut.
fn cut_at<T>(
    place: &str,
    pair: &mut Pair<'_>,
    guest: &Guest,
    plan: impl FnOnce(Plan) -> Plan,
    look: impl FnOnce() -> Result<T>,
) -> Result<(Ended, T)> {
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let wait = "touch /run/rig/at-go; while [ -e /run/rig/at-go ]; do sleep 0.1; done";
    let transport = format!(
        "rig-agent hold-at {place} 0 {} {} -- rig-agent call",
        guest.domid()?,
        quote(wait)
    );
    let running = plan(Plan::with_ssh(&transport, &there)).start(&here, guest)?;
    let held = here.run_for("until [ -e /run/rig/at-go ]; do sleep 0.1; done", TIMEOUT);
    let seen = look()?;
    pair.link.cut(true);
    here.run("rm -f /run/rig/at-go")?.checked()?;
    let ended = running.finish();
    pair.link.cut(false);
    held?.checked()?;
    Ok((ended?, seen))
}

/// The link is cut when GO is sent, so it is not known whether the destination received it.
/// Nothing is destroyed, and a person decides.
fn cut_at_go(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let before = guest.status()?;
    let source = guest.domid()?;
    let classic = |plan: Plan| plan.landing("classic");
    let (ended, ()) = cut_at("go", pair, &guest, classic, || Ok(()))?;
    ended.expect(8)?;
    let waits = here.domains()?;
    let waits = waits.iter().find(|domain| domain.id == source);
    ensure!(
        waits.is_some_and(|domain| !domain.state.is_alive()),
        "the source: {waits:?}"
    );
    // The last message advises this: the destination is inspected, and the waiting copy
    // there is destroyed, because it never ran.
    let copy = format!("{}--incoming", guest.name());
    if let Some(copy) = there.domain(&copy)? {
        ensure!(!copy.state.is_alive(), "two run: {copy:?}");
        there.run(&format!("xl destroy {}", copy.id))?.checked()?;
    }
    there.run("pkill -f '^[^ ]*xl migrate-receive'")?;
    here.run(&format!("lull resume {source}"))?.checked()?;
    stayed(pair, &guest, &before)
}

/// The link is cut when the destination has taken the guest's name, while the guest still
/// runs here. It stays, under its own name, and its copy there goes once the link is back.
fn cut_after_the_handshake(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let before = guest.status()?;
    let source = guest.domid()?;
    let land = format!("rig-agent call {} lull land", there.name());
    let limit = pair.here.pace.ample();
    let fast = |plan: Plan| plan.landing("fast").land(&land).limit(limit);
    let (ended, (renamed, copy)) = cut_at("report", pair, &guest, fast, || {
        let renamed = here.domain(&format!("{}--migratedaway", guest.name()))?;
        Ok((renamed, there.domain(guest.name())?))
    })?;
    ensure!(
        renamed.is_some_and(|domain| domain.id == source && domain.state.is_alive())
            && copy.is_some_and(|copy| !copy.state.is_alive()),
        "not handed over, or two run"
    );
    // The cut meets either the round that goes on during the handshake, or the pause.
    match ended.event("suspended") {
        Some(_) => ended.expect(3)?,
        None => ended.expect(6)?,
    };
    ensure!(guest.domid()? == source, "another has its name");
    // The source closed its end while the link was cut. Its kernel repeats that at intervals
    // that grow with the time of the cut. `lull land` waits for a silent source no longer than
    // three minutes.
    let ends = "for i in $(seq 180); do pgrep -f '^lull land' || exit 0; sleep 1; done; exit 1";
    there.run_for(ends, Duration::from_secs(240))?.checked()?;
    stayed(pair, &guest, &before)
}

/// Moves guests from Xen 4.17 to 4.20, with both orders of landing. The way back is refused
/// before anything is copied, because Xen does not accept guests from a newer release.
fn to_a_newer_release(pair: &mut Pair<'_>) -> Result<()> {
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    for landing in ["fast", "classic"] {
        let guest = guest(pair)?;
        let plan = Plan::called(&there).landing(landing);
        let plan = plan.limit(pair.here.pace.ample());
        let arrived = moves(&plan, &guest, &there)?;
        looks_native(&arrived, &here)?;
        for back in ["fast", "classic"] {
            let command = Plan::called(&here).landing(back).command("", guest.name());
            let refused = there.run_for(&command, TIMEOUT)?;
            ensure!(
                refused.status == 2
                    && refused.stderr.contains("4.17")
                    && refused.stderr.contains("4.20")
                    && refused.stderr.contains("Nothing was done"),
                "{refused:?}"
            );
        }
        let rehearsal = there.run_for(
            &format!("lull rehearse -s 'rig-agent call' {}", here.name()),
            TIMEOUT,
        )?;
        ensure!(rehearsal.status == 2, "{rehearsal:?}");
        no_leaks(&here, &[])?;
        runs_whole_since(&arrived, &arrived.status()?)?;
        arrived.destroy()?;
        no_leaks(&there, &[])?;
        pair.here.forget_guest();
    }
    Ok(())
}

/// Returns a small guest at the first host, under a light load.
pub fn guest(pair: &mut Pair<'_>) -> Result<Guest> {
    let guest = pair.here.guest_like(&named("small"))?;
    let status = guest.set_load(LOAD)?;
    ensure!(status.hash_errors == 0, "damaged before: {status:?}");
    Ok(guest)
}

fn named(name: &str) -> GuestSpec {
    GuestSpec {
        name: name.to_owned(),
        ..small()
    }
}

/// A guest's status, and its host's wall clock in seconds.
pub struct Before {
    /// The status that the guest reported.
    pub status: Status,
    hosts_clock: u64,
}

impl Before {
    /// Reads the status and the host's wall clock now.
    pub fn of(guest: &Guest) -> Result<Self> {
        Ok(Self {
            status: guest.status()?,
            hosts_clock: wall_clock(guest.host())?,
        })
    }
}

fn wall_clock(host: &Host) -> Result<u64> {
    Ok(host.run("date +%s")?.checked()?.trim().parse()?)
}

/// Moves the guest, and checks that it arrives intact and that nothing is left at either
/// end.
fn moves(plan: &Plan, guest: &Guest, there: &Host) -> Result<Guest> {
    observed(plan, guest, there).map(|(arrived, _, _)| arrived)
}

/// Does the same, and returns the outages seen from outside and the result of the attempt.
pub fn observed(plan: &Plan, guest: &Guest, there: &Host) -> Result<(Guest, Outages, Ended)> {
    let here = guest.host().clone();
    let before = Before::of(guest)?;
    let timeline = Timeline::start();
    let observer = here.observe(guest)?;
    let ended = plan.run(&here, guest);
    let outages = observer.stop()?;
    let ended = ended?;
    let result = ended.expect(0)?;
    timeline.phase(format_args!(
        "{} to {}, landing {}: paused {} ms, seen from outside {:.0} ms",
        here.name(),
        there.name(),
        result["landing"],
        result["observed_downtime_ms"],
        outages.longest_ms,
    ));
    let arrived = arrived(guest, &before, &here, there)
        .with_context(|| format!("after: {}", ended.in_short()))?;
    Ok((arrived, outages, ended))
}

/// Checks that the guest runs at the other host, intact since `before` was taken here, and
/// that its clocks are right.
pub fn arrived(guest: &Guest, before: &Before, here: &Host, there: &Host) -> Result<Guest> {
    let guest = guest.on(there);
    let status = &before.status;
    let after = guest.status()?;
    ensure!(
        after.uptime_ms > status.uptime_ms && after.uptime_ms - status.uptime_ms < HALF_AN_HOUR,
        "its monotonic clock does not go on: {status:?}, {after:?}"
    );
    // The guest's sleeping processes wake up again: the load goes on.
    runs_whole_since(&guest, status)?;
    // Linux takes the amount by which the new host's clock is ahead for time that it slept,
    // and sets its own clock forward by that, never back (timekeeping_resume,
    // kernel/time/timekeeping.c, 6.1).
    let ahead = wall_clock(there)?.saturating_sub(before.hosts_clock);
    let expected = status.wall_ms + ahead * 1000;
    let shows = guest.status()?.wall_ms;
    ensure!(
        shows.abs_diff(expected) < HALF_AN_HOUR,
        "its wall clock shows {shows}, not {expected}: {} is {ahead} s ahead of what {} was",
        there.name(),
        here.name()
    );
    no_leaks(here, &[])?;
    no_leaks(there, &[&guest])?;
    Ok(guest)
}

/// Checks that the guest has never left the source.
pub fn stayed(pair: &Pair<'_>, guest: &Guest, before: &Status) -> Result<()> {
    runs_whole_since(guest, before)?;
    no_leaks(&pair.here.host, &[guest])?;
    no_leaks(&pair.there.host, &[])
}

/// Checks that the guest has its old name, also in xenstore, that the bridge of the source
/// has learned where it is, and that its clock runs at the host's rate.
fn looks_native(guest: &Guest, from: &Host) -> Result<()> {
    let host = guest.host();
    let paths = host
        .run(&format!(
            "xenstore-read /local/domain/{0}/name $(xenstore-read /local/domain/{0}/vm)/name",
            guest.domid()?
        ))?
        .checked()?;
    ensure!(
        paths.lines().all(|name| name == guest.name()),
        "its names in xenstore: {paths}"
    );
    let learned = from
        .run(&format!(
            "bridge fdb show br xenbr0 | grep -i {}",
            guest.mac()
        ))?
        .checked()
        .context("the bridge has forgotten it")?;
    ensure!(learned.contains("dev eth1"), "{learned}");

    let times = |guest: &Guest| -> Result<[f64; 2]> {
        let hosts = guest
            .host()
            .run("cut -d ' ' -f 1 /proc/uptime")?
            .checked()?;
        Ok([
            hosts.trim().parse::<f64>()? * 1000.0,
            guest.status()?.uptime_ms as f64,
        ])
    };
    let first = times(guest)?;
    std::thread::sleep(Duration::from_secs(5));
    let second = times(guest)?;
    let [hosts, guests] = [0, 1].map(|clock| second[clock] - first[clock]);
    ensure!(
        (guests / hosts - 1.0).abs() < 0.2,
        "its clock: {guests} ms while {hosts} ms went by"
    );
    Ok(())
}
