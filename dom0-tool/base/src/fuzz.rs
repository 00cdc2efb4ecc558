//! Random input for the tests of parsers of untrusted bytes. No input may make a parser
//! panic or loop.
//!
//! Each test calls [`any_bytes`] with valid samples. The cases are these samples,
//! changed at random, and fully random bytes. A quick test runs a few thousand cases.
//! With `LULL_FUZZ_SECONDS` set, a test runs as many as fit into that time:
//!
//! ```text
//! LULL_FUZZ_SECONDS=60 cargo test any_bytes
//! ```

use std::time::{Duration, Instant};

/// Number of cases when no time is given.
const CASES: u32 = 3_000;

/// The longest case, in bytes.
const MAX_INPUT_BYTES: usize = 1 << 16;

/// Calls `read` with many byte strings.
pub fn any_bytes(samples: &[&[u8]], mut read: impl FnMut(&[u8])) {
    let seconds = std::env::var("LULL_FUZZ_SECONDS");
    let seconds: Option<u64> = seconds.ok().and_then(|seconds| seconds.parse().ok());
    let begun = Instant::now();
    // Quick tests always use the same seed; a long test uses a new one each time.
    let seed = seconds.map_or(1, |_| u64::from(std::process::id()) << 20 | 1);
    let mut random = Random(seed);
    for case in 0.. {
        match seconds {
            None if case >= CASES => return,
            Some(seconds) if begun.elapsed() >= Duration::from_secs(seconds) => return,
            _ => {}
        }
        read(&random.case(samples));
    }
}

/// A xorshift generator, which is good enough for tests.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn case(&mut self, samples: &[&[u8]]) -> Vec<u8> {
        let mut bytes = match samples.get(self.below(samples.len() + 1)) {
            Some(sample) => sample.to_vec(),
            None => {
                let length = 1 << self.below(10);
                (0..length).map(|_| self.next() as u8).collect()
            }
        };
        for _ in 0..self.below(8) {
            self.change(&mut bytes, samples);
        }
        bytes.truncate(MAX_INPUT_BYTES);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, samples: &[&[u8]]) {
        let at = self.below(bytes.len());
        let until = (at + self.below(64)).min(bytes.len());
        match self.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = b"\0\n\"{}[]:,-9\xff\x1b"[self.below(13)],
            2 => drop(bytes.drain(at..until)),
            3 => {
                let piece = bytes[at..until].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => {
                let other = samples
                    .get(self.below(samples.len()))
                    .copied()
                    .unwrap_or(b"");
                let from = self.below(other.len());
                bytes.splice(at..until, other[from..].iter().copied());
            }
            _ => {
                let number = [0, 1, u64::MAX, 1 << 31, 1 << 52][self.below(5)].to_string();
                bytes.splice(at..until, number.into_bytes());
            }
        }
    }
}
