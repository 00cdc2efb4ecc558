//! The number of connections of a fast landing, as it is written: `4`.

use std::fmt;
use std::str::FromStr;
use std::thread::available_parallelism;

/// How many connections carry the guest, from 1 to [`Self::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections(u8);

impl Connections {
    /// The largest number that may be asked for.
    pub const MAX: u8 = 8;

    /// The first connection alone.
    pub const ONE: Self = Self(1);

    /// The largest number where none is set.
    const UNLESS_SET: u8 = 4;

    /// How many connections these are.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// One for each processor of this host that is online, within bounds. More would not
/// encrypt faster.
impl Default for Connections {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self(u8::try_from(processors).map_or(Self::UNLESS_SET, |it| it.clamp(1, Self::UNLESS_SET)))
    }
}

impl FromStr for Connections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_plain);
        let number = number.filter(|number| (1..=Self::MAX).contains(number));
        number
            .map(Self)
            .ok_or_else(|| format!("is no number from 1 to {}", Self::MAX))
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_within_bounds() {
        for (text, number) in [("1", 1), ("4", 4), ("8", 8)] {
            let connections: Connections = text.parse().unwrap();
            assert_eq!(connections.get(), number);
            assert_eq!(connections.to_string(), text);
        }
        for bad in ["", "0", "9", "-1", "+4", "4.5", "256", "none", " 4"] {
            let said = bad.parse::<Connections>().unwrap_err();
            assert_eq!(said, "is no number from 1 to 8", "{bad}");
        }
        assert!((1..=4).contains(&Connections::default().get()));
    }
}
