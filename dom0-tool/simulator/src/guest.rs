//! How a guest writes to its memory.

/// What one phase of a guest's life does to its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// How the writes come over time.
    pub rhythm: Rhythm,
    /// Where they go.
    pub places: Places,
}

/// Page writes over time: busy and calm by turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// While busy, writes a second.
    pub busy: u64,
    /// Else, writes a second.
    pub calm: u64,
    /// How long a period is busy, µs.
    pub busy_for: u64,
    /// Length of a period, µs. Never zero.
    pub period: u64,
    /// How far into a period the guest is when the attempt starts, µs.
    pub offset: u64,
}

/// A large set of pages swept over, and a small one that is written more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Pages of the large set.
    pub cold: u64,
    /// Pages of the small set.
    pub hot: u64,
    /// Of a thousand writes, those that go to the small set.
    pub hot_share: u64,
}

/// A guest's life: writers one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Populated pages.
    pub pages: u64,
    /// Since when (µs) the guest writes how; the first from the start.
    pub phases: Vec<(u64, Writer)>,
    /// What it turns to so long (µs) after it was asked to stop: whoever
    /// watched it until then knows nothing of it.
    pub after_request: Option<(u64, Writer)>,
    /// Pages its kernel dirties in order to stop.
    pub stop_pages: u64,
    /// What a real guest was seen to do: then the phases count for nothing.
    pub sampled: Option<Curve>,
}

/// Pages written at least once after so much time, as seen in a real guest:
/// the longer, the more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Curve {
    /// Since the count began, µs, and pages; both ascending. At zero, none.
    points: Vec<(u64, u64)>,
    /// From the last point on, pages a second.
    beyond: u64,
}

impl Curve {
    /// The upper envelope of several samples, each a count over time since it
    /// began, µs. Beyond the last point it goes on as steeply as it rose over
    /// the last quarter.
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

    /// Pages a second, beyond what was seen.
    pub const fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Pages written at least once within `span`, µs.
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

/// What a sample says of a time within it.
fn seen_at(sample: &[(u64, u64)], at: u64) -> Option<u64> {
    let next = sample.partition_point(|(time, _)| *time < at);
    let after = sample.get(next)?;
    let before = next.checked_sub(1).map_or((0, 0), |index| sample[index]);
    Some(between(before, *after, at))
}

/// On the line from one point to the other.
fn between(before: (u64, u64), after: (u64, u64), at: u64) -> u64 {
    let (span, gone) = (
        after.0 - before.0,
        at.saturating_sub(before.0).min(after.0 - before.0),
    );
    let risen = u128::from(after.1.saturating_sub(before.1)) * u128::from(gone);
    before.1 + risen.checked_div(u128::from(span)).unwrap_or(0) as u64
}

impl Writer {
    /// Sweeps over `set` pages at `rate` writes a second.
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

    /// Pages written at least once from `start` to `end`, µs.
    pub fn dirtied(&self, start: u64, end: u64) -> u64 {
        self.places.touched(self.rhythm.writes(start, end))
    }
}

impl Rhythm {
    /// Millionths of a write from `start` to `end`, µs.
    fn writes(&self, start: u64, end: u64) -> u128 {
        let busy = u128::from(self.busy_until(end) - self.busy_until(start));
        let calm = u128::from(end - start) - busy;
        busy * u128::from(self.busy) + calm * u128::from(self.calm)
    }

    /// Busy time from the start of the first period to `at`.
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
    /// Pages written at least once from `start` to `end`, µs, by a guest asked
    /// to stop at `requested`. Writers that follow on one another are taken to
    /// write elsewhere.
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
        // Busy until 50, then from 950 to 1,050.
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
        // It does not fall where the higher sample ends.
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
