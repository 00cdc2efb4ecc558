//! Quoting for shell command lines.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Quotes `text` as a single shell word, whatever characters it contains.
pub fn quoted(text: &OsStr) -> OsString {
    let mut bytes = vec![b'\''];
    for &byte in text.as_bytes() {
        match byte {
            b'\'' => bytes.extend(br"'\''"),
            _ => bytes.push(byte),
        }
    }
    bytes.push(b'\'');
    OsString::from_vec(bytes)
}
