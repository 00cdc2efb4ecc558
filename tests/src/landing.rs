//! Measures the outage of a guest that moves, seen from outside, and the CPU time that it
//! takes: with stock xl, with lull's classic landing, with lull's network script, and with
//! the fast landing. All move the same guest, in turn: on one host, which is both ends, or
//! there and back between two. The CPU time is that of both ends. The guest is PVH or HVM.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ssh::quote;
use crate::{Guest, GuestSpec, GuestType, Host, HostConfig, Link, Load, SavedGuest};

/// The number of rounds in which every way has its turn.
const ROUNDS: usize = 5;

/// The number of rounds for one guest: its network driver loses memory at each move (see
/// the tests' world).
const ROUNDS_OF_A_GUEST: usize = 2;

const NAME: &str = "bench";

/// The load of a guest that is not quiet.
const BUSY: Load = Load::steady(2_000, 4_096);

/// The longest time that a move may take; none takes that long.
const TIMEOUT: Duration = Duration::from_secs(240);

/// The method with which the guest is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Stock,
    Classic,
    ClassicWithVifLull,
    Fast,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The type of the guest.
    pub kind: GuestType,
    /// Whether the guest writes all the time.
    pub busy: bool,
    /// Whether the guest has 1 GiB, half of which it has written; otherwise 192 MiB, or 160 if
    /// it is HVM.
    pub large: bool,
    /// Whether the guest moves between two hosts.
    pub two_hosts: bool,
}

impl Setting {
    fn spec(self) -> GuestSpec {
        match (self.kind, self.large) {
            (GuestType::Hvm, _) => GuestSpec::hvm(NAME),
            (_, false) => GuestSpec::new(NAME),
            (_, true) => GuestSpec {
                memory_mib: 1_024,
                reserve_pages: 131_072,
                ..GuestSpec::new(NAME)
            },
        }
    }

    /// Returns the methods with which the guest is moved. With lull's network script, Xen's still
    /// runs for the emulated twin of an HVM guest's interface. Between two hosts the script
    /// would have to be changed on both. A large guest is moved for the CPU time of its pages.
    fn methods(self) -> &'static [Method] {
        match self.two_hosts || self.large || self.kind == GuestType::Hvm {
            true => &[Method::Stock, Method::Classic, Method::Fast],
            false => &[
                Method::Stock,
                Method::Classic,
                Method::Fast,
                Method::ClassicWithVifLull,
            ],
        }
    }
}

/// The hosts between which the guest moves.
struct Ends {
    first: Host,
    /// `None` if the first one is both ends.
    second: Option<Host>,
}

impl Ends {
    fn boot(two_hosts: bool) -> Result<Self> {
        if !two_hosts {
            let first = Host::boot(&HostConfig::default())?;
            first.install_lull()?;
            return Ok(Self {
                first,
                second: None,
            });
        }
        let link = Link::new()?;
        let boot = |number| {
            let host = Host::boot(&HostConfig {
                number,
                link: Some(link.clone()),
                ..HostConfig::default()
            })?;
            host.install_lull()?;
            anyhow::Ok(host)
        };
        Ok(Self {
            first: boot(1)?,
            second: Some(boot(2)?),
        })
    }

    /// Returns the host to which a guest of `host` moves.
    fn other(&self, host: &Host) -> &Host {
        match &self.second {
            Some(second) if second.name() != host.name() => second,
            _ => &self.first,
        }
    }

    /// Returns both dom0s' CPU time in milliseconds.
    fn cpu(&self) -> Result<f64> {
        let second = self.second.as_ref().map_or(Ok(0.0), dom0_cpu)?;
        Ok(dom0_cpu(&self.first)? + second)
    }

    /// Returns the command that moves the guest. The network script is the default at the
    /// time when the guest's configuration is read; where that may change, xl reads it
    /// `again` in all methods but the fast one.
    fn command(&self, method: Method, guest: &Guest, again: &str) -> String {
        let name = quote(guest.name());
        let lull = "lull migrate --json";
        if self.second.is_some() {
            let to = format!(
                "-s 'rig-agent call' {name} {}",
                self.other(guest.host()).name()
            );
            return match method {
                Method::Stock => format!("xl migrate {to}"),
                Method::Fast => format!("{lull} --landing fast {to}"),
                Method::Classic | Method::ClassicWithVifLull => {
                    format!("{lull} --landing classic {to}")
                }
            };
        }
        let set = match method {
            Method::ClassicWithVifLull => "lull enable vif >/dev/null",
            _ => "lull disable vif >/dev/null",
        };
        let there = "'xl migrate-receive'";
        let go = match method {
            Method::Stock => format!("xl migrate -s '' {again} {name} {there}"),
            Method::Classic | Method::ClassicWithVifLull => {
                format!("{lull} -s '' {again} {name} {there}")
            }
            Method::Fast => format!(
                "{lull} -s '' --landing fast --receiver-command 'exec lull land' {name} {there}"
            ),
        };
        format!("{set}; {go}")
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stock => "stock xl",
            Self::Classic => "lull classic",
            Self::ClassicWithVifLull => "lull classic, vif-lull",
            Self::Fast => "lull fast",
        })
    }
}

