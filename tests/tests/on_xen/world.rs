//! The state that all scenarios share, and the classification of their results.

use std::fmt;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use lull_tests::timeline::Timeline;
use lull_tests::{
    Guest, GuestSpec, GuestType, Host, HostConfig, Load, Mark, SavedGuest, boot_disk,
};

use crate::aftermath::no_leaks;
use crate::choice;
use crate::pace::Pace;
use crate::sites::{Pair, Site, Sites};

/// A load that a migration catches up with.
pub const MODERATE: Load = Load::steady(500, 2_048);

/// A load that no attempt here catches up with: it writes all of the reserve, faster than
/// any link in these tests.
pub const HEAVY: Load = Load::steady(20_000, RESERVE);

const RESERVE: u64 = 8_192;

/// A host with lull installed, and the guest that most scenarios use.
pub struct World {
    /// The host that scenarios run on.
    pub host: Host,
    /// The speed of the machine.
    pub pace: Pace,
    guest: Option<Guest>,
    /// The HVM guest, which is made once.
    saved: Option<SavedGuest>,
    /// The guest's domid when it was last handed on, and the number of scenarios in which
    /// it had changed.
    domid: u32,
    moved: u32,
}

/// The number of scenarios, with at most two moves each, after which a guest is replaced.
/// Its network driver (xen-netfront, Linux 6.1) keeps some two megabytes at each resume,
/// and at the tenth the guest runs out of memory, whichever program moves it.
const MOST_MOVED: u32 = 4;

/// The hosts; the mutex makes scenarios run one by one.
static SITES: Mutex<Sites> = Mutex::new(Sites::new());

impl World {
    /// Boots the host and installs lull.
    pub fn boot(config: &HostConfig) -> Result<Self> {
        let host = Host::boot(config)?;
        host.install_lull()?;
        let pace = Pace::of(&host)?;
        Ok(Self {
            host,
            pace,
            guest: None,
            saved: None,
            domid: 0,
            moved: 0,
        })
    }

    /// Returns the guest that scenarios hand on to each other, under a moderate load.
    pub fn guest(&mut self) -> Result<Guest> {
        self.under_load(&spec("busy"))
    }

    /// Does the same with a [`small`] guest.
    pub fn small_guest(&mut self) -> Result<Guest> {
        self.under_load(&small())
    }

    /// Returns a new guest with memory to spare.
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

    /// Returns the guest of that kind that scenarios hand on to each other, in place of any
    /// other.
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
        let guest = match spec.kind {
            GuestType::Hvm => self.restored(spec)?,
            _ => self.host.create_guest(spec)?,
        };
        self.domid = guest.domid()?;
        self.moved = 0;
        Ok(self.guest.insert(guest).clone())
    }

    /// Boots an HVM guest of a kind that a single scenario needs, in place of any other guest.
    pub fn booted(&mut self, spec: &GuestSpec) -> Result<Guest> {
        self.forget_guest();
        self.host.install_device_model()?;
        let guest = self.host.create_guest(spec)?;
        self.adopted(guest)
    }

    /// Does the same with a guest that boots from [`lull_tests::boot_disk`].
    pub fn booted_from_disk(&mut self, spec: &GuestSpec) -> Result<Guest> {
        self.forget_guest();
        self.host.install_device_model()?;
        self.host.make_boot_disk()?;
        let guest = Guest::create_by(&self.host, spec, boot_disk::create)?;
        self.adopted(guest)
    }

    fn adopted(&mut self, guest: Guest) -> Result<Guest> {
        self.domid = guest.domid()?;
        self.moved = 0;
        Ok(self.guest.insert(guest).clone())
    }

    /// Restores the host's HVM guest, which is made first if that has not been done.
    fn restored(&mut self, spec: &GuestSpec) -> Result<Guest> {
        let saved = match self.saved.take() {
            Some(saved) => saved,
            None => SavedGuest::make(&self.host, spec)?,
        };
        // One that cannot be restored is made anew.
        let guest = saved.restore()?;
        self.saved = Some(saved);
        Ok(guest)
    }

    /// Removes the guest, and everything that a failed attempt left of it.
    pub fn forget_guest(&mut self) {
        self.guest = None;
        self.tidy(true);
    }

    /// Removes a guest that has died, and checks that nothing else is left.
    pub fn bury_guest(&mut self) -> Result<()> {
        if let Some(guest) = self.guest.take() {
            // A guest that has died by itself may be gone.
            let _ = guest.destroy();
        }
        no_leaks(&self.host, &[])
    }

    /// Removes what a scenario left, so that the next starts clean. The shared guest stays,
    /// unless the scenario failed.
    fn tidy(&mut self, failed: bool) {
        if failed {
            self.guest = None;
            // Stopped processes would keep their resources.
            let _ = self
                .host
                .run("pkill -CONT rig-agent; pkill -CONT xl; pkill -KILL rig-agent; rm -f /run/rig/at-go");
        }
        let domains = self.host.domains().unwrap_or_default();
        // The guest may have moved to another host.
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

/// Returns a guest of 120 MiB, of which 32 MiB can be dirtied.
pub fn spec(name: &str) -> GuestSpec {
    GuestSpec {
        memory_mib: 120,
        reserve_pages: RESERVE,
        ..GuestSpec::new(name)
    }
}

/// Returns a guest with so little memory that an attempt is over soon.
pub fn small() -> GuestSpec {
    GuestSpec {
        memory_mib: 104,
        reserve_pages: 2_048,
        ..GuestSpec::new("small")
    }
}

/// A trial, and its duration on a quiet machine with two processors.
pub struct Scenario {
    /// The trial that runs.
    pub trial: Trial,
    /// The approximate duration, in seconds.
    pub seconds: u32,
}

impl Scenario {
    /// Returns the scenario as one that is only listed.
    pub fn left_out(self) -> Self {
        Self {
            trial: self.trial.with_ignored_flag(true),
            ..self
        }
    }
}

/// Returns a scenario on the first host. A failure with a rig fault on the console is the
/// rig's error, and a success with one is an error as well; the scenario then gets a second
/// chance, with a new guest.
pub fn scenario(
    name: impl Into<String>,
    seconds: u32,
    run: impl Fn(&mut World) -> Result<()> + Send + 'static,
) -> Scenario {
    scenario_at(Site::First, name, seconds, run)
}

/// Returns a scenario on one of the hosts.
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

/// Returns a scenario between the first host and another.
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

/// Returns a scenario that does not involve lull; any failure is the rig's error.
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

/// The subject of a scenario.
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
                // This is reported separately: the emulation's own faults occur once in
                // twenty guests, and prove nothing about the product.
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
    // All messages appear again at the end; a long run should report them now.
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

/// The reason why a scenario does not count as a success.
enum Verdict {
    /// The product is at fault.
    Failure(String),
    /// The rig is at fault.
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
