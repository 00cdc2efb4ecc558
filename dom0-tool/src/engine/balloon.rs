//! How many pages the guest has, as far as that was seen.
//!
//! Xen's dirty log shows neither a frame that has gone nor, before the next CLEAN,
//! what is written to one that has come. The number of pages tells that some have.

/// See the module. Pages, each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balloon {
    /// When its frames were listed last.
    listed: u64,
    /// The fewest and the most since.
    fewest: u64,
    most: u64,
    now: u64,
}

/// What may have become of the frames since they were listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Some have gone, or some have come.
    OneWay,
    /// Both: any frame may be another by now.
    BothWays,
}

impl Balloon {
    /// The frames are listed; there are so many.
    pub const fn listed(pages: u64) -> Self {
        Self {
            listed: pages,
            fewest: pages,
            most: pages,
            now: pages,
        }
    }

    /// There are so many now.
    pub fn see(&mut self, pages: u64) {
        self.now = pages;
        self.fewest = self.fewest.min(pages);
        self.most = self.most.max(pages);
    }

    /// What was seen since. A change and its opposite between two looks are not.
    pub fn change(self) -> Change {
        let (lowest, highest) = (self.listed.min(self.now), self.listed.max(self.now));
        if (self.fewest, self.most) != (lowest, highest) {
            Change::BothWays
        } else if lowest == highest {
            Change::None
        } else {
            Change::OneWay
        }
    }

    /// The frames are listed anew.
    pub fn list(&mut self) {
        *self = Self::listed(self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(counts: &[u64]) -> Change {
        let mut balloon = Balloon::listed(100);
        for count in counts {
            balloon.see(*count);
        }
        balloon.change()
    }

    #[test]
    fn one_way_is_told_from_there_and_back() {
        for same in [&[][..], &[100], &[100, 100]] {
            assert_eq!(seen(same), Change::None);
        }
        for one_way in [&[90][..], &[90, 80], &[110], &[100, 110, 120]] {
            assert_eq!(seen(one_way), Change::OneWay);
        }
        for both in [
            &[90, 100][..],
            &[110, 100],
            &[80, 90],
            &[120, 110],
            &[90, 110],
            &[110, 90],
        ] {
            assert_eq!(seen(both), Change::BothWays);
        }
    }

    #[test]
    fn after_a_list_the_past_does_not_count() {
        let mut balloon = Balloon::listed(100);
        balloon.see(90);
        balloon.see(95);
        balloon.list();
        assert_eq!(balloon, Balloon::listed(95));
    }
}
