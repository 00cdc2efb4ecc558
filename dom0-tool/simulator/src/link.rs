//! What a link carries over time.

use crate::random::at_place;

/// One page, in millionths of a page: a rate of one page a second carries one millionth in
/// a microsecond.
pub const PAGE: u64 = 1_000_000;

/// A link to the destination, with the sender's buffer in front of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The average rate in pages a second.
    pub rate: u64,
    /// The largest deviation from the average, per mille.
    pub jitter: u64,
    /// The time for which a deviation lasts, in µs. Never zero.
    pub slot: u64,
    /// The seed of the jitter.
    pub seed: u64,
    /// The times at which the link carries less.
    pub dips: Vec<Dip>,
    /// The link's recurring stalls, if it has any.
    pub stalls: Option<Stalls>,
    /// A dip caused by the request to stop, as a worst case; its times count from the
    /// request.
    pub after_request: Option<Dip>,
    /// What the path does once the guest has stopped: dom0 has its processor to itself.
    pub within_pause: WithinPause,
    /// The number of pages that pipes and sockets absorb at once.
    pub buffer: u64,
    /// The round trip with which each round begins, in µs; 0 if the destination does not
    /// answer.
    pub round_trip: u64,
}

/// How the path differs within the pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithinPause {
    /// The time that a page takes, per mille of what it takes before. Never zero.
    pub per_mille: u64,
    /// The number of pages for which that holds.
    pub pages: u64,
}

impl WithinPause {
    /// Pages take the same time in a pause as before it.
    pub const NONE: Self = Self {
        per_mille: 1_000,
        pages: 0,
    };

    /// The rate at which the first of the pages go.
    pub const fn rate(self, before: u64) -> u64 {
        before.saturating_mul(1_000) / self.per_mille
    }
}

/// A link that stalls once in every period. The seed determines when and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalls {
    /// The length of a period in µs.
    pub period: u64,
    /// The shortest and the longest stall in µs; less than half a period.
    pub lasts: (u64, u64),
}

impl Stalls {
    /// The stall in the period that contains `at`.
    fn at(self, at: u64, seed: u64) -> Dip {
        let period = at / self.period;
        let (least, most) = self.lasts;
        let lasts = least + at_place(seed ^ 1, period) % (most - least + 1);
        let from = period * self.period + at_place(seed ^ 2, period) % (self.period - lasts);
        Dip {
            from,
            until: from + lasts,
            left: 0,
        }
    }
}

/// A time in which the link carries less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dip {
    /// The start in µs.
    pub from: u64,
    /// The end in µs.
    pub until: u64,
    /// The remaining rate, per mille.
    pub left: u64,
}

/// The time resolution of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Every slot is simulated.
    Fine,
    /// Only averages are used, for the hours of a first pass that the estimators forget.
    Coarse,
}

impl Link {
    /// A link with a constant rate and no buffer.
    pub const fn constant(rate: u64) -> Self {
        Self {
            rate,
            jitter: 0,
            slot: 10_000,
            seed: 0,
            dips: Vec::new(),
            stalls: None,
            after_request: None,
            within_pause: WithinPause::NONE,
            buffer: 0,
            round_trip: 0,
        }
    }

    /// A link whose rate is redrawn every 10 ms, within `jitter` per mille of `rate`.
    pub fn jittery(rate: u64, jitter: u64, seed: u64) -> Self {
        Self {
            jitter,
            seed,
            ..Self::constant(rate)
        }
    }

    /// A time in µs within which `pages` cannot arrive after the guest has stopped, whatever
    /// the jitter.
    pub fn least_time(&self, pages: u64) -> u64 {
        let rate = match self.within_pause.pages {
            0 => self.rate,
            _ => self.rate.max(self.within_pause.rate(self.rate)),
        };
        let best = u128::from(rate) * u128::from(1_000 + self.jitter) / 1_000;
        let rest = u128::from(pages.saturating_sub(self.buffer));
        (rest * u128::from(PAGE) / best.max(1)) as u64
    }

    /// The rate at `at`, and the time until which it holds. `requested` is the time at
    /// which the guest was asked to stop. In a dip there is no jitter.
    pub fn at(&self, at: u64, requested: Option<u64>, grain: Grain) -> (u64, u64) {
        let (rate, mut until) = match (self.jitter, grain) {
            (0, _) | (_, Grain::Coarse) => (self.rate, u64::MAX),
            (jitter, Grain::Fine) => {
                let slot = at / self.slot;
                let stray = at_place(self.seed, slot) % (2 * jitter + 1);
                let rate = self.rate * (1_000 + stray - jitter) / 1_000;
                (rate, (slot + 1) * self.slot)
            }
        };
        let provoked = requested
            .zip(self.after_request)
            .map(|(requested, dip)| Dip {
                from: dip.from.saturating_add(requested),
                until: dip.until.saturating_add(requested),
                ..dip
            });
        let stall = self.stalls.map(|stalls| stalls.at(at, self.seed));
        if let Some(stalls) = self.stalls {
            until = until.min((at / stalls.period + 1) * stalls.period);
        }
        for dip in self.dips.iter().copied().chain(provoked).chain(stall) {
            if at < dip.from {
                until = until.min(dip.from);
            } else if at < dip.until {
                return (self.rate * dip.left / 1_000, dip.until);
            }
        }
        (rate, until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bounds_and_can_be_repeated() {
        let link = Link::jittery(1_000, 200, 7);
        for at in (0..1_000_000).step_by(3_333) {
            let (rate, until) = link.at(at, None, Grain::Fine);
            assert!((800..=1_200).contains(&rate));
            assert!(until > at && until <= at + 10_000);
            assert_eq!(link.at(at, None, Grain::Fine), (rate, until));
            assert_eq!(link.at(at, None, Grain::Coarse).0, 1_000);
        }
    }

    #[test]
    fn it_stands_still_once_in_every_period() {
        let mut link = Link::constant(1_000);
        link.stalls = Some(Stalls {
            period: 10_000,
            lasts: (1_000, 3_000),
        });
        for period in 0..50 {
            let (mut at, mut still) = (period * 10_000, 0);
            while at < (period + 1) * 10_000 {
                let (rate, until) = link.at(at, None, Grain::Fine);
                assert!(until > at && until <= (period + 1) * 10_000);
                still += if rate == 0 { until - at } else { 0 };
                at = until;
            }
            assert!((1_000..=3_000).contains(&still), "{still}");
        }
    }

    #[test]
    fn dips_begin_and_end() {
        let mut link = Link::constant(1_000);
        link.dips.push(Dip {
            from: 100,
            until: 200,
            left: 10,
        });
        link.after_request = Some(Dip {
            from: 50,
            until: u64::MAX,
            left: 0,
        });
        let at = |at, requested| link.at(at, requested, Grain::Fine);
        assert_eq!(at(0, None), (1_000, 100));
        assert_eq!(at(100, None), (10, 200));
        assert_eq!(at(200, None), (1_000, u64::MAX));
        assert_eq!(at(200, Some(200)), (1_000, 250));
        assert_eq!(at(250, Some(200)), (0, u64::MAX));
    }
}
