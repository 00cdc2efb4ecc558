//! The guests on this host, and which of them could be moved.

use std::io;

use lull_xen::maxmem::guest_frames;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, PAGE, Xen};

use super::ask;
use super::finding::{Finding, Findings, Level};
use crate::enable;
use crate::host::{self, Guest, NotReady};
use crate::monitor::{self, Monitor};
use crate::rehearse;

/// The most guests listed one by one.
const MOST: usize = 64;

/// A guest that could be moved.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// One more than the guest's highest frame number.
    pub frames: u64,
    /// Whether the guest needs `vif-lull` on every host.
    pub wants_vif_lull: bool,
}

pub fn check(findings: &mut Findings) -> Vec<Seen> {
    let listed = ask::within(ask::HERE, || {
        Xenstore::open().and_then(|mut store| host::domains(&mut store))
    });
    let guests = match listed.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
        Ok(domains) => domains,
        Err(source) => {
            let why = NotReady::NoXenstore { source };
            findings.add(Finding::not_ready("guests", &why));
            return Vec::new();
        }
    };
    let is_a_guest = |guest: &Guest| guest.domid != 0 && !guest.name.starts_with(rehearse::MARK);
    let guests: Vec<Guest> = guests.into_iter().filter(is_a_guest).collect();
    if guests.is_empty() {
        findings.add(Finding::ok("guests", "no guest is here"));
    }
    let mut seen = Vec::new();
    for guest in guests.iter().take(MOST) {
        let domid = guest.domid;
        let looked = ask::within(ask::HERE, move || look(domid));
        match looked {
            Some(Ok(found)) => {
                let mib = found.memory >> 20;
                let text = format!("{} can be moved: PVH, running, {mib} MiB", guest.name);
                findings.add(Finding::ok("guest", text));
                if let Some(finding) = monitored(guest) {
                    findings.add(finding);
                }
                seen.push(found);
            }
            // The host is ready, although this guest cannot be moved.
            Some(Err(why)) => findings.add(Finding {
                level: Level::Warning,
                ..Finding::not_ready("guest", &why)
            }),
            None => findings.add(Finding::warning(
                "guest",
                format!("Xen does not say how {} is", guest.name),
                "`xl list` must work first.",
            )),
        }
    }
    if guests.len() > MOST {
        let text = format!("{} guests more were not looked at", guests.len() - MOST);
        findings.add(Finding::ok("guests", text));
    }
    seen
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

fn look(domid: DomId) -> Result<Seen, NotReady> {
    let guest = host::guest(&domid.to_string())?;
    let measured = Xen::open_here().and_then(|xen| {
        let info = xen.domain_info(domid)?.ok_or(io::ErrorKind::NotFound)?;
        Ok((info.tot_pages, guest_frames(&xen, domid)?))
    });
    let name = guest.name;
    match measured {
        Ok((pages, frames)) => Ok(Seen {
            name,
            memory: pages.saturating_mul(PAGE as u64),
            frames,
            wants_vif_lull: enable::vif::is_used_by(domid).unwrap_or(false),
        }),
        Err(source) => Err(NotReady::NoState { name, source }),
    }
}
