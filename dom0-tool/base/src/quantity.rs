//! Amounts of memory and rates, as an operator writes them: `4GiB`,
//! `100MiB/s`, `10Gbit/s`.

use std::fmt;
use std::str::FromStr;

use lull_core::units::PAGE_SIZE;
use thiserror::Error;

/// An amount of memory: whole pages, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The size in pages of 4 KiB.
    pub pages: u64,
}

/// Pages a second, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The rate in pages of 4 KiB a second.
    pub pages: u64,
}

/// Why an amount or a rate was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// The text is not an amount of memory.
    #[error("is not an amount of memory; for example `128MiB`, `4GiB`, `16TiB`")]
    Size,
    /// The text is not a rate.
    #[error("is not a rate; for example `100MiB/s`, `1.25GB/s`, `10Gbit/s`")]
    Rate,
    /// The amount is less than a page, or more than can be simulated.
    #[error("is less than a page of 4 KiB, or more than 16 TiB")]
    Range,
}

/// The largest amount that can be simulated, in bytes: 16 TiB.
const MAX_RATE_BYTES: u128 = 16 << 40;

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(given: &str) -> Result<Self, QuantityError> {
        let pages = pages(given, &BYTES).ok_or(QuantityError::Size)?;
        in_range(pages).map(|pages| Self { pages })
    }
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(given: &str) -> Result<Self, QuantityError> {
        let amount = given.strip_suffix("/s").ok_or(QuantityError::Rate)?;
        let pages = pages(amount, &BYTES)
            .or_else(|| pages(amount, &BITS))
            .ok_or(QuantityError::Rate)?;
        in_range(pages).map(|pages| Self { pages })
    }
}

/// Writes the rate in the largest unit that gives a whole number, ignoring the part of
/// a page that parsing drops. Parsing the result gives the same rate.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.pages) * u128::from(PAGE_SIZE) * 8;
        let mut units: Vec<_> = BYTES.iter().chain(&BITS).collect();
        units.sort_by_key(|(_, unit)| std::cmp::Reverse(*unit));
        let written = units.into_iter().map(|(name, unit)| {
            let number = bits.div_ceil(*unit);
            format!("{number}{name}/s")
        });
        let same = |text: &String| text.parse() == Ok(*self);
        let kib = || format!("{}KiB/s", self.pages * PAGE_SIZE / 1024);
        f.write_str(&written.into_iter().find(same).unwrap_or_else(kib))
    }
}

fn in_range(pages: u128) -> Result<u64, QuantityError> {
    match u64::try_from(pages) {
        Ok(pages) if pages > 0 && u128::from(pages * PAGE_SIZE) <= MAX_RATE_BYTES => Ok(pages),
        _ => Err(QuantityError::Range),
    }
}

/// Unit names, each with the size of the unit in bits.
type Units = [(&'static str, u128)];

const BYTES: [(&str, u128); 8] = [
    ("KiB", 8 << 10),
    ("MiB", 8 << 20),
    ("GiB", 8 << 30),
    ("TiB", 8 << 40),
    ("KB", 8_000),
    ("MB", 8_000_000),
    ("GB", 8_000_000_000),
    ("TB", 8_000_000_000_000),
];

const BITS: [(&str, u128); 2] = [("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];

fn pages(given: &str, units: &Units) -> Option<u128> {
    let given = given.trim();
    let (number, unit) = units
        .iter()
        .find_map(|(name, bits)| Some((given.strip_suffix(name)?.trim_end(), bits)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 15 || fraction.len() > 6 {
        return None;
    }
    let millionths: u128 = format!("{whole}{fraction:0<6}").parse().ok()?;
    Some(millionths * unit / 1_000_000 / 8 / u128::from(PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(text: &str) -> Result<u64, QuantityError> {
        text.parse::<Size>().map(|size| size.pages)
    }

    fn rate(text: &str) -> Result<u64, QuantityError> {
        text.parse::<Rate>().map(|rate| rate.pages)
    }

    #[test]
    fn amounts_and_rates_are_understood() {
        assert_eq!(size("4KiB"), Ok(1));
        assert_eq!(size("4 GiB"), Ok(1 << 20));
        assert_eq!(size("16TiB"), Ok(1 << 32));
        assert_eq!(size("0.5MiB"), Ok(128));
        assert_eq!(rate("100MiB/s"), Ok(25_600));
        assert_eq!(rate("10Gbit/s"), Ok(305_175));
        assert_eq!(rate("1.25GB/s"), Ok(305_175));
    }

    #[test]
    fn a_rate_is_written_as_it_was_meant() {
        for text in [
            "50MiB/s", "1Gbit/s", "10Gbit/s", "3GB/s", "12KiB/s", "16TiB/s",
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string(), text);
        }
        let rate: Rate = "1.5MiB/s".parse().unwrap();
        assert_eq!(rate.to_string(), "1536KiB/s");
    }

    proptest! {
        #[test]
        fn a_rate_that_is_written_is_understood_as_the_same(pages in 1..=1_u64 << 32) {
            let rate = Rate { pages };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "4",
            "GiB",
            "-4GiB",
            "4 bananas",
            "4GiB/s",
            "1e9MiB",
            "1..5GiB",
            "٤GiB",
        ] {
            assert_eq!(size(bad), Err(QuantityError::Size), "{bad}");
        }
        for bad in ["", "4", "10Gbit", "fast/s", "/s"] {
            assert_eq!(rate(bad), Err(QuantityError::Rate), "{bad}");
        }
        for bad in ["0GiB", "1KiB", "17TiB", "999999999999999TiB"] {
            assert_eq!(size(bad), Err(QuantityError::Range), "{bad}");
        }
    }
}
