//! Whether there is time for one more.

use std::fmt;

use anyhow::{Context, Result};

/// So much is taken to have gone as expected before anything has: one slow
/// scenario says little about a machine.
const FIRST_GUESS: f64 = 60.0;

/// A run's time, and how far what has been done got with it.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Seconds; none if it may take as long as it takes.
    seconds: Option<f64>,
    /// What all that is done was expected to take, and did.
    expected: f64,
    taken: f64,
}

impl Budget {
    /// `wanted` seconds, or `usual` ones if nobody has said.
    ///
    /// # Errors
    /// When `wanted` is no number of seconds.
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

    /// All the time there is.
    pub const fn unlimited() -> Self {
        Self {
            seconds: None,
            expected: 0.0,
            taken: 0.0,
        }
    }

    /// Takes note of what something took that was expected to take `expected` seconds.
    pub fn done(&mut self, expected: u32, taken: f64) {
        self.expected += f64::from(expected);
        self.taken += taken;
    }

    /// How many times longer than expected things take here.
    pub fn slowness(&self) -> f64 {
        (self.taken + FIRST_GUESS) / (self.expected + FIRST_GUESS)
    }

    /// Whether something is over in time that is expected to take `expected`
    /// seconds, `used` seconds after the start; else why not.
    ///
    /// # Errors
    /// Says why not.
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

/// Why there is no time for something.
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
        // What is short still fits.
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
