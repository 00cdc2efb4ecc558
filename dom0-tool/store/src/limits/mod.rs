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
mod edit;
mod file;
mod rules;

#[cfg(test)]
mod tests;

pub use choose::{Chosen, Effective, Standing, Trust};
pub use edit::Change;
pub use file::{LimitsError, LimitsFile};
pub use rules::{Key, Limit, Rules, Selector};

/// The path of the limits file.
pub const FILE: &str = "/etc/lull.toml";

/// The limits of a guest with that name and UUID; none if there is no file.
///
/// # Errors
/// If the file cannot be read or parsed.
pub fn effective(name: &str, uuid: Option<&str>) -> Result<Effective, LimitsError> {
    Ok(LimitsFile::at(FILE).rules()?.for_guest(name, uuid))
}
