//! One JSON value a line: the form of most messages between processes, and of records.

use std::io;

use serde::Serialize;

/// Encodes a value as one line, with its end.
///
/// # Errors
/// When JSON has no form for the value, as for a map whose keys are no text.
pub fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_value_takes_one_line_whatever_it_holds() {
        assert_eq!(line(&["a\nb", "c"]).unwrap(), b"[\"a\\nb\",\"c\"]\n");
        assert!(line(&BTreeMap::from([((), 1)])).is_err());
    }
}