/// The times of one move, in milliseconds unless a name says otherwise.
#[derive(Debug, Clone, Default)]
struct Move {
    /// The time without an answer to a ping.
    outage: f64,
    /// CPU time of dom0 and, with lull, of the stub.
    cpu: f64,
    /// The parts of the pause by lull's clock; empty for stock.
    parts: Vec<(&'static str, f64)>,
}

/// Boots the hosts, moves guests, and prints each move, followed by medians, spread and
/// ratio.
///
/// # Errors
/// When a host does not boot, or a guest does not move. HVM guests have their disk on one
/// host, so they do not move between two, and are never large.
pub fn run(setting: Setting) -> Result<()> {
    let load = if setting.busy { BUSY } else { Load::QUIET };
    let is_hvm = setting.kind == GuestType::Hvm;
    ensure!(
        !(is_hvm && (setting.two_hosts || setting.large)),
        "HVM guests have their disk on one host, and 160 MiB"
    );
    ensure!(
        !(setting.two_hosts && setting.large),
        "two hosts have no room for a large guest"
    );
    let ends = Ends::boot(setting.two_hosts)?;
    let host = &ends.first;
    let saved = match is_hvm {
        true => Some(SavedGuest::make(host, &setting.spec())?),
        false => None,
    };
    let methods = setting.methods();
    // With a configuration that is read again, the guest gets a new UUID, and Xen's script
    // would keep its disk from it, as from another guest.
    let again = match saved {
        Some(_) => String::new(),
        None => format!("-C /run/rig/{NAME}.cfg"),
    };
    let mut moves = vec![Vec::new(); methods.len()];
    for first in (0..ROUNDS).step_by(ROUNDS_OF_A_GUEST) {
        let mut guest = match &saved {
            Some(saved) => saved.restore()?,
            None => host.create_guest(&setting.spec())?,
        };
        guest.set_load(load)?;
        for _ in first..ROUNDS.min(first + ROUNDS_OF_A_GUEST) {
            for (&method, moves) in methods.iter().zip(&mut moves) {
                let done = measure(&ends, &guest, method, &again)?;
                guest = guest.on(ends.other(guest.host()));
                println!(
                    "{method:<24}{:6.0} ms, CPU {:.0} ms  {:.0?}",
                    done.outage, done.cpu, done.parts
                );
                moves.push(done);
            }
        }
        guest.destroy()?;
    }
    let stock = median(moves[0].iter().map(|done| done.outage));
    let stock_cpu = median(moves[0].iter().map(|done| done.cpu));
    for (method, moves) in methods.iter().zip(&moves) {
        let outages = || moves.iter().map(|done| done.outage);
        let (least, most) = (outages().reduce(f64::min), outages().reduce(f64::max));
        println!(
            "{method:<24}median of {} {:6.0} ms ({:.0} to {:.0}), ratio to stock {:.2}",
            moves.len(),
            median(outages()),
            least.unwrap_or_default(),
            most.unwrap_or_default(),
            median(outages()) / stock
        );
        let cpu = median(moves.iter().map(|done| done.cpu));
        println!(
            "    {:<20}{cpu:6.0} ms, ratio to stock {:.2}",
            "CPU of both ends",
            cpu / stock_cpu
        );
        for (part, (name, _)) in moves[0].parts.iter().enumerate() {
            let part = moves.iter().map(|done| done.parts[part].1);
            println!("    {name:<20}{:6.0}", median(part));
        }
    }
    Ok(())
}

fn measure(ends: &Ends, guest: &Guest, method: Method, again: &str) -> Result<Move> {
    let host = guest.host();
    let observer = host.observe(guest)?;
    let before = ends.cpu()?;
    let said = host
        .run_for(&ends.command(method, guest, again), TIMEOUT)?
        .checked()?;
    let cpu = ends.cpu()? - before;
    // An outage ends with an answer. The network of an HVM guest may need longer than xl.
    guest.on(ends.other(host)).status()?;
    let outages = observer.stop()?;
    let events: Vec<Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let (parts, stub_cpu) = match method {
        Method::Stock => (Vec::new(), 0.0),
        _ => parts(&events)?,
    };
    ensure!(outages.lost > 0, "no outage was seen: {outages:?}");
    Ok(Move {
        outage: outages.longest_ms,
        cpu: cpu + stub_cpu,
        parts,
    })
}

/// Returns dom0's CPU time in milliseconds, to a tenth of a second.
fn dom0_cpu(host: &Host) -> Result<f64> {
    let said = host.run("xl list Domain-0")?.checked()?;
    let seconds = said
        .split_whitespace()
        .last()
        .context("xl list is silent")?;
    Ok(seconds.parse::<f64>()? * 1_000.0)
}

/// Returns the parts of the pause, and the stub's CPU time.
fn parts(events: &[Value]) -> Result<(Vec<(&'static str, f64)>, f64)> {
    let find = |kind: &str| {
        let found = events.iter().rfind(|event| event["type"] == kind);
        found.with_context(|| format!("no {kind}: {events:?}"))
    };
    let (end, result) = (find("ended")?, find("result")?);
    let ended = &end["observed"];
    let suspended = find("suspended")?;
    let ms = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let parts = vec![
        ("suspend", ms(&ended["suspend_ms"])),
        ("final bitmap", ms(&ended["final_bitmap_ms"])),
        ("pages", ms(&ended["pages_ms"])),
        ("CPU state", ms(&ended["cpu_state_ms"])),
        ("until READY goes on", ms(&result["until_ready_ms"])),
        ("after that", ms(&result["after_ready_ms"])),
        ("in all", ms(&result["observed_downtime_ms"])),
        ("pages, expected", ms(&suspended["likely_pages_ms"])),
        ("pages, ‰ of the curve", ms(&end["last_pages_per_mille"])),
    ];
    Ok((parts, ms(&end["stub_cpu_ms"])))
}

/// Returns the median; for an even count it is the mean of the two middle values. Figures
/// that are not known do not count.
fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.filter(|figure| figure.is_finite()).collect();
    if figures.is_empty() {
        return f64::NAN;
    }
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}
