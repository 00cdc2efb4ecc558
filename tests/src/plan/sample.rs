//! A sample that can be repeated by its seed.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};

/// The number of hexadecimal digits of a seed, and of the part of a commit used as one.
const DIGITS: usize = 16;

/// The seed from which a sample is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    value: u64,
    origin: Origin,
}

/// The origin of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Person,
    Commit,
    Unknown,
}

impl Seed {
    /// Returns the seed that was requested. Without one it is the first digits of the
    /// commit, so that each commit tries other scenarios and every run of it the same ones;
    /// and 0 without a commit.
    ///
    /// # Errors
    /// When the requested seed is not a number.
    pub fn new(wanted: Option<&str>, commit: Option<&str>) -> Result<Self> {
        if let Some(wanted) = wanted {
            let value = match wanted.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => wanted.parse(),
            };
            return Ok(Self {
                value: value.with_context(|| format!("{wanted:?} is no seed"))?,
                origin: Origin::Person,
            });
        }
        let digits = commit.and_then(|commit| commit.get(..DIGITS));
        let value = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        Ok(Self {
            value: value.unwrap_or(0),
            origin: match value {
                Some(_) => Origin::Commit,
                None => Origin::Unknown,
            },
        })
    }

    /// Starts a draw for one purpose, independent of other draws from the same seed.
    pub fn draw(self, purpose: &str) -> Draw {
        // The hash by Fowler, Noll and Vo gives each purpose another start.
        let start = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Draw(self.value ^ start)
    }
}

/// Displays the seed in the form in which it is given, and its origin.
impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Person => "",
            Origin::Commit => " (this commit's)",
            Origin::Unknown => " (git names no commit)",
        };
        write!(f, "LULL_SEED=0x{:0DIGITS$x}{origin}", self.value)
    }
}

/// A generator of pseudorandom numbers: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns one of the first `count` numbers; 0 if `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        // The upper half of a product is as uniform as 64 bits allow.
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}

/// Draws `count` items, each with the same probability, spread over groups of these sizes.
/// Returns their numbers, counted through all groups.
pub fn sample(sizes: &[usize], count: usize, draw: &mut Draw) -> BTreeSet<usize> {
    let total: usize = sizes.iter().sum();
    let count = count.min(total);
    let mut order: Vec<usize> = (0..total).collect();
    let mut rest = order.as_mut_slice();
    for size in sizes {
        let (group, others) = rest.split_at_mut(*size);
        draw.shuffle(group);
        rest = others;
    }
    // Items are taken at equal distances from a random start, in random order within each
    // group.
    let start = draw.below(total);
    (0..count)
        .map(|number| order[(start + number * total / count) % total])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 5] = [1, 9, 3, 0, 7];
    const TOTAL: usize = 20;

    fn seed(value: u64) -> Seed {
        Seed::new(Some(&value.to_string()), None).unwrap()
    }

    #[test]
    fn who_chooses_the_seed() {
        let commit = Some("c18980f0123456789abcdef0123456789abcdef0");
        let words = |wanted, commit| Seed::new(wanted, commit).unwrap().to_string();
        assert_eq!(
            words(None, commit),
            "LULL_SEED=0xc18980f012345678 (this commit's)"
        );
        assert_eq!(words(Some("17"), commit), "LULL_SEED=0x0000000000000011");
        let unknown = "LULL_SEED=0x0000000000000000 (git names no commit)";
        assert_eq!(words(None, None), unknown);
        assert_eq!(words(None, Some("unknown")), unknown);
        assert!(Seed::new(Some("soon"), commit).is_err());
    }

    #[test]
    fn what_is_printed_repeats_the_sample() {
        let first = Seed::new(None, Some("c18980f0123456789abc")).unwrap();
        let printed = first.to_string();
        let printed = printed.split(['=', ' ']).nth(1);
        let again = Seed::new(printed, Some("another commit altogether")).unwrap();
        for purpose in ["cells", "scenarios"] {
            assert_eq!(
                sample(&SIZES, 7, &mut first.draw(purpose)),
                sample(&SIZES, 7, &mut again.draw(purpose))
            );
        }
    }

    #[test]
    fn purposes_and_seeds_differ() {
        let numbers = |seed: Seed, purpose| {
            let mut draw = seed.draw(purpose);
            [(); 4].map(|()| draw.below(1 << 30))
        };
        assert_ne!(numbers(seed(1), "cells"), numbers(seed(1), "scenarios"));
        assert_ne!(numbers(seed(1), "cells"), numbers(seed(2), "cells"));
    }

    #[test]
    fn a_sample_has_its_size() {
        for count in 0..=TOTAL + 1 {
            let drawn = sample(&SIZES, count, &mut seed(3).draw(""));
            assert_eq!(drawn.len(), count.min(TOTAL));
            assert!(drawn.iter().all(|number| *number < TOTAL));
        }
        assert!(sample(&[], 4, &mut seed(3).draw("")).is_empty());
    }

    #[test]
    fn a_sample_is_spread() {
        for value in 0..200 {
            let drawn = sample(&SIZES, 5, &mut seed(value).draw(""));
            let mut first = 0;
            for size in SIZES {
                let from_it = drawn.range(first..first + size).count();
                // The sample holds a quarter of each group, plus or minus one for its ends.
                assert!(from_it.abs_diff(size / 4) <= 1, "{value}: {drawn:?}");
                first += size;
            }
        }
    }

    #[test]
    fn each_is_drawn_as_often_as_any_other() {
        let mut times = [0_u32; TOTAL];
        for value in 0..8_000 {
            for number in sample(&SIZES, 5, &mut seed(value).draw("")) {
                times[number] += 1;
            }
        }
        for times in times {
            assert!((1_850..2_150).contains(&times), "{times} of 2000");
        }
    }
}
