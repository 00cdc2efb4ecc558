//! Depopulated frames: the guest has given them back, and the destination does not know it yet.
//!
//! The set takes one bit a frame: 32 MiB for a guest of 1 TiB, even if it gives back nearly
//! all its memory. The caller of [`Depopulated::take`] bounds how much waits to be sent.

/// The set of those frames.
#[derive(Debug)]
pub struct Depopulated {
    words: Vec<u64>,
    /// All words before this index are zero.
    from: usize,
}

impl Depopulated {
    /// An empty set for a guest with `guest_pfns` frames.
    pub fn none(guest_pfns: u64) -> Self {
        let words = guest_pfns.div_ceil(64);
        Self {
            words: vec![0; usize::try_from(words).unwrap_or(0)],
            from: 0,
        }
    }

    /// The frames present `now` that the destination lacks. Either it has no page there, or
    /// the guest populated the frame again before its number was sent to the destination.
    pub fn gained(&self, now: &[u64], at_destination: &[u64]) -> Vec<u64> {
        let pairs = now.iter().zip(at_destination).zip(&self.words);
        pairs
            .map(|((now, at_destination), depopulated)| now & (!at_destination | depopulated))
            .collect()
    }

    /// Adds the frames that the destination has and that are not present `now`.
    pub fn list(&mut self, now: &[u64], at_destination: &[u64]) {
        for ((depopulated, now), at_destination) in
            self.words.iter_mut().zip(now).zip(at_destination)
        {
            *depopulated = (*depopulated | at_destination) & !now;
        }
        self.from = 0;
    }

    /// Removes a frame, because its page is sent to the destination after all.
    pub fn populate(&mut self, gfn: u64) {
        let word = usize::try_from(gfn / 64).unwrap_or(usize::MAX);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !(1 << (gfn % 64));
        }
    }

    /// Whether the destination knows of all of them.
    pub fn is_none(&mut self) -> bool {
        while self.words.get(self.from) == Some(&0) {
            self.from += 1;
        }
        self.from >= self.words.len()
    }

    /// Takes up to `most` frames in ascending order. The result is empty when none is left.
    pub fn take(&mut self, most: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Some(word) = self.words.get_mut(self.from) {
            while *word != 0 {
                if taken.len() == most {
                    return taken;
                }
                let bit = word.trailing_zeros();
                *word &= *word - 1;
                taken.push(self.from as u64 * 64 + u64::from(bit));
            }
            self.from += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depopulated_frames_are_taken_in_order_and_in_parts() {
        let mut depopulated = Depopulated::none(200);
        let at_destination = [u64::MAX, u64::MAX, 0b111, 0];
        let now = [!(1 << 63), !0b1, 0, 0];
        assert!(depopulated.is_none());
        depopulated.list(&now, &at_destination);
        assert!(!depopulated.is_none());
        assert_eq!(depopulated.take(2), [63, 64]);
        assert_eq!(depopulated.take(2), [128, 129]);
        assert!(!depopulated.is_none());
        assert_eq!(depopulated.take(2), [130]);
        assert!(depopulated.is_none() && depopulated.take(2).is_empty());
    }

    #[test]
    fn a_frame_populated_again_before_that_is_sent() {
        let mut depopulated = Depopulated::none(64);
        let at_destination = [0b111];
        depopulated.list(&[0b001], &at_destination);
        // Frame 1 has come back, and the destination still has its old page.
        assert_eq!(depopulated.gained(&[0b011], &at_destination), [0b010]);
        depopulated.list(&[0b011], &at_destination);
        assert_eq!(depopulated.take(9), [2]);
        depopulated.list(&[0], &at_destination);
        depopulated.populate(1);
        assert_eq!(depopulated.take(9), [0, 2]);
    }

    #[test]
    fn none_costs_little_and_no_number_is_a_surprise() {
        let mut depopulated = Depopulated::none(0);
        depopulated.populate(u64::MAX);
        assert!(depopulated.is_none());
        assert!(depopulated.take(1).is_empty());
    }
}
