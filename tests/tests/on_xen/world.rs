//! What all scenarios share, and how their results are told apart.

use std::fmt;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, GuestSpec, Host, HostConfig, Load, Mark};

use crate::aftermath::no_leaks;
use crate::choice;
use crate::pace::Pace;
use crate::sites::{Pair, Site, Sites};

/// A load that a migration catches up with.
pub const MODERATE: Load = Load::steady(500, 2_048);

/// A load that nothing here catches up with: all of the reserve, faster than
/// any link in these tests.
pub const HEAVY: Load = Load::steady(20_000, RESERVE);

const RESERVE: u64 = 8_192;

/// The host, with lull installed, and the guest most scenarios use.
pub struct World {
    /// The host.
    pub host: Host,
    /// How fast it is.
    pub pace: Pace,
    guest: Option<Guest>,
    /// Its domain when it was last handed on, and in how many scenarios that
    /// had changed.
    domid: u32,
    moved: u32,
}

/// Scenarios, of two moves at most, after which a guest is replaced: its network
/// driver (xen-netfront, Linux 6.1) keeps some two megabytes at each resume, and
/// at its tenth the guest has no memory left to live on, whoever moves it.
const MOST_MOVED: u32 = 4;

/// A mutex, so that scenarios come one by one.
static SITES: Mutex<Sites> = Mutex::new(Sites::new());

impl World {
    /// Boots it, and puts lull there.
    pub fn boot(config: &HostConfig) -> Result<Self> {
        let host = Host::boot(config)?;
        host.install_lull()?;
        let pace = Pace::of(&host)?;
        Ok(Self {
            host,
            pace,
            guest: None,
            domid: 0,
            moved: 0,
        })
    }

    /// The guest that scenarios hand on to each other, under a moderate load.
    pub fn guest(&mut self) -> Result<Guest> {
        self.under_load(&spec("busy"))
    }

    /// The same with a [`small`] one.
    pub fn small_guest(&mut self) -> Result<Guest> {
        self.under_load(&small())
    }

    /// A new one, with memory to spare.
    pub fn spacious_guest(&mut self) -> Result<Guest> {
        self.forget_guest();
        self.under_load(&GuestSpec {
            name: "spacious".into(),
            memory_mib: 128,
            ..small()
        })
    }

    fn under_load(&mut self, spec: &GuestSpec) -> Result<Guest> {
        let guest = self.guest_like(spec)?;
        let status = guest.set_load(MODERATE)?;
        ensure!(status.hash_errors == 0, "damaged before: {status:?}");
        Ok(guest)
    }

    /// The guest of that kind that scenarios hand on to each other, in place of
    /// any other.
    pub fn guest_like(&mut self, spec: &GuestSpec) -> Result<Guest> {
        if let Some(guest) = self.guest.clone() {
            let domid = guest.domid()?;
            self.moved += u32::from(domid != self.domid);
            self.domid = domid;
            if guest.name() == spec.name && self.moved < MOST_MOVED {
                return Ok(guest);
            }
            self.forget_guest();
        }
        let guest = self.host.create_guest(spec)?;
        self.domid = guest.domid()?;
        self.moved = 0;
        Ok(self.guest.insert(guest).clone())
    }

    /// Takes away the guest, and whatever a failed attempt left of it.
    pub fn forget_guest(&mut self) {
        self.guest = None;
        self.tidy(true);
    }

    /// Takes away a guest that has died, and makes sure that nothing else is
    /// left.
    pub fn bury_guest(&mut self) -> Result<()> {
        if let Some(guest) = self.guest.take() {
            // What has died by itself may be gone.
            let _ = guest.destroy();
        }
        no_leaks(&self.host, &[])
    }

    /// Takes away what a scenario left, so that the next starts clean. The
    /// shared guest stays, unless the scenario failed.
    fn tidy(&mut self, failed: bool) {
        if failed {
            self.guest = None;
            // Stopped processes would keep what they hold.
            let _ = self
                .host
                .run("pkill -CONT rig-agent; pkill -CONT xl; pkill -KILL rig-agent; rm -f /run/rig/at-go");
        }
        let domains = self.host.domains().unwrap_or_default();
        // It may have gone to another host.
        let is_here = |guest: &Guest| domains.iter().any(|d| d.name == guest.name());
        self.guest = self.guest.take().filter(is_here);
        let kept = self.guest.as_ref().map(Guest::name);
        for domain in &domains {
            if domain.id != 0 && Some(domain.name.as_str()) != kept {
                let _ = self.host.run(&format!("xl destroy {}", domain.id));
            }
        }
        let _ = self.host.shape(None);
    }
}

/// A guest of 120 MiB, 32 of which can be dirtied.
pub fn spec(name: &str) -> GuestSpec {
    GuestSpec {
        memory_mib: 120,
        reserve_pages: RESERVE,
        ..GuestSpec::new(name)
    }
}

/// A guest whose memory is soon copied, and with it an attempt soon over.
pub fn small() -> GuestSpec {
    GuestSpec {
        memory_mib: 104,
        reserve_pages: 2_048,
        ..GuestSpec::new("small")
    }
}

/// A trial, and the seconds it takes on a quiet machine with two processors.
pub struct Scenario {
    /// What is run.
    pub trial: Trial,
    /// Roughly.
    pub seconds: u32,
}

impl Scenario {
    /// One that is only shown.
    pub fn left_out(self) -> Self {
        Self {
            trial: self.trial.with_ignored_flag(true),
            ..self
        }
    }
}

