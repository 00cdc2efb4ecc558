//! Units in their types: a number without one does not leave this module.

/// A point in time or a span, in microseconds, on the clock of whoever drives
/// the state machine (in a migration: dom0's monotonic clock, zero when the
/// attempt starts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Micros(pub u64);

impl Micros {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// Longer than any migration.
    pub const MAX: Self = Self(u64::MAX);

    /// `ms` milliseconds; saturates.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// Whole milliseconds, rounded up: a report never shows less than was used.
    pub const fn as_millis_ceil(self) -> u64 {
        self.0.div_ceil(1_000)
    }

    /// The sum; saturates.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// Pages a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PageRate(pub u64);

/// Bytes of guest memory in a page (`XC_PAGE_SIZE`; x86).
pub const PAGE_SIZE: u64 = 4096;

/// The guest's own idea of a frame number: what the dirty bitmap is indexed by
/// and what the stream carries. For a PVH guest it equals the gfn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Pfn(pub u64);
