//! A value that the operator gives, or the word for its absence.

use std::fmt::Display;
use std::str::FromStr;

/// The word for no limit, which overrides a wider rule.
pub const NONE: &str = "none";

/// Parses `text`; returns `None` for [`NONE`].
///
/// # Errors
/// Returns what is wrong with the text, and that [`NONE`] is also allowed.
pub fn parse<T>(text: &str) -> Result<Option<T>, String>
where
    T: FromStr<Err: Display>,
{
    if text == NONE {
        return Ok(None);
    }
    let value = text.parse().map(Some);
    value.map_err(|error: T::Err| format!("{error}; or `{NONE}`"))
}
