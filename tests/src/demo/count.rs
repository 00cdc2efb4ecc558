//! Counts with grouped digits: `5,554,370`.

use std::fmt;

/// A count that is displayed with its thousands grouped.
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1_000, self.0 % 1_000) {
            (0, rest) => write!(f, "{rest}"),
            (thousands, rest) => write!(f, "{},{rest:03}", Self(thousands)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped_and_zeros_kept() {
        let shown = [7, 1_000, 12_034, 5_554_370].map(|n| Count(n).to_string());
        assert_eq!(shown, ["7", "1,000", "12,034", "5,554,370"]);
    }
}
