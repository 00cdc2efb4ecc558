//! Figures for people: with units, thousands grouped, and no more digits than are
//! meaningful.

use std::fmt;

/// A count with its thousands grouped: `12,345`.
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut grouped = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

/// A text cut to its first 40 characters, which is enough to recognise it.
pub struct Short<'t>(pub &'t str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

/// A number of bytes, shown in KiB, MiB or GiB with one decimal.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..=1_048_575 => (1 << 10, "KiB"),
            1_048_576..=1_073_741_823 => (1 << 20, "MiB"),
            _ => (1 << 30, "GiB"),
        };
        let tenths = u128::from(self.0) * 10 / unit;
        f.pad(&format!("{}.{} {name}", tenths / 10, tenths % 10))
    }
}

/// A time in milliseconds: `480 ms`, `3.4 s`, `2 min 5 s`.
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        let text = match ms {
            0..=9_999 => format!("{} ms", Count(ms)),
            10_000..=119_999 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
            _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        };
        f.pad(&text)
    }
}

/// A limit in microseconds: like [`Millis`], but with all its digits where it is not a
/// whole number of milliseconds: `1.5 ms`.
pub struct Limit(pub u64);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_multiple_of(1_000) {
            true => Millis(self.0 / 1_000).fmt(f),
            false => f.pad(&exact(self.0)),
        }
    }
}

/// A time, rounded up, and the limit beside it, both in microseconds: as [`Millis`] where
/// that shows which one is longer, else with all their digits.
pub fn beside_limit(time_us: u64, limit_us: u64) -> (String, String) {
    let time = Millis(time_us.div_ceil(1_000)).to_string();
    let limit = Millis(limit_us / 1_000).to_string();
    let whole = limit_us.is_multiple_of(1_000);
    match whole && (time_us <= limit_us || time != limit) {
        true => (time, limit),
        false => (exact(time_us), exact(limit_us)),
    }
}

/// `1.5 ms`, `12,345 ms`.
fn exact(us: u64) -> String {
    let thousandths = format!(".{:03}", us % 1_000);
    let fraction = thousandths.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction} ms", Count(us / 1_000))
}

/// A time in milliseconds, shown in whole seconds: `0 s`, `84 s`, `2 min 5 s`. Used for
/// counters that are updated on the screen.
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            seconds @ 0..=119 => f.pad(&format!("{seconds} s")),
            _ => Millis(self.0).fmt(f),
        }
    }
}

/// The age of something, in seconds, shown in the single most useful unit: `now`,
/// `40 s ago`, `3 days ago`.
pub struct Ago(pub u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: u64 = 24 * 60 * 60;
        let text = match self.0 {
            0 => "now".to_owned(),
            seconds @ ..120 => format!("{seconds} s ago"),
            seconds @ ..7_200 => format!("{} min ago", seconds / 60),
            seconds if seconds < 2 * DAY => format!("{} h ago", seconds / 3_600),
            seconds => format!("{} days ago", seconds / DAY),
        };
        f.pad(&text)
    }
}

/// The value, or a dash when it is not known.
pub fn or_dash<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beside_its_limit_shows_which_one_is_longer() {
        for (time_us, limit_us, shown) in [
            (480_001, 300_000, ("481 ms", "300 ms")),
            (299_001, 300_000, ("300 ms", "300 ms")),
            (1_800, 1_900, ("1.8 ms", "1.9 ms")),
            (2_000, 1_900, ("2 ms", "1.9 ms")),
            (600, 500, ("0.6 ms", "0.5 ms")),
            (12_345_900, 12_345_000, ("12,345.9 ms", "12,345 ms")),
            (125_001_000, 125_000_000, ("125,001 ms", "125,000 ms")),
            (126_000_000, 125_000_000, ("2 min 6 s", "2 min 5 s")),
        ] {
            let (time, limit) = beside_limit(time_us, limit_us);
            assert_eq!((time.as_str(), limit.as_str()), shown);
        }
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(Count(0).to_string(), "0");
        assert_eq!(Count(999).to_string(), "999");
        assert_eq!(Count(1_234_567).to_string(), "1,234,567");
        assert_eq!(Short(&"ü".repeat(40)).to_string(), "ü".repeat(40));
        assert_eq!(Short(&"ü".repeat(41)).to_string(), "ü".repeat(40) + "…");
        assert_eq!(Bytes(512).to_string(), "0.5 KiB");
        assert_eq!(Bytes(3 << 20).to_string(), "3.0 MiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "17179869183.9 GiB");
        assert_eq!(Millis(480).to_string(), "480 ms");
        assert_eq!(Millis(3_355).to_string(), "3,355 ms");
        assert_eq!(Millis(37_700).to_string(), "37.7 s");
        assert_eq!(Millis(125_000).to_string(), "2 min 5 s");
        assert_eq!(Limit(1_500_000).to_string(), "1,500 ms");
        assert_eq!(Limit(1_500).to_string(), "1.5 ms");
        assert_eq!(Limit(1).to_string(), "0.001 ms");
        assert_eq!(Seconds(999).to_string(), "0 s");
        assert_eq!(Seconds(119_999).to_string(), "119 s");
        assert_eq!(Seconds(125_999).to_string(), "2 min 5 s");
        assert_eq!(Ago(0).to_string(), "now");
        assert_eq!(Ago(119).to_string(), "119 s ago");
        assert_eq!(Ago(120).to_string(), "2 min ago");
        assert_eq!(Ago(7_200).to_string(), "2 h ago");
        assert_eq!(Ago(172_800).to_string(), "2 days ago");
        assert_eq!(format!("{:>9}|", Count(1_000)), "    1,000|");
    }
}
