//! A set of small numbers, one bit each.

/// A set of numbers below a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitSet {
    words: Vec<u64>,
    count: u64,
}

impl BitSet {
    /// An empty set of numbers below `bound`.
    pub fn below(bound: u64) -> Self {
        let words = usize::try_from(bound.div_ceil(64)).unwrap_or(0);
        Self {
            words: vec![0; words],
            count: 0,
        }
    }

    /// Adds a number. One beyond the bound, rounded up to a multiple of 64, is ignored.
    pub fn insert(&mut self, number: u64) {
        let (word, bit) = self.word(number);
        if let Some(word) = word.filter(|word| **word & bit == 0) {
            *word |= bit;
            self.count += 1;
        }
    }

    /// Removes a number, if it is there.
    pub fn remove(&mut self, number: u64) {
        let (word, bit) = self.word(number);
        if let Some(word) = word.filter(|word| **word & bit != 0) {
            *word &= !bit;
            self.count -= 1;
        }
    }

    /// Whether a number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The lowest number in the set. An empty set is known to be empty without a search.
    pub fn first(&self) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let mut words = self.words.iter().zip((0..).step_by(64));
        let (word, base) = words.find(|(word, _)| **word != 0)?;
        Some(base + u64::from(word.trailing_zeros()))
    }

    fn word(&mut self, number: u64) -> (Option<&mut u64>, u64) {
        let (word, bit) = place(number);
        (self.words.get_mut(word), bit)
    }
}

/// The word that holds a number, and the number's bit in it.
fn place(number: u64) -> (usize, u64) {
    let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
    (word, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_there_until_it_is_removed() {
        let mut set = BitSet::below(200);
        assert_eq!(set.first(), None);
        for number in [199, 63, 64, 63, 0] {
            set.insert(number);
            assert!(set.contains(number));
        }
        assert!(!set.contains(1) && !set.contains(200) && !set.contains(u64::MAX));
        for number in [0, 0, 63, 64, 199] {
            set.remove(number);
            assert!(!set.contains(number));
            let left = match number {
                0 => Some(63),
                63 => Some(64),
                64 => Some(199),
                _ => None,
            };
            assert_eq!(set.first(), left);
        }
        assert_eq!(set, BitSet::below(200));
    }

    #[test]
    fn numbers_beyond_the_bound_are_ignored() {
        let mut set = BitSet::below(64);
        for number in [64, u64::MAX] {
            set.insert(number);
            set.remove(number);
        }
        assert_eq!(set.first(), None);
        BitSet::below(0).insert(0);
    }
}
