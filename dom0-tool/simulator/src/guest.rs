//! How a guest writes to its memory.

/// How a guest writes to its memory during one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The distribution of the writes over time.
    pub rhythm: Rhythm,
    /// The distribution of the writes over pages.
    pub places: Places,
}

/// Page writes over time, alternately busy and calm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// The number of writes a second while busy.
    pub busy: u64,
    /// The number of writes a second otherwise.
    pub calm: u64,
    /// The busy part of a period, in µs.
    pub busy_for: u64,
    /// The length of a period, in µs. Never zero.
    pub period: u64,
    /// The position in a period at the start of the attempt, in µs.
    pub offset: u64,
}

/// A large set of pages that is swept over, and a small one that is written more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// The number of pages in the large set.
    pub cold: u64,
    /// The number of pages in the small set.
    pub hot: u64,
    /// The number of writes in a thousand that go to the small set.
    pub hot_share: u64,
}

/// A guest: writers that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The number of populated pages.
    pub pages: u64,
    /// The start (µs) of each phase and its writer; the first phase starts at the
    /// beginning.
    pub phases: Vec<(u64, Writer)>,
    /// A writer that starts so long (µs) after the guest was asked to stop. Nothing
    /// observed before shows it.
    pub after_request: Option<(u64, Writer)>,
    /// The number of pages that the guest's kernel dirties in order to stop.
    pub stop_pages: u64,
    /// The samples of a real guest; if present, the phases are ignored.
    pub sampled: Option<Curve>,
}

/// The number of pages written at least once after a given time, as sampled from a real
/// guest. It never decreases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Curve {
    /// Times since the count began, in µs, and pages; both ascending. There are no pages at
    /// time zero.
    points: Vec<(u64, u64)>,
    /// The growth beyond the last point, in pages a second.
    beyond: u64,
}

impl Curve {
    /// The upper envelope of several samples, each a series of counts over the time since
    /// it began, in µs. Beyond the last point the curve continues with the slope of its
    /// last quarter.
    pub fn envelope(samples: &[Vec<(u64, u64)>]) -> Self {
        let mut times: Vec<u64> = samples.iter().flatten().map(|(at, _)| *at).collect();
        times.sort_unstable();
        times.dedup();
        let mut points = Vec::new();
        let mut highest = 0;
        for at in times.into_iter().filter(|at| *at > 0) {
            let counts = samples.iter().filter_map(|sample| seen_at(sample, at));
            highest = counts.fold(highest, u64::max);
            points.push((at, highest));
        }
        let mut curve = Self { points, beyond: 0 };
        if let Some((last, pages)) = curve.points.last().copied() {
            let from = last - last.div_ceil(4);
            let risen = pages - curve.pages(from);
            let rate = (u128::from(risen) * 1_000_000).div_ceil(u128::from((last - from).max(1)));
            curve.beyond = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        curve
    }

    /// The growth beyond the last point, in pages a second.
    pub const fn beyond(&self) -> u64 {
        self.beyond
    }

    /// The number of pages written at least once within `span`, in µs.
    pub fn pages(&self, span: u64) -> u64 {
        let next = self.points.partition_point(|(at, _)| *at < span);
        let before = match next.checked_sub(1) {
            Some(index) => self.points[index],
            None => (0, 0),
        };
        match self.points.get(next) {
            Some(after) => between(before, *after, span),
            None => {
                let more = u128::from(self.beyond) * u128::from(span - before.0) / 1_000_000;
                before
                    .1
                    .saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
            }
        }
    }
}

/// The value of a sample at a time within it.
fn seen_at(sample: &[(u64, u64)], at: u64) -> Option<u64> {
    let next = sample.partition_point(|(time, _)| *time < at);
    let after = sample.get(next)?;
    let before = next.checked_sub(1).map_or((0, 0), |index| sample[index]);
    Some(between(before, *after, at))
}

/// Interpolates on the line between two points.
fn between(before: (u64, u64), after: (u64, u64), at: u64) -> u64 {
    let (span, gone) = (
        after.0 - before.0,
        at.saturating_sub(before.0).min(after.0 - before.0),
    );
    let risen = u128::from(after.1.saturating_sub(before.1)) * u128::from(gone);
    before.1 + risen.checked_div(u128::from(span)).unwrap_or(0) as u64
}

impl Writer {
    /// A writer that sweeps over `set` pages at `rate` writes a second.
    pub const fn steady(set: u64, rate: u64) -> Self {
        Self {
            rhythm: Rhythm {
                busy: rate,
                calm: rate,
                busy_for: 1,
                period: 1,
                offset: 0,
            },
            places: Places {
                cold: set,
                hot: 0,
                hot_share: 0,
            },
        }
    }

    /// The number of pages written at least once from `start` to `end`, in µs.
    pub fn dirtied(&self, start: u64, end: u64) -> u64 {
        self.places.touched(self.rhythm.writes(start, end))
    }
}

impl Rhythm {
    /// The writes from `start` to `end` (µs), in millionths of a write.
    fn writes(&self, start: u64, end: u64) -> u128 {
        let busy = u128::from(self.busy_until(end) - self.busy_until(start));
        let calm = u128::from(end - start) - busy;
        busy * u128::from(self.busy) + calm * u128::from(self.calm)
    }

