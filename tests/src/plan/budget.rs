//! Decides whether there is time for one more scenario.

use std::fmt;

use anyhow::{Context, Result};

/// The number of seconds that are assumed to have gone as expected at the start of a run,
/// because one slow scenario says little about a machine.
const FIRST_GUESS: f64 = 60.0;

/// The time of a run, and the ratio of the time taken so far to the expected time.
#[derive(Debug, Clone)]
pub struct Budget {
    /// The budget in seconds; `None` for no limit.
    seconds: Option<f64>,
    /// The expected and the actual time of everything that is done, in seconds.
    expected: f64,
    taken: f64,
}

impl Budget {
    /// Returns a budget of `wanted` seconds, or of `usual` ones if `wanted` is not given.
    ///
    /// # Errors
    /// When `wanted` is not a number of seconds.
    pub fn new(wanted: Option<&str>, usual: u32) -> Result<Self> {
        let seconds = match wanted {
            Some(wanted) => wanted
                .parse()
                .with_context(|| format!("{wanted:?} is no number of seconds"))?,
            None => usual,
        };
        Ok(Self {
            seconds: Some(f64::from(seconds)),
            ..Self::unlimited()
        })
    }

    /// Returns a budget without a limit.
    pub const fn unlimited() -> Self {
        Self {
            seconds: None,
            expected: 0.0,
            taken: 0.0,
        }
    }

    /// Records that a scenario took `taken` seconds, and was expected to take `expected`.
    pub fn done(&mut self, expected: u32, taken: f64) {
        self.expected += f64::from(expected);
        self.taken += taken;
    }

    /// Returns the ratio of actual to expected times on this machine.
    pub fn slowness(&self) -> f64 {
        (self.taken + FIRST_GUESS) / (self.expected + FIRST_GUESS)
    }

    /// Checks whether a scenario that is expected to take `expected` seconds ends within
    /// the budget if it starts `used` seconds after the start of the run.
    ///
    /// # Errors
    /// With the reason, when it does not.
    pub fn has_room(&self, used: f64, expected: u32) -> Result<(), Beyond> {
        let takes = f64::from(expected) * self.slowness();
        match self.seconds {
            Some(seconds) if used + takes > seconds => Err(Beyond {
                takes,
                left: (seconds - used).max(0.0),
                seconds,
            }),
            _ => Ok(()),
        }
    }
}

/// The reason why there is no time for a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beyond {
    takes: f64,
    left: f64,
    seconds: f64,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "takes some {:.0} s, and {:.0} s are left of {:.0}",
            self.takes, self.left, self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sets_it() {
        let room = |wanted, used| Budget::new(wanted, 100).unwrap().has_room(used, 10);
        assert!(room(None, 90.0).is_ok() && room(None, 91.0).is_err());
        assert!(room(Some("50"), 40.0).is_ok() && room(Some("50"), 41.0).is_err());
        assert!(room(Some("0"), 0.0).is_err());
        assert!(Budget::new(Some("-5"), 100).is_err());
        assert!(Budget::new(Some("40min"), 100).is_err());
        assert!(Budget::unlimited().has_room(1e9, 1_000).is_ok());
    }

    #[test]
    fn a_slow_machine_gets_less_done() {
        let mut budget = Budget::new(None, 1_000).unwrap();
        assert!(budget.has_room(400.0, 600).is_ok());
        budget.done(100, 420.0);
        assert_eq!(budget.slowness(), 3.0);
        assert!(budget.has_room(400.0, 200).is_ok());
        let beyond = budget.has_room(401.0, 200).unwrap_err();
        assert_eq!(
            beyond.to_string(),
            "takes some 600 s, and 599 s are left of 1000"
        );
        // A short scenario still fits.
        assert!(budget.has_room(401.0, 10).is_ok());
    }

    #[test]
    fn one_slow_scenario_says_little() {
        let mut budget = Budget::unlimited();
        budget.done(2, 20.0);
        assert!(budget.slowness() < 1.5);
    }

    #[test]
    fn nothing_is_left_beyond_the_end() {
        let budget = Budget::new(None, 100).unwrap();
        let beyond = budget.has_room(130.0, 5).unwrap_err().to_string();
        assert!(beyond.contains(" 0 s are left"), "{beyond}");
    }
}
