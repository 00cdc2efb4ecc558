//! The bandwidth cap of a migration while its guest runs, as an operator writes it: a
//! rate, or no cap.

use std::fmt;
use std::str::FromStr;

use lull_core::units::{PAGE_SIZE, PageRate};

use crate::fmt::Bytes;
use crate::optional::{self, NONE};
use crate::quantity::Rate;

/// A bandwidth cap, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth(pub Option<PageRate>);

impl Bandwidth {
    /// The cap in bytes a second; 0 means no cap.
    pub fn bytes(self) -> u64 {
        self.0.map_or(0, |cap| cap.bytes().0)
    }

    /// The inverse of [`bytes`](Self::bytes). Never less than one page a second, the
    /// lowest rate that can be enforced.
    pub fn from_bytes(bytes: u64) -> Self {
        Self((bytes > 0).then(|| PageRate((bytes / PAGE_SIZE).max(1))))
    }
}

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rate = optional::parse(text)?;
        Ok(Self(rate.map(|rate: Rate| PageRate(rate.pages))))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes() {
            0 => f.write_str(NONE),
            bytes => write!(f, "{}/s", Bytes(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_or_none_there_and_back() {
        let rate: Bandwidth = "10MiB/s".parse().unwrap();
        assert_eq!(rate, Bandwidth(Some(PageRate(2_560))));
        assert_eq!(Bandwidth::from_bytes(rate.bytes()), rate);
        assert_eq!(rate.to_string(), "10.0 MiB/s");
        let none: Bandwidth = "none".parse().unwrap();
        assert_eq!(Bandwidth::from_bytes(none.bytes()), none);
        assert_eq!(none.to_string(), "none");
        assert_eq!(Bandwidth::from_bytes(1), Bandwidth(Some(PageRate(1))));
        for bad in ["", "10", "None", "0MiB/s", "fast"] {
            assert!(bad.parse::<Bandwidth>().is_err(), "{bad}");
        }
    }
}
