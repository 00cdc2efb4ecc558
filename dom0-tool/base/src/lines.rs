//! Cuts what another process or host sends into lines of bounded length.

use std::io::{self, Read};

/// A piece of an overlong text line repeats this many bytes of the previous piece, so that
/// a phrase to be recognised is complete in one of them.
const OVERLAP: usize = 128;

/// Longest line of text that [`each_line`] passes on, in bytes. A longer line is passed on
/// in pieces.
pub const TEXT_MAX: usize = 16 << 10;

/// Most bytes read at once.
const CHUNK: usize = 4096;

/// Lines of a stream whose bytes arrive in pieces of any size.
#[derive(Debug)]
pub struct Lines {
    /// The bytes that were received and not handed out yet.
    bytes: Vec<u8>,
    /// How many of them are known to contain no end of a line.
    searched: usize,
    longest: usize,
    is_text: bool,
    /// The rest of an overlong line is still to be dropped.
    drops: bool,
}

/// A line is longer than allowed. Its rest is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Lines {
    /// Lines of `longest` bytes at most, without their end, which is `\n`. An overlong
    /// line is reported once, and dropped.
    pub const fn of(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            searched: 0,
            longest,
            is_text: false,
            drops: false,
        }
    }

    /// Lines of text for people: they also end with the `\r` of a progress display, and an
    /// overlong one is handed out in pieces that overlap.
    const fn of_text(longest: usize) -> Self {
        let mut lines = Self::of(longest);
        lines.is_text = true;
        lines
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The number of bytes that are held. After [`next_line`](Self::next_line) has returned `None`,
    /// it is at most the longest line's.
    pub const fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Whether [`next_line`](Self::next_line) would return a line or an error.
    pub fn has_next(&self) -> bool {
        let end = self.bytes.iter().position(|byte| self.is_end(*byte));
        match self.drops {
            true => end.is_some_and(|end| {
                let rest = &self.bytes[end + 1..];
                rest.len() > self.longest || rest.iter().any(|byte| self.is_end(*byte))
            }),
            false => end.is_some() || self.bytes.len() > self.longest,
        }
    }

    /// The next line, without its end; `None` until more bytes arrive.
    pub fn next_line(&mut self) -> Option<Result<Vec<u8>, TooLong>> {
        loop {
            let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
            let end = unsearched.iter().position(|byte| self.is_end(*byte));
            match end.map(|end| self.searched + end) {
                Some(end) if self.drops => {
                    self.drop_front(end + 1);
                    self.drops = false;
                }
                Some(end) if end <= self.longest => {
                    let line = self.bytes[..end].to_vec();
                    self.drop_front(end + 1);
                    return Some(Ok(line));
                }
                None if self.drops => {
                    self.drop_front(self.bytes.len());
                    return None;
                }
                _ if self.bytes.len() > self.longest => return Some(self.cut()),
                _ => {
                    self.searched = self.bytes.len();
                    return None;
                }
            }
        }
    }

    /// Reads until a line is complete, and returns it without its end. `None` at the end of
    /// the input, where [`rest`](Self::rest) is a line without its end.
    ///
    /// # Errors
    /// The error of a read; what was read before it is kept.
    pub fn read(&mut self, from: &mut impl Read) -> io::Result<Option<Result<Vec<u8>, TooLong>>> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(line) = self.next_line() {
                return Ok(Some(line));
            }
            match from.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(read) => self.push(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What has arrived of a line whose end has not.
    pub fn rest(&self) -> &[u8] {
        &self.bytes
    }

    fn cut(&mut self) -> Result<Vec<u8>, TooLong> {
        if !self.is_text {
            self.drops = true;
            return Err(TooLong);
        }
        let piece = self.bytes[..self.longest].to_vec();
        self.drop_front(self.longest.saturating_sub(OVERLAP).max(1));
        Ok(piece)
    }

    fn drop_front(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.searched = 0;
    }

    const fn is_end(&self, byte: u8) -> bool {
        byte == b'\n' || (self.is_text && byte == b'\r')
    }
}

/// Reads `from` to its end and passes every line of text that is not empty to `each`,
/// without its end (`\n`, or the `\r` of a progress display). Bytes that are not UTF-8 are
/// replaced.
///
/// # Errors
/// The error of a read; the end of the text is not an error.
pub fn each_line(mut from: impl Read, mut each: impl FnMut(&str)) -> io::Result<()> {
    let mut lines = Lines::of_text(TEXT_MAX);
    let mut hand_on = |line: &[u8]| {
        if !line.is_empty() {
            each(&String::from_utf8_lossy(line));
        }
    };
    while let Some(Ok(line)) = lines.read(&mut from)? {
        hand_on(&line);
    }
    hand_on(lines.rest());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_LINE_BYTES: usize = 8;

    /// The lines of pieces that arrive one after the other, and what is left.
    fn cut(pieces: &[&[u8]]) -> (Vec<Result<String, TooLong>>, Vec<u8>) {
        let mut lines = Lines::of(MAX_LINE_BYTES);
        let mut cut = Vec::new();
        for piece in pieces {
            lines.push(piece);
            loop {
                let has_next = lines.has_next();
                let next = lines.next_line();
                assert_eq!(has_next, next.is_some());
                match next {
                    Some(line) => cut.push(line.map(|line| String::from_utf8(line).unwrap())),
                    None => break,
                }
            }
        }
        (cut, lines.rest().to_vec())
    }

    fn line(text: &str) -> Result<String, TooLong> {
        Ok(text.to_owned())
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let (cut_at_once, rest) = cut(&[b"a\n\nbc\rd\n12345678\nrest"]);
        let expected = [line("a"), line(""), line("bc\rd"), line("12345678")];
        assert_eq!(cut_at_once, expected);
        assert_eq!(rest, b"rest");
        let (in_pieces, _) = cut(&[b"a", b"\n", b"\nbc", b"\rd\n1234", b"5678", b"\n"]);
        assert_eq!(in_pieces, expected);
    }

    #[test]
    fn an_overlong_line_is_reported_once_and_the_next_is_read() {
        for pieces in [
            &[&b"123456789\nnext\n"[..]][..],
            &[b"12345678", b"9", b"0123456789", b"\nne", b"xt\n"],
            &[b"123456789012345678901234567890", b"\n", b"next\n"],
        ] {
            assert_eq!(cut(pieces).0, [Err(TooLong), line("next")], "{pieces:?}");
        }
    }

    fn texts(text: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        each_line(text, |line| lines.push(line.to_owned())).unwrap();
        lines
    }

    #[test]
    fn text_lines_end_with_either_sign_or_the_text() {
        assert_eq!(texts(b"a\r\nb\rc\n\nd"), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_phrase_across_the_bound_is_whole_in_some_piece() {
        let phrase = "Giving target permission to start.";
        for before in TEXT_MAX - 40..TEXT_MAX + 10 {
            let text = format!("{}{phrase}", "x".repeat(before));
            assert!(texts(text.as_bytes()).iter().any(|l| l.contains(phrase)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_bounded_text(bytes in proptest::collection::vec(any::<u8>(), 0..40_000)) {
            for line in texts(&bytes) {
                // A replacement character takes three bytes in place of one.
                prop_assert!(line.len() <= 3 * TEXT_MAX);
            }
        }

        /// Few values, so that ends of lines are frequent.
        #[test]
        fn any_bytes_give_bounded_lines_and_none_is_lost(
            pieces in proptest::collection::vec(
                proptest::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..30),
                0..10,
            ),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let (lines, rest) = cut(&pieces);
            let all = pieces.concat();
            let mut expected: Vec<_> = all
                .split(|byte| *byte == b'\n')
                .map(|line| match line.len() <= MAX_LINE_BYTES {
                    true => Ok(String::from_utf8(line.to_vec()).unwrap()),
                    false => Err(TooLong),
                })
                .collect();
            // Only an overlong line is reported before its end has arrived.
            if expected.pop() == Some(Err(TooLong)) {
                expected.push(Err(TooLong));
            }
            prop_assert_eq!(lines, expected);
            prop_assert!(rest.len() <= MAX_LINE_BYTES);
        }
    }
}