    /// The busy time from the start of the first period to `at`.
    fn busy_until(&self, at: u64) -> u64 {
        let at = at + self.offset;
        at / self.period * self.busy_for + (at % self.period).min(self.busy_for)
    }
}

impl Places {
    fn touched(&self, writes: u128) -> u64 {
        let hot = writes * u128::from(self.hot_share) / 1_000;
        let pages = |writes: u128, set: u64| (writes / 1_000_000).min(u128::from(set)) as u64;
        pages(hot, self.hot) + pages(writes - hot, self.cold)
    }
}

impl Guest {
    /// The number of pages written at least once from `start` to `end` (µs) by a guest that
    /// was asked to stop at `requested`. Successive writers are assumed to write to
    /// different pages.
    pub fn dirtied(&self, start: u64, end: u64, requested: Option<u64>) -> u64 {
        if let Some(curve) = &self.sampled {
            return curve.pages(end.saturating_sub(start)).min(self.pages);
        }
        let turn = requested
            .zip(self.after_request)
            .map(|(at, (after, writer))| (at + after, writer));
        let turns = turn.map_or(u64::MAX, |(at, _)| at);
        let mut dirty: u64 = 0;
        let mut count = |writer: &Writer, from: u64, to: u64| {
            let (from, to) = (from.max(start), to.min(end));
            if from < to {
                dirty += writer.dirtied(from, to);
            }
        };
        for (index, (from, writer)) in self.phases.iter().enumerate() {
            let next = self.phases.get(index + 1).map_or(u64::MAX, |(at, _)| *at);
            count(writer, *from, next.min(turns));
        }
        if let Some((at, writer)) = turn {
            count(&writer, at, u64::MAX);
        }
        dirty.min(self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_sweep_dirties_each_page_once() {
        let writer = Writer::steady(1_000, 100);
        assert_eq!(writer.dirtied(0, 2 * SECOND), 200);
        assert_eq!(writer.dirtied(5 * SECOND, 60 * SECOND), 1_000);
        assert_eq!(writer.dirtied(7, 7), 0);
    }

    #[test]
    fn bursts_come_when_they_should() {
        let mut writer = Writer::steady(1 << 40, 0);
        writer.rhythm = Rhythm {
            busy: 1_000_000,
            calm: 0,
            busy_for: 100,
            period: 1_000,
            offset: 50,
        };
        // The writer is busy until 50, then from 950 to 1,050.
        assert_eq!(writer.dirtied(0, 50), 50);
        assert_eq!(writer.dirtied(50, 950), 0);
        assert_eq!(writer.dirtied(0, 1_000), 100);
        assert_eq!(writer.dirtied(0, 10_000), 1_000);
    }

    #[test]
    fn hot_pages_are_few_however_often_they_are_written() {
        let places = Places {
            cold: 1_000,
            hot: 10,
            hot_share: 900,
        };
        assert_eq!(places.touched(100 * 1_000_000), 10 + 10);
        assert_eq!(places.touched(u128::MAX / 1_000), 1_010);
    }

    #[test]
    fn a_curve_is_never_below_any_sample_and_goes_on_as_it_ended() {
        let curve = Curve::envelope(&[
            vec![(100, 10), (200, 20), (300, 21), (400, 22)],
            vec![(150, 30), (250, 30)],
        ]);
        assert_eq!(curve.pages(0), 0);
        assert_eq!(curve.pages(100), 20);
        assert_eq!(curve.pages(250), 30);
        // The curve does not fall where the higher sample ends.
        assert_eq!(curve.pages(400), 30);
        assert_eq!((curve.beyond(), curve.pages(SECOND)), (0, 30));
        let rising = Curve::envelope(&[vec![(100, 100), (200, 200), (400, 400)]]);
        assert_eq!(rising.beyond(), SECOND);
        assert_eq!(rising.pages(1_000), 1_000);
        let nothing = Curve::envelope(&[]);
        assert_eq!(nothing.pages(u64::MAX), 0);
    }

    #[test]
    fn phases_follow_on_one_another_until_the_guest_is_asked_to_stop() {
        let guest = Guest {
            pages: 1_500,
            phases: vec![
                (0, Writer::steady(100, 10)),
                (SECOND, Writer::steady(100, 50)),
            ],
            after_request: Some((SECOND / 2, Writer::steady(5_000, 2_000))),
            stop_pages: 0,
            sampled: None,
        };
        assert_eq!(guest.dirtied(0, 2 * SECOND, None), 10 + 50);
        assert_eq!(guest.dirtied(0, 2 * SECOND, Some(SECOND)), 10 + 25 + 1_000);
        assert_eq!(guest.dirtied(0, 9 * SECOND, Some(SECOND)), 1_500);
    }
}
