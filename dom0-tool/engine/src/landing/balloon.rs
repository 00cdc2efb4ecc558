//! Tracks how many pages the guest has, as far as the engine has looked.
//!
//! Xen's dirty log does not show that a frame has gone. Nor does it show, before the next
//! CLEAN, the writes to a frame that has just been added. A changed number of pages reveals
//! both.

/// The guest's page counts since its frames were last listed. All fields are in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balloon {
    /// The count when the frames were last listed.
    listed: u64,
    /// The lowest count seen since then. `most` is the highest.
    fewest: u64,
    most: u64,
    now: u64,
}

/// How the guest's frames may have changed since they were listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The count has not changed.
    None,
    /// Frames were only removed, or only added.
    OneWay,
    /// Frames were both removed and added, so any frame may hold another page by now.
    BothWays,
}

impl Balloon {
    /// Starts from a fresh list of the frames, which holds `pages` pages.
    pub const fn listed(pages: u64) -> Self {
        Self {
            listed: pages,
            fewest: pages,
            most: pages,
            now: pages,
        }
    }

    /// Records that the guest has `pages` pages now.
    pub fn see(&mut self, pages: u64) {
        self.now = pages;
        self.fewest = self.fewest.min(pages);
        self.most = self.most.max(pages);
    }

    /// The change seen since the frames were listed. A change that is reversed between two
    /// looks goes unseen.
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

    /// Records that the frames have just been listed again.
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
