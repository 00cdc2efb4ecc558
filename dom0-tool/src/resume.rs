//! `lull resume`: makes a guest run on that a migration left suspended here.
//!
//! Only a person can say when: once the destination was told to start the
//! guest, and has not answered, nobody here knows whether it runs there.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Args;

use crate::host::{self, Host};
use crate::xen::domain::Resumed;
use crate::xen::{DomId, Xen, version};

/// What xl puts behind a guest's name before the destination is told to start
/// it (`tools/xl/xl_migrate.c`, 4.17 to 4.22).
const AWAY: &str = "--migratedaway";

/// Nothing was done.
const NOT_DONE: u8 = 2;

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

/// Runs the command.
pub fn main(options: &Options) -> ExitCode {
    match resume(&options.domain) {
        Ok(name) => {
            println!("{name} runs here.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lull: {error:#}");
            NOT_DONE.into()
        }
    }
}

/// Hands back the name it goes by.
fn resume(domain: &str) -> anyhow::Result<String> {
    let xl = Host::default().check()?;
    let guest = host::guest_in_any_state(domain)?;
    let name = &guest.name;
    let xen = Xen::open(version::detect()?).context("the hypervisor cannot be reached")?;
    let resumed = xen.resume_suspended(guest.domid);
    if resumed.with_context(|| format!("{name} cannot be resumed"))? == Resumed::WasNotSuspended {
        anyhow::bail!("{name} is not suspended.\nNothing was done. `xl list` shows how it is.");
    }
    Ok(match name.strip_suffix(AWAY) {
        Some(former) if rename(&xl, guest.domid, former) => former.to_owned(),
        _ => name.clone(),
    })
}

/// Whether it is called so now. xl says why not, when another is.
fn rename(xl: &Path, domid: DomId, name: &str) -> bool {
    let renamed = Command::new(xl)
        .args(["rename", &domid.to_string(), name])
        .status();
    renamed.is_ok_and(|status| status.success())
}
