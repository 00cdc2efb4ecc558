//! What a link carries over time.

use crate::random::at_place;

/// Millionths of a page: what one page a second carries in a microsecond.
pub const PAGE: u64 = 1_000_000;

/// A link to the destination, with the sender's buffer before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Pages a second, on average.
    pub rate: u64,
    /// How far the rate strays from that, of a thousand.
    pub jitter: u64,
    /// How long it stays where it has strayed to, µs. Never zero.
    pub slot: u64,
    /// Determines the jitter.
    pub seed: u64,
    /// When it carries less.
    pub dips: Vec<Dip>,
    /// When it stands still, again and again.
    pub stalls: Option<Stalls>,
    /// When it carries less because of the request to stop, as if somebody
    /// meant it: times count from the request.
    pub after_request: Option<Dip>,
    /// Pages that pipes and sockets take in at once.
    pub buffer: u64,
}

/// A link that stands still once in every period, at some time and for some time that
/// its seed determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalls {
    /// µs.
    pub period: u64,
    /// At least and at most, µs; less than half a period.
    pub lasts: (u64, u64),
}

impl Stalls {
    /// The one of the period that `at` is in.
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
    /// From here, µs.
    pub from: u64,
    /// To here, µs.
    pub until: u64,
    /// So much, of a thousand.
    pub left: u64,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// At every slot.
    Fine,
    /// At averages: for the hours of a first pass that nobody will remember.
    Coarse,
}

impl Link {
    /// Always the same rate, nothing buffered.
    pub const fn constant(rate: u64) -> Self {
        Self {
            rate,
            jitter: 0,
            slot: 10_000,
            seed: 0,
            dips: Vec::new(),
            stalls: None,
            after_request: None,
            buffer: 0,
        }
    }

    /// Redrawn every 10 ms, within `jitter` of a thousand.
    pub fn jittery(rate: u64, jitter: u64, seed: u64) -> Self {
        Self {
            jitter,
            seed,
            ..Self::constant(rate)
        }
    }

    /// Time in µs below which `pages` cannot arrive, whatever the jitter.
    pub fn least_time(&self, pages: u64) -> u64 {
        let best = u128::from(self.rate) * u128::from(1_000 + self.jitter) / 1_000;
        let rest = u128::from(pages.saturating_sub(self.buffer));
        (rest * u128::from(PAGE) / best.max(1)) as u64
    }

    /// The rate at `at`, and until when it stays. `requested`: when the guest
    /// was asked to stop. In a dip there is no jitter.
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
