//! Reproducible numbers from a seed. A crate's generator may change with its version, so
//! this one is written out.

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, every seed good.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence for one of many attempts under a seed.
    pub const fn of(seed: u64, number: u64) -> Self {
        Self(mix(seed.wrapping_add(mix(number.wrapping_add(GOLDEN)))))
    }

    /// The next number; all 64 bits are random.
    pub const fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `end`, which must be above zero. The bias of the remainder is below
    /// one in 2^20 for every range used here.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    /// A number from `least` to `most`, both included, uniformly distributed.
    pub const fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least).saturating_add(1))
    }

    /// A number from `least` to `most`, with every octave equally likely: small numbers are
    /// as frequent as large ones. `least` must be above zero.
    pub const fn scaled(&mut self, least: u64, most: u64) -> u64 {
        let octave = self.within(least.ilog2() as u64, most.ilog2() as u64);
        let start = 1 << octave;
        let value = start + self.below(start);
        if value < least {
            least
        } else if value > most {
            most
        } else {
            value
        }
    }

    /// Whether an event with a probability of `percent` happens.
    pub const fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the choices.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The number at position `place` in a field of random numbers.
pub const fn at_place(seed: u64, place: u64) -> u64 {
    mix(seed ^ mix(place.wrapping_add(GOLDEN)))
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
