//! Durations as an operator writes them, parsed once into a type that only holds valid
//! values.
//!
//! With units: `250ms`, `2s`, `5min`, `1m30s` (humantime's). A bare number is in
//! seconds and may have a decimal part: `2`, `0.5`. A duration is longer than zero, a
//! whole number of microseconds, and at most [`Span::MAX`].

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use lull_core::units::Micros;
use thiserror::Error;

use crate::fmt::Short;
use crate::optional;

/// A span of time longer than zero, in whole microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    micros: NonZeroU64,
}

impl Span {
    /// The longest span: no limit needs more than a month. The bound also catches `5M`,
    /// which humantime reads as five months although the operator meant minutes.
    pub const MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    /// The span in microseconds.
    pub const fn as_micros(self) -> u64 {
        self.micros.get()
    }

    /// The span in milliseconds; see [`Micros::as_limit_millis`].
    pub const fn as_millis(self) -> u64 {
        Micros(self.micros.get()).as_limit_millis()
    }

    /// The span as a standard library [`Duration`].
    pub const fn as_duration(self) -> Duration {
        Duration::from_micros(self.micros.get())
    }

    /// A span of this many seconds, for constants.
    ///
    /// # Panics
    /// Panics if `seconds` is zero.
    pub const fn seconds(seconds: u16) -> Self {
        let micros = NonZeroU64::new(seconds as u64 * 1_000_000);
        Self {
            micros: micros.expect("longer than zero"),
        }
    }

    /// A span of this many milliseconds, as lull reports limits: rounded down. One that was
    /// shorter than a millisecond becomes a microsecond, the shortest span; one beyond
    /// [`MAX`](Self::MAX) becomes `MAX`. A limit is therefore never raised.
    pub fn from_limit_millis(millis: u64) -> Self {
        let longest = u64::try_from(Self::MAX.as_micros()).unwrap_or(u64::MAX);
        let micros = millis.saturating_mul(1_000).min(longest);
        Self {
            micros: NonZeroU64::new(micros).unwrap_or(NonZeroU64::MIN),
        }
    }

    fn new(given: &str, span: Duration) -> Result<Self, SpanError> {
        let error = |problem| SpanError::new(given, problem);
        if span > Self::MAX {
            return Err(error(Problem::TooLong));
        }
        if !span.subsec_nanos().is_multiple_of(1_000) {
            return Err(error(Problem::TooFine));
        }
        let micros = u64::try_from(span.as_micros()).map_err(|_| error(Problem::TooLong))?;
        let micros = NonZeroU64::new(micros).ok_or_else(|| error(Problem::Zero))?;
        Ok(Self { micros })
    }
}

/// Always shows the unit, even if none was given: `2` comes back as `2s`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.as_duration()).fmt(f)
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(given: &str) -> Result<Self, SpanError> {
        let error = |problem| SpanError::new(given, problem);
        let text = given.trim();
        let span = match text.as_bytes() {
            [] => return Err(error(Problem::Empty)),
            [b'-', ..] => return Err(error(Problem::Negative)),
            digits if digits.iter().all(|&b| b.is_ascii_digit() || b == b'.') => {
                bare_seconds(text).map_err(error)?
            }
            _ => humantime::parse_duration(text).map_err(|e| error(Problem::from(e)))?,
        };
        Self::new(given, span)
    }
}

/// A time limit, or the explicit absence of one, which overrides a wider rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit(pub Option<Span>);

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        optional::parse(text).map(Self)
    }
}

/// Parses `2` or `0.5` as seconds, to the microsecond.
fn bare_seconds(text: &str) -> Result<Duration, Problem> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(Problem::Junk);
    }
    // Trailing zeros do not matter; any digit after the sixth is finer than a
    // microsecond.
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 6 {
        return Err(Problem::TooFine);
    }
    // The text is all digits, so parsing fails only if the number is too large.
    let whole: u64 = whole.parse().map_err(|_| Problem::TooLong)?;
    let fraction: u64 = format!("{fraction:0<6}")
        .parse()
        .map_err(|_| Problem::Junk)?;
    Ok(Duration::from_secs(whole) + Duration::from_micros(fraction))
}

/// Why a duration was not understood. The message shows what was given, what is wrong
/// with it, and valid examples.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{given}` {problem}; for example `250ms`, `2s`, `1m30s`, or `2` for two seconds")]
pub struct SpanError {
    given: String,
    problem: Problem,
}

