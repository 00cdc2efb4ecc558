//! The limits configured in `/etc/lull.toml`, and those of them that apply to a guest.
//!
//! ```toml
//! [default]
//! timeout = "10min"
//!
//! [guest."web-*"]                # by name, by UUID, or by a pattern
//! max-suspend-time = "300ms"     # or "none"
//! bandwidth = "50MiB/s"
//! ```
//!
//! The file is read without trusting it ([`mod@file`]) and parsed into [`rules`]. [`choose`]
//! selects the rule for a guest, separately for each key. [`edit`] changes a line of the
//! file and leaves all others as they are. A file that cannot be parsed is an error for the
//! caller: never "no limit".

mod choose;
mod command;
mod edit;
mod file;
mod rules;

#[cfg(test)]
mod tests;

pub use choose::{Chosen, Effective};
pub use command::{Command, main};
pub use file::LimitsError;

use anyhow::Context;

use crate::host::{self, Guest};
use file::LimitsFile;

/// The path of the limits file.
pub const FILE: &str = "/etc/lull.toml";

/// The limits of a guest with that name and UUID; none if there is no file.
///
/// # Errors
/// If the file cannot be read or parsed.
pub fn effective(name: &str, uuid: Option<&str>) -> Result<Effective, LimitsError> {
    Ok(LimitsFile::at(FILE).rules()?.for_guest(name, uuid))
}

/// The limits of a guest for which nothing has been started yet.
///
/// # Errors
/// If they cannot be determined. The error includes what the caller should do.
pub fn of_guest(guest: &Guest) -> anyhow::Result<Effective> {
    let uuid = host::uuid(guest.domid).context("xenstore does not tell the guest's UUID")?;
    effective(&guest.name, Some(&uuid)).map_err(|error| {
        anyhow::anyhow!("{error}\nNothing was done. `lull limits check` looks at it again.")
    })
}
