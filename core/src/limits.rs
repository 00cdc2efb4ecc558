//! The operator's limits. They are parsed once and are never zero.

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

    /// The limit in microseconds.
    pub const fn micros(self) -> Micros {
        self.0
    }

    /// The limit in milliseconds; see [`Micros::as_limit_millis`].
    pub const fn as_millis(self) -> u64 {
        self.0.as_limit_millis()
    }
}

/// The longest time from the start of the attempt (zero on the machine's
/// clock) until the guest is suspended (`--timeout`). Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Timeout(Micros);

impl Timeout {
    /// `None` for zero: no attempt can suspend a guest in no time.
    pub const fn new(timeout: Micros) -> Option<Self> {
        match timeout {
            Micros::ZERO => None,
            timeout => Some(Self(timeout)),
        }
    }

    /// The timeout in microseconds.
    pub const fn micros(self) -> Micros {
        self.0
    }

    /// The timeout in milliseconds; see [`Micros::as_limit_millis`].
    pub const fn as_millis(self) -> u64 {
        self.0.as_limit_millis()
    }
}

/// The limits of an attempt; `None` where the operator set no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// The longest pause allowed.
    pub max_suspend: Option<DowntimeLimit>,
    /// The longest time allowed until the guest is suspended.
    pub timeout: Option<Timeout>,
}

/// The share of pauses that the estimate may get wrong, per mille. Such a pause is given up
/// within the limit and the guest runs on at the source; the limit itself is never
/// exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Risk(u16);

impl Risk {
    /// The default: 5 %.
    pub const DEFAULT: Self = Self(50);
    /// The largest share: half of all pauses. Beyond that, more pauses would be given up
    /// than succeed.
    pub const MAX: u16 = 500;

    /// `None` if `share` is above [`MAX`](Self::MAX).
    pub const fn per_mille(share: u16) -> Option<Self> {
        match share {
            0..=Self::MAX => Some(Self(share)),
            _ => None,
        }
    }

    /// The share, per mille.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number of `count` items that may be wrong, to the nearest whole.
    pub const fn share_of(self, count: u64) -> u64 {
        count.saturating_mul(self.0 as u64).saturating_add(500) / 1_000
    }
}

impl Default for Risk {
    fn default() -> Self {
        Self::DEFAULT
    }
}