impl SpanError {
    fn new(given: &str, problem: Problem) -> Self {
        // Text pasted by mistake must not fill the terminal.
        let given = Short(given).to_string();
        Self { given, problem }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Problem {
    #[error("is empty")]
    Empty,
    #[error("is not a duration")]
    Junk,
    #[error("is zero: to migrate without this limit, leave the option out")]
    Zero,
    #[error("is negative")]
    Negative,
    #[error("is finer than a microsecond")]
    TooFine,
    #[error("is longer than 30 days (note that `M` is months: write `min` for minutes)")]
    TooLong,
}

impl From<humantime::DurationError> for Problem {
    fn from(error: humantime::DurationError) -> Self {
        match error {
            humantime::DurationError::NumberOverflow => Self::TooLong,
            humantime::DurationError::Empty => Self::Empty,
            _ => Self::Junk,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> u64 {
        text.parse::<Span>().unwrap().as_micros()
    }

    fn complaint(text: &str) -> String {
        text.parse::<Span>().unwrap_err().to_string()
    }

    #[test]
    fn units_and_bare_seconds_are_understood() {
        assert_eq!(micros("250ms"), 250_000);
        assert_eq!(micros("2s"), 2_000_000);
        assert_eq!(micros("5min"), 300_000_000);
        assert_eq!(micros("1m30s"), 90_000_000);
        assert_eq!(micros("2"), 2_000_000);
        assert_eq!(micros("0.5"), 500_000);
        assert_eq!(micros("1.50"), 1_500_000);
        assert_eq!(micros("0.000001"), 1);
        assert_eq!(micros(" 7 "), 7_000_000);
    }

    #[test]
    fn a_bare_number_is_echoed_with_its_unit() {
        assert_eq!("2".parse::<Span>().unwrap().to_string(), "2s");
        assert_eq!("0.5".parse::<Span>().unwrap().to_string(), "500ms");
        assert_eq!("90".parse::<Span>().unwrap().to_string(), "1m 30s");
    }

    #[test]
    fn what_cannot_be_a_limit_is_refused_with_a_reason() {
        for (given, reason) in [
            ("", "is empty"),
            ("   ", "is empty"),
            ("0", "is zero"),
            ("0.0", "is zero"),
            ("0ms", "is zero"),
            ("-1", "is negative"),
            ("-250ms", "is negative"),
            ("soon", "is not a duration"),
            ("1.", "is not a duration"),
            (".5", "is not a duration"),
            (".", "is not a duration"),
            ("1.2.3", "is not a duration"),
            ("250 bananas", "is not a duration"),
            ("1e9", "is not a duration"),
            ("٢", "is not a duration"),
            ("1500ns", "finer than a microsecond"),
            ("0.0000005", "finer than a microsecond"),
            ("5M", "longer than 30 days"),
            ("18446744073709551615", "longer than 30 days"),
            ("99999999999999999999999", "longer than 30 days"),
            ("99999999999999999999999s", "longer than 30 days"),
        ] {
            let said = complaint(given);
            assert!(said.contains(reason), "{given}: {said}");
            assert!(said.starts_with(&format!("`{given}`")), "{said}");
            assert!(said.contains("`250ms`"), "{said}");
        }
    }

    #[test]
    fn a_reported_limit_comes_back_and_is_never_raised() {
        for (millis, micros) in [
            (0, 1),
            (1, 1_000),
            (500, 500_000),
            (u64::MAX, 30 * 24 * 60 * 60 * 1_000_000),
        ] {
            assert_eq!(Span::from_limit_millis(millis).as_micros(), micros);
        }
    }

    #[test]
    fn a_long_slip_is_cut_short() {
        assert!(complaint(&"x".repeat(10_000)).len() < 200);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<Span>();
        }

        #[test]
        fn nothing_that_looks_like_a_duration_panics(text in "[-0-9. a-zµM]{0,40}") {
            let _ = text.parse::<Span>();
        }

        #[test]
        fn what_is_shown_parses_back_to_the_same(micros in 1..=Span::MAX.as_micros() as u64) {
            let span = Span::new("", Duration::from_micros(micros)).unwrap();
            prop_assert_eq!(span.as_micros(), micros);
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }

        #[test]
        fn bare_seconds_equal_the_same_with_a_unit(seconds in 1u64..2_592_000, millis in 0u64..1_000) {
            let bare = format!("{seconds}.{millis:03}").parse::<Span>();
            let united = format!("{seconds}s {millis}ms").parse::<Span>();
            prop_assert_eq!(bare, united);
        }
    }
}
