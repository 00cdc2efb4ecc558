//! Splits the output of another process into lines of bounded length.

use std::io::{self, Read};

/// Longest line passed on, in bytes. A longer line is passed on in pieces.
pub const LONGEST: usize = 16 * 1024;

/// A piece of an overlong line repeats this many bytes of the previous piece, so that a
/// phrase to be recognised is complete in one of them.
const OVERLAP: usize = 128;

/// Reads `from` to its end and passes every line to `each`, without its terminator (`\n`,
/// or the `\r` of a progress display). Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// The error of a read; the end of the text is not an error.
pub fn each_line(mut from: impl Read, mut each: impl FnMut(&str)) -> io::Result<()> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for &byte in &chunk[..read] {
            if matches!(byte, b'\n' | b'\r') {
                hand_on(&mut line, 0, &mut each);
            } else {
                line.push(byte);
                if line.len() == LONGEST {
                    hand_on(&mut line, OVERLAP, &mut each);
                }
            }
        }
    }
    hand_on(&mut line, 0, &mut each);
    Ok(())
}

fn hand_on(line: &mut Vec<u8>, keep: usize, each: &mut impl FnMut(&str)) {
    if !line.is_empty() {
        each(&String::from_utf8_lossy(line));
    }
    line.drain(..line.len() - keep);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        each_line(text, |line| lines.push(line.to_owned())).unwrap();
        lines
    }

    #[test]
    fn lines_end_with_either_sign_or_the_text() {
        assert_eq!(lines(b"a\r\nb\rc\n\nd"), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_phrase_across_the_bound_is_whole_in_some_piece() {
        let phrase = "Giving target permission to start.";
        for before in LONGEST - 40..LONGEST + 10 {
            let text = format!("{}{phrase}", "x".repeat(before));
            assert!(lines(text.as_bytes()).iter().any(|l| l.contains(phrase)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_bounded_lines(bytes in proptest::collection::vec(any::<u8>(), 0..40_000)) {
            for line in lines(&bytes) {
                // A replacement character takes three bytes in place of one.
                prop_assert!(line.len() <= 3 * LONGEST);
            }
        }
    }
}
