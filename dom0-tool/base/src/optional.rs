//! A value of the operator's, or the word that there is none.

use std::fmt::Display;
use std::str::FromStr;

/// No limit, though a wider rule sets one.
pub const NONE: &str = "none";

/// What `text` says; `None` for [`NONE`].
///
/// # Errors
/// What is wrong with it, and that it may be [`NONE`].
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
