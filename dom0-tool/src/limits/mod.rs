//! The limits, configured once: what stands in `/etc/lull.toml`, and what of it
//! concerns a guest.
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
//! The file is read [safely](mod@file), its [`rules`] are [chosen](choose) from for
//! a guest, each key for itself, and [`edit`] changes a line of it and leaves
//! all others. A file that cannot be understood is an error for whoever asks:
//! never "no limit".

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

/// Where the limits stand.
pub const FILE: &str = "/etc/lull.toml";

/// The limits of a guest of that name and UUID; none where there is no file.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn effective(name: &str, uuid: Option<&str>) -> Result<Effective, LimitsError> {
    Ok(LimitsFile::at(FILE).rules()?.for_guest(name, uuid))
}

/// The limits of a guest with which nothing has been done yet.
///
/// # Errors
/// When they cannot be known; with what to do, for whoever asked.
pub fn of_guest(guest: &Guest) -> anyhow::Result<Effective> {
    let uuid = host::uuid(guest.domid).context("xenstore does not tell the guest's UUID")?;
    effective(&guest.name, Some(&uuid)).map_err(|error| {
        anyhow::anyhow!("{error}\nNothing was done. `lull limits check` looks at it again.")
    })
}
