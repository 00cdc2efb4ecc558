//! The messages between xl on the two hosts that the gate depends on (`tools/xl/xl.h`,
//! the same from 4.17 to 4.22). Everything else is passed on unread.

/// The destination's first message, sent without a NUL.
pub const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";

/// READY: the destination holds the whole guest, paused. The NUL is sent too.
pub const READY: &[u8] = b"domain received, ready to unpause\0";

/// GO: the destination may start the guest. The destination sends the same message back to
/// give the guest up.
pub const GO: &[u8] = b"domain is yours, you are cleared to unpause\0";

/// The destination's report. One byte follows: 0 if the guest runs there.
pub const REPORT: &[u8] = b"my copy unpause results are as follows\0";

/// What a destination sends that could not start the guest and has destroyed its copy:
/// the report, any code but 0, and the permission to go on at the source.
pub fn gave_back() -> Vec<u8> {
    [REPORT, &[1], GO].concat()
}

/// Searches a stream for one message, whatever precedes it.
#[derive(Debug)]
pub struct Finder {
    message: &'static [u8],
    /// Number of the message's first bytes that the stream so far ends with.
    matched: usize,
}

impl Finder {
    /// Creates a finder for `message`.
    pub const fn new(message: &'static [u8]) -> Self {
        Self {
            message,
            matched: 0,
        }
    }

    /// Reads more of the stream. Returns the number of `bytes` up to and including the
    /// message's last byte, if they complete the message.
    pub fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            self.step(byte);
            if self.matched == self.message.len() {
                self.matched = 0;
                return Some(at + 1);
            }
        }
        None
    }

    /// Number of bytes at the end of the stream so far that may begin the message.
    pub const fn pending(&self) -> usize {
        self.matched
    }

    fn step(&mut self, byte: u8) {
        // Find the longest prefix of the message that the stream now ends with.
        loop {
            if self.message[self.matched] == byte {
                self.matched += 1;
                return;
            }
            if self.matched == 0 {
                return;
            }
            let read = &self.message[..self.matched];
            self.matched = (0..self.matched)
                .rev()
                .find(|shorter| read.ends_with(&self.message[..*shorter]))
                .unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(message: &'static [u8], pieces: &[&[u8]]) -> Option<usize> {
        let mut finder = Finder::new(message);
        let mut before = 0;
        for piece in pieces {
            if let Some(at) = finder.read(piece) {
                return Some(before + at);
            }
            before += piece.len();
        }
        None
    }

    #[test]
    fn a_false_start_is_no_obstacle() {
        assert_eq!(find(READY, &[b"domain received, rea", READY]), Some(54));
        assert_eq!(find(b"aab", &[b"aaa", b"b"]), Some(4));
        assert_eq!(find(READY, &[&READY[..33]]), None);
    }

    proptest! {
        #[test]
        fn it_is_found_in_any_pieces(
            garbage in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0..240usize, 0..6),
        ) {
            let stream = [garbage.as_slice(), READY].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= stream.len()).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(find(READY, &pieces), Some(stream.len()));
        }

        #[test]
        fn over_a_small_alphabet_it_agrees_with_a_plain_search(
            stream in proptest::collection::vec(proptest::sample::select(&b"ab"[..]), 0..40),
        ) {
            let message = b"abab";
            let plain = stream.windows(4).position(|window| window == message).map(|at| at + 4);
            prop_assert_eq!(find(message, &[&stream]), plain);
        }
    }
}
