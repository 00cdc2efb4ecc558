//! Runs millions of attempts on all processors. The results do not depend on the number of
//! processors.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::draw::{Draw, LinkKind, WriterKind};
use crate::tally::Tally;

/// The results of many attempts, by models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// One tally for each pair of models that was drawn.
    pub by_models: BTreeMap<(WriterKind, LinkKind), Tally>,
}

/// The number of attempts that a thread takes at a time.
const SHARE: u64 = 256;

/// Runs the attempts with the numbers 0 to `attempts`.
pub fn run(draw: &Draw, attempts: u64) -> Results {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next = AtomicU64::new(0);
    let work = || {
        let mut results = Results::default();
        loop {
            let start = next.fetch_add(SHARE, Ordering::Relaxed);
            if start >= attempts {
                return results;
            }
            for number in start..attempts.min(start + SHARE) {
                let drawn = draw.scenario(number);
                let models = (drawn.writer, drawn.link);
                let tally = results.by_models.entry(models).or_default();
                tally.run(number, &drawn);
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Results::default();
        for thread in threads {
            let results = thread.join().expect("a panic aborts");
            for (models, tally) in &results.by_models {
                all.by_models.entry(*models).or_default().merge(tally);
            }
        }
        all
    })
}

impl Results {
    /// The tally of all attempts.
    pub fn total(&self) -> Tally {
        self.sum(|_, _| true)
    }

    /// The tally of all attempts with this writer.
    pub fn of_writer(&self, kind: WriterKind) -> Tally {
        self.sum(|writer, _| writer == kind)
    }

    fn sum(&self, wanted: impl Fn(WriterKind, LinkKind) -> bool) -> Tally {
        let mut sum = Tally::default();
        for ((writer, link), tally) in &self.by_models {
            if wanted(*writer, *link) {
                sum.merge(tally);
            }
        }
        sum
    }
}
