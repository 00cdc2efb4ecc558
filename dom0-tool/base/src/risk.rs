//! The risk that an operator accepts, as it is written: `5%`.

use std::fmt;
use std::str::FromStr;

use lull_core::limits;

/// The share of pauses that the estimate may get wrong; see [`limits::Risk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Risk(pub limits::Risk);

impl Risk {
    /// Converts tenths of a per cent. Returns `None` above one half.
    pub fn per_mille(share: u64) -> Option<Self> {
        limits::Risk::per_mille(u16::try_from(share).ok()?).map(Self)
    }
}

impl FromStr for Risk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "is no share from 0% to 50%, to a tenth: `5%`".to_owned();
        let number = text.trim().strip_suffix('%').ok_or_else(bad)?.trim_end();
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(tenths) || tenths.len() > 1 || whole.len() > 3 {
            return Err(bad());
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        Self::per_mille(number(whole)? * 10 + number(tenths)?).ok_or_else(bad)
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = self.0.get();
        match share % 10 {
            0 => write!(f, "{}%", share / 10),
            tenths => write!(f, "{}.{tenths}%", share / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_to_a_tenth_of_a_per_cent() {
        let share = |text: &str| text.parse::<Risk>().map(|risk| risk.0.get());
        for (text, expected) in [
            ("5%", 50),
            ("0.5%", 5),
            ("12.5 %", 125),
            ("0%", 0),
            ("50%", 500),
        ] {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for bad in [
            "", "5", "%", "50.1%", "100%", "-1%", "1.25%", "1.%", ".5%", "five%", "none",
        ] {
            assert!(share(bad).is_err(), "{bad}");
        }
        assert_eq!(Risk::default().to_string(), "5%");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_understood(share in 0..=500_u64) {
            let risk = Risk::per_mille(share).unwrap();
            prop_assert_eq!(risk.to_string().parse(), Ok(risk));
        }

        #[test]
        fn no_text_is_a_surprise(text in "\\PC{0,12}") {
            let _ = text.parse::<Risk>();
        }
    }
}
