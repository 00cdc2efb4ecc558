//! `lull resume`: makes a guest run on that a migration left suspended here.
//!
//! Only a person can decide that. If the destination was told to start the guest and has
//! not answered, this host cannot find out whether the guest runs there.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use lull_agents::emulated::Emulated;
use lull_agents::name::{self, Name};
use lull_base::exit::done_or_not;
use lull_base::terminal::to_stderr;
use lull_store::running::claim::{Claim, LockResult};
use lull_store::running::folder::Folder;
use lull_xen::device_model::MakeRun;
use lull_xen::domain::{Resumed, UNKNOWN};
use lull_xen::host::{self, Guest, Host};
use lull_xen::{DomId, Xen, version};

/// The options of `lull resume`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: web1 was left suspended, and `xl list` on host2 shows no web1:
  lull resume web1--migratedaway

Exit codes: 0 it runs here; 2 it could not be resumed, nothing was done."
)]
pub struct Options {
    /// The guest: its number, or the name it has here
    #[arg(value_name = "DOMAIN")]
    pub domain: String,
}

pub fn main(options: &Options) -> ExitCode {
    let resumed = resume(&options.domain);
    done_or_not(resumed.map(|name| format!("{name} runs here.")))
}

/// Hands back the name it goes by.
fn resume(domain: &str) -> anyhow::Result<String> {
    Host::default().check()?;
    let guest = host::guest_in_any_state(domain)?;
    let claim = until_no_attempt_moves_it(guest.domid, &guest.name)?;
    let resumed = resume_suspended(&guest);
    if let Some(claim) = claim {
        claim.give_up(&Folder::default(), guest.domid);
    }
    resumed
}

fn resume_suspended(guest: &Guest) -> anyhow::Result<String> {
    let name = &guest.name;
    let xen = Xen::open(version::detect()?).context("the hypervisor cannot be reached")?;
    let mut emulated = Emulated::of(guest.domid).context("its QEMU cannot be asked")?;
    let resumed = xen.resume_suspended(guest.domid, &mut emulated);
    match resumed.with_context(|| format!("{name} cannot be resumed"))? {
        Resumed::WasNotSuspended => {
            anyhow::bail!("{name} is not suspended.\nNothing was done. `xl list` shows how it is.");
        }
        Resumed::Yes { devices, known, .. } => {
            if let Some(complaint) = devices.complaint(emulated.words()) {
                to_stderr(&format!("lull: {name} runs, but {complaint}."));
            }
            if !known {
                to_stderr(&format!("lull: {name} runs, but {UNKNOWN}."));
            }
        }
    }
    let Some(own) = name.strip_suffix(name::SUFFIX) else {
        return Ok(name.clone());
    };
    let why = match name::give_back(guest.domid, own, name::TIMEOUT) {
        Ok(Name::Own) => return Ok(own.to_owned()),
        Ok(Name::Taken(other)) => format!("domain {other} is called {own}"),
        Err(error) => error.to_string(),
    };
    to_stderr(&format!("lull: {name} keeps that name: {why}"));
    Ok(name.clone())
}

/// A guest that is only being moved is paused too, and may be running at the
/// destination in the next moment.
fn until_no_attempt_moves_it(domid: DomId, name: &str) -> anyhow::Result<Option<Claim>> {
    let folder = Folder::default();
    let still = |who: &str| {
        anyhow::anyhow!(
            "{name} is still being moved ({who}).\nNothing was done. `lull status` shows how far it is, and `lull cancel {domid}` ends it safely."
        )
    };
    let sockets = folder.sockets().unwrap_or_default();
    if let Some(socket) = sockets.iter().find(|socket| socket.domid == domid) {
        return Err(still(&format!("by process {}", socket.helper)));
    }
    match Claim::wait_idle(&folder, domid) {
        Ok(LockResult::Acquired(claim)) => Ok(Some(claim)),
        Ok(LockResult::Busy) => Err(still("another lull has its dirty log")),
        // Without a folder for locks, no process holds one.
        Err(_) => Ok(None),
    }
}
