//! The guests on this host, and which of them could be moved.

use std::io;

use lull_agents::monitor::{self, Monitor};
use lull_store::ledger::Machine;
use lull_xen::device_model::Qemu;
use lull_xen::host::{self, Guest, NotReady};
use lull_xen::maxmem::guest_frames;
use lull_xen::probe_guest::MARK;
use lull_xen::qmp::QmpError;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, DomainState, PAGE, Xen};

use super::ask;
use super::finding::{Finding, Findings, Level};
use crate::enable;

/// The most guests listed one by one.
const MAX_GUESTS: usize = 64;

/// A guest that could be moved.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// One more than the guest's highest frame number.
    pub frames: u64,
    /// Whether the guest has emulated devices.
    pub machine: Machine,
    /// Whether the guest needs `vif-lull` on every host.
    pub wants_vif_lull: bool,
}

pub fn check(findings: &mut Findings) -> Vec<Seen> {
    let looked = ask::within(ask::HERE, look);
    match looked.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
        Ok((found, seen)) => {
            for finding in found {
                findings.add(finding);
            }
            seen
        }
        Err(source) => {
            let why = NotReady::NoXenstore { source };
            findings.add(Finding::not_ready("guests", &why));
            Vec::new()
        }
    }
}

/// Looks at all guests, through one connection to xenstore and one to Xen.
fn look() -> io::Result<(Vec<Finding>, Vec<Seen>)> {
    let mut store = Xenstore::open()?;
    let xen = Xen::open_here();
    let mut guests = host::domains(&mut store)?;
    guests.retain(|guest| guest.domid != 0 && !guest.name.starts_with(MARK));
    let mut findings = Vec::new();
    if guests.is_empty() {
        findings.push(Finding::ok("guests", "no guest is here"));
    }
    let mut seen = Vec::new();
    for guest in guests.iter().take(MAX_GUESTS) {
        match look_at(&mut store, xen.as_ref(), guest) {
            Ok(found) => {
                let mib = found.memory >> 20;
                let kind = match found.machine {
                    Machine::Plain => "PVH",
                    Machine::Emulated => "HVM",
                };
                let text = format!("{} can be moved: {kind}, running, {mib} MiB", guest.name);
                findings.push(match deaf_qemu(found.machine, guest.domid) {
                    Some(why) => Finding::warning(
                        "guest",
                        format!("{} cannot be moved: its QEMU {why}", guest.name),
                        format!("Look at /var/log/xen/qemu-dm-{}.log.", guest.name),
                    ),
                    None => Finding::ok("guest", text),
                });
                findings.extend(monitored(guest));
                seen.push(found);
            }
            // The host is ready, although this guest cannot be moved.
            Err(why) => findings.push(Finding {
                level: Level::Warning,
                ..Finding::not_ready("guest", &why)
            }),
        }
    }
    if guests.len() > MAX_GUESTS {
        let text = format!(
            "{} guests more were not looked at",
            guests.len() - MAX_GUESTS
        );
        findings.push(Finding::ok("guests", text));
    }
    Ok((findings, seen))
}

/// Why the QEMU of a guest with emulated devices could not be asked to run; `None` if it
/// could, or if there is none.
fn deaf_qemu(machine: Machine, domid: DomId) -> Option<String> {
    if machine == Machine::Plain {
        return None;
    }
    let asked = ask::within(ask::HERE, move || Qemu::of(domid).answers());
    match asked {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some(QmpError::Silent.to_string()),
    }
}

/// Whether a process handles the guest's next reboot or shutdown.
fn monitored(guest: &Guest) -> Option<Finding> {
    let Guest { name, domid } = guest;
    if monitor::is_libvirts(name) {
        return None;
    }
    match Monitor::of(*domid) {
        None => Some(Finding::warning(
            "guest",
            format!(
                "no xl waits for {name}'s end: after a reboot or shutdown of its own it stays dead"
            ),
            format!(
                "It was created with `xl create -e`, or its monitor has ended. After its next shutdown: `xl destroy {name}`, then `xl create`."
            ),
        )),
        Some(monitor) if monitor.is_held() => Some(Finding::warning(
            "guest",
            format!(
                "the xl that waits for {name}'s end (process {}) stands still",
                monitor.number()
            ),
            format!(
                "Unless {name} is being moved (`lull status`): `kill -CONT {}`.",
                monitor.number()
            ),
        )),
        Some(_) => None,
    }
}

fn look_at(
    store: &mut Xenstore,
    xen: Result<&Xen, &io::Error>,
    guest: &Guest,
) -> Result<Seen, NotReady> {
    let domid = guest.domid;
    let mut pages = 0;
    host::check_guest(store, guest, || {
        let xen = xen.map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let info = xen.domain_info(domid)?;
        pages = info.map_or(0, |info| info.tot_pages);
        Ok(info.map(DomainState::from))
    })?;
    let frames = xen.map_or(Ok(0), |xen| guest_frames(xen, domid));
    Ok(Seen {
        name: guest.name.clone(),
        machine: Machine::of(domid),
        memory: pages.saturating_mul(PAGE as u64),
        frames: frames.map_err(|source| NotReady::NoState {
            name: guest.name.clone(),
            source,
        })?,
        wants_vif_lull: enable::vif::is_used_by(store, domid).unwrap_or(false),
    })
}
