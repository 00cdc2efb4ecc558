//! Units in their types: a number without one does not leave this module.

use core::num::NonZeroU64;

/// A point in time or a span, in microseconds, on the clock of the state machine's driver
/// (in a migration: dom0's monotonic clock, zero when the attempt starts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Micros(pub u64);

impl Micros {
    /// A span of zero.
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

    /// A limit in whole milliseconds, rounded down: it is never shown longer than it is.
    pub const fn as_limit_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The sum of two times; saturates.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// A rate in pages a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PageRate(pub u64);

impl PageRate {
    /// A rate of zero.
    pub const ZERO: Self = Self(0);
    /// The highest rate, above that of any link or guest.
    pub const MAX: Self = Self(u64::MAX);

    /// `pages` in `span`, rounded down: for lower bounds. A span of zero counts as one
    /// microsecond, the resolution of the clock.
    pub const fn floor(pages: u64, span: Micros) -> Self {
        match NonZeroU64::new(span.0) {
            Some(span) => Self(mul_div_floor(pages, MICROS_PER_SECOND, span)),
            None => Self(pages.saturating_mul(MICROS_PER_SECOND.get())),
        }
    }

    /// `pages` in `span`, rounded up: for upper bounds. A span of zero counts
    /// as one microsecond.
    pub const fn ceil(pages: u64, span: Micros) -> Self {
        match NonZeroU64::new(span.0) {
            Some(span) => Self(mul_div_ceil(pages, MICROS_PER_SECOND, span)),
            None => Self(pages.saturating_mul(MICROS_PER_SECOND.get())),
        }
    }

    /// The time that `pages` take at this rate, rounded up. Zero pages take no time; at a
    /// rate of zero any page takes [`Micros::MAX`].
    pub const fn time_for(self, pages: u64) -> Micros {
        match (pages, NonZeroU64::new(self.0)) {
            (0, _) => Micros::ZERO,
            (_, None) => Micros::MAX,
            (_, Some(rate)) => Micros(mul_div_ceil(pages, MICROS_PER_SECOND, rate)),
        }
    }

    /// Pages at this rate in `span`, rounded up; saturates.
    pub const fn pages_in(self, span: Micros) -> u64 {
        match NonZeroU64::new(span.0) {
            Some(span) => mul_div_ceil(self.0, span, MICROS_PER_SECOND),
            None => 0,
        }
    }

    /// The same rate in bytes of guest memory; saturates.
    pub const fn bytes(self) -> ByteRate {
        ByteRate(self.0.saturating_mul(PAGE_SIZE))
    }
}

/// Bytes of guest memory a second (stream headers not included).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ByteRate(pub u64);

/// A lower and an upper bound of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Bounds<T> {
    /// The quantity is at least this.
    pub lower: T,
    /// The quantity is at most this.
    pub upper: T,
}

impl Bounds<PageRate> {
    /// Nothing was measured yet, so any rate is possible.
    pub const UNKNOWN: Self = Self {
        lower: PageRate::ZERO,
        upper: PageRate::MAX,
    };
}

const MICROS_PER_SECOND: NonZeroU64 = NonZeroU64::new(1_000_000).unwrap();

/// `a * b / c`, rounded down. Saturates, also when the product overflows: for every caller
/// the safe result is then the largest value or one it cannot reach (2^64 µs are half a
/// million years, 2^44 pages are 64 PiB).
const fn mul_div_floor(a: u64, b: NonZeroU64, c: NonZeroU64) -> u64 {
    let Some(product) = a.checked_mul(b.get()) else {
        return u64::MAX;
    };
    match product.checked_div(c.get()) {
        Some(quotient) => quotient,
        None => u64::MAX,
    }
}

/// `a * b / c`, rounded up. Saturates like [`mul_div_floor`].
const fn mul_div_ceil(a: u64, b: NonZeroU64, c: NonZeroU64) -> u64 {
    match a.checked_mul(b.get()) {
        Some(product) => product.div_ceil(c.get()),
        None => u64::MAX,
    }
}

/// Bytes of guest memory in a page (`XC_PAGE_SIZE`; x86).
pub const PAGE_SIZE: u64 = 4096;

/// The guest's own frame number: the index into the dirty bitmap and the number in the
/// stream. For a PVH guest it equals the gfn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Pfn(pub u64);
