//! Frames that the guest has given back, of which the destination has not been told yet.
//!
//! The set takes one bit a frame: 32 MiB for a guest of 1 TiB, even if it gives back nearly
//! all its memory. The caller of [`Going::take`] bounds how much waits to be sent.

/// The set of those frames.
#[derive(Debug)]
pub struct Going {
    words: Vec<u64>,
    /// All words before this index are zero.
    from: usize,
}

impl Going {
    /// An empty set for a guest with `guest_pfns` frames.
    pub fn none(guest_pfns: u64) -> Self {
        let words = guest_pfns.div_ceil(64);
        Self {
            words: vec![0; usize::try_from(words).unwrap_or(0)],
            from: 0,
        }
    }

    /// The frames present `now` that the destination lacks. Either it has no page there, or
    /// the frame has come back before the destination was told that it had gone.
    pub fn gained(&self, now: &[u64], there: &[u64]) -> Vec<u64> {
        let pairs = now.iter().zip(there).zip(&self.words);
        pairs
            .map(|((now, there), going)| now & (!there | going))
            .collect()
    }

    /// Adds the frames that the destination has and that are not present `now`.
    pub fn list(&mut self, now: &[u64], there: &[u64]) {
        for ((going, now), there) in self.words.iter_mut().zip(now).zip(there) {
            *going = (*going | there) & !now;
        }
        self.from = 0;
    }

    /// Removes a frame, because its page is sent to the destination after all.
    pub fn came_back(&mut self, gfn: u64) {
        let word = usize::try_from(gfn / 64).unwrap_or(usize::MAX);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !(1 << (gfn % 64));
        }
    }

    /// Whether the destination has been told of all of them.
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
    fn what_has_gone_is_told_in_order_and_in_parts() {
        let mut going = Going::none(200);
        let there = [u64::MAX, u64::MAX, 0b111, 0];
        let now = [!(1 << 63), !0b1, 0, 0];
        assert!(going.is_none());
        going.list(&now, &there);
        assert!(!going.is_none());
        assert_eq!(going.take(2), [63, 64]);
        assert_eq!(going.take(2), [128, 129]);
        assert!(!going.is_none());
        assert_eq!(going.take(2), [130]);
        assert!(going.is_none() && going.take(2).is_empty());
    }

    #[test]
    fn what_comes_back_before_that_is_sent_and_not_told_gone() {
        let mut going = Going::none(64);
        let there = [0b111];
        going.list(&[0b001], &there);
        // Frame 1 has come back, and the destination still has its old page.
        assert_eq!(going.gained(&[0b011], &there), [0b010]);
        going.list(&[0b011], &there);
        assert_eq!(going.take(9), [2]);
        going.list(&[0], &there);
        going.came_back(1);
        assert_eq!(going.take(9), [0, 2]);
    }

    #[test]
    fn none_costs_little_and_no_number_is_a_surprise() {
        let mut going = Going::none(0);
        going.came_back(u64::MAX);
        assert!(going.is_none());
        assert!(going.take(1).is_empty());
    }
}
