//! What the operator allows. Parsed once, never zero.

use crate::units::Micros;

/// The longest pause the operator allows (`--max-suspend-time`), from the
/// moment the guest stops at the source to its first instruction at the
/// destination, or back at the source. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DowntimeLimit(Micros);

impl DowntimeLimit {
    /// `None` for zero: no guest can be moved without a pause.
    pub const fn new(limit: Micros) -> Option<Self> {
        match limit {
            Micros::ZERO => None,
            limit => Some(Self(limit)),
        }
    }

    /// The limit.
    pub const fn micros(self) -> Micros {
        self.0
    }
}

/// The longest time from the start of the attempt (zero on the machine's
/// clock) until the guest is suspended (`--timeout`). Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Timeout(Micros);

impl Timeout {
    /// `None` for zero: nothing can happen in no time.
    pub const fn new(timeout: Micros) -> Option<Self> {
        match timeout {
            Micros::ZERO => None,
            timeout => Some(Self(timeout)),
        }
    }

    /// The time.
    pub const fn micros(self) -> Micros {
        self.0
    }
}

/// What the operator allows; `None` where nothing was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// The longest pause.
    pub max_suspend: Option<DowntimeLimit>,
    /// The longest time until the pause.
    pub timeout: Option<Timeout>,
}