/// A scenario on the first host. A failure with a rig fault on the console
/// is the rig's error, and a success with one is an error as well; then the
/// scenario gets a second chance, with a new guest.
pub fn scenario(
    name: impl Into<String>,
    seconds: u32,
    run: impl Fn(&mut World) -> Result<()> + Send + 'static,
) -> Scenario {
    scenario_at(Site::First, name, seconds, run)
}

/// A scenario on one of the hosts.
pub fn scenario_at(
    site: Site,
    name: impl Into<String>,
    seconds: u32,
    run: impl Fn(&mut World) -> Result<()> + Send + 'static,
) -> Scenario {
    trial(
        name.into(),
        seconds,
        vec![site],
        Subject::Product,
        move |sites| run(sites.at(site)?),
    )
}

/// A scenario between the first host and another.
pub fn scenario_with(
    other: Site,
    name: impl Into<String>,
    seconds: u32,
    run: impl Fn(&mut Pair<'_>) -> Result<()> + Send + 'static,
) -> Scenario {
    let both = vec![Site::First, other];
    trial(name.into(), seconds, both, Subject::Product, move |sites| {
        run(&mut sites.pair(other)?)
    })
}

/// A scenario without any part of lull in it: whatever fails in it is the
/// rig's error.
pub fn rig_scenario(
    name: impl Into<String>,
    seconds: u32,
    run: impl Fn(&mut World) -> Result<()> + Send + 'static,
) -> Scenario {
    let first = vec![Site::First];
    trial(name.into(), seconds, first, Subject::Rig, move |sites| {
        run(sites.at(Site::First)?)
    })
}

/// What a scenario puts to the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Product,
    Rig,
}

fn trial(
    name: String,
    seconds: u32,
    at: Vec<Site>,
    subject: Subject,
    run: impl Fn(&mut Sites) -> Result<()> + Send + 'static,
) -> Scenario {
    let trial = Trial::ignorable_test(name.clone(), move || {
        if let Some(why) = choice::beyond_budget(&name, seconds) {
            eprintln!("--- {name} is left out: {why}");
            return Ok(Completion::ignored_with(why));
        }
        let mut sites = SITES
            .lock()
            .map_err(|_| Failed::from("an earlier scenario panicked"))?;
        sites
            .need(&at)
            .map_err(|error| Failed::from(format!("Error (rig): {error:#}")))?;
        eprintln!("--- {name}");
        let timeline = Timeline::start();
        let report = match attempt(&mut sites, &at, &name, subject, &run) {
            Err(Verdict::Error(message)) if all_run(&mut sites, &at) => {
                // Told, and told apart: the emulation's own faults come about
                // once in twenty guests, and say nothing about the product.
                eprintln!("--- {name}, once more: {message}");
                attempt(&mut sites, &at, &name, subject, &run)
            }
            report => report,
        };
        choice::done(seconds, timeline.seconds());
        report
            .map(|()| Completion::Completed)
            .map_err(|verdict| Failed::from(verdict.to_string()))
    });
    Scenario { trial, seconds }
}

fn all_run(sites: &mut Sites, at: &[Site]) -> bool {
    at.iter()
        .all(|site| sites.at(*site).is_ok_and(|world| world.host.is_running()))
}

fn attempt(
    sites: &mut Sites,
    at: &[Site],
    name: &str,
    subject: Subject,
    run: &impl Fn(&mut Sites) -> Result<()>,
) -> Result<(), Verdict> {
    let timeline = Timeline::start();
    let mut consoles = Vec::new();
    for site in at {
        let world = sites.at(*site).map_err(|e| Verdict::Error(e.to_string()))?;
        consoles.push((world.host.clone(), world.host.console().mark()));
    }
    let outcome = run(sites);
    let report = verdict(&consoles, subject, outcome);
    for site in at {
        if let Ok(world) = sites.at(*site) {
            world.tidy(report.is_err());
        }
    }
    // All messages come at the end once more; a long run should tell now.
    match &report {
        Ok(()) => timeline.phase(format_args!("{name}: holds")),
        Err(verdict) => timeline.phase(format_args!("{name}: {verdict}")),
    }
    report
}

/// Ends all hosts.
pub fn end() {
    if let Ok(mut sites) = SITES.lock() {
        *sites = Sites::new();
    }
}

/// Why a scenario does not count as a success.
enum Verdict {
    /// The product did wrong.
    Failure(String),
    /// The rig did.
    Error(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(message) => write!(f, "Failure: {message}"),
            Self::Error(message) => write!(f, "Error (rig): {message}"),
        }
    }
}

fn verdict(
    consoles: &[(Host, Mark)],
    subject: Subject,
    outcome: Result<()>,
) -> Result<(), Verdict> {
    let faults: Vec<_> = consoles
        .iter()
        .flat_map(|(host, mark)| host.rig_faults_since(*mark))
        .collect();
    let all_run = consoles.iter().all(|(host, _)| host.is_running());
    let words = match (outcome, faults.first()) {
        (Ok(()), None) => return Ok(()),
        (Ok(()), Some(fault)) => format!("passed, but saw: {}", fault.line),
        (Err(error), Some(fault)) => format!("{}; {error:#}", fault.line),
        (Err(error), None) if !all_run => format!("QEMU is gone; {error:#}"),
        (Err(error), None) if subject == Subject::Rig => format!("{error:#}"),
        (Err(error), None) => return Err(Verdict::Failure(format!("{error:#}"))),
    };
    Err(Verdict::Error(words))
}
