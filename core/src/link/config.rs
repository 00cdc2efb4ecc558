//! The settings that dom0 writes for the stub before the stub starts.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::downtime::{FixedCosts, LastPages, SuspendPages};
use crate::limits::{DowntimeLimit, Limits, Risk, Timeout};
use crate::machine::Config;
use crate::units::Micros;

use super::{BITMAP_BYTES_MAX, MAGIC, VERSION};

/// Written by dom0, word by word; times in microseconds, 0 for a limit that
/// was not given.
///
/// | word | meaning |
/// |---|---|
/// | 0, 1 | [`MAGIC`], [`VERSION`] |
/// | 2 | event channel port of the stub |
/// | 3 | bits of the bitmap |
/// | 4 | pages of the guest |
/// | 5, 6 | downtime limit, timeout |
/// | 7 | risk, per mille |
/// | 8..=12 | costs at most: suspend, final bitmap, CPU state, landing, resume |
/// | 13..=17 | the same as expected |
/// | 18, 19 | pages that the guest's kernel dirties in order to stop: expected, at most |
/// | 20, 21 | time of the last pages, per mille of the curve's: usual, at most |
/// | 22 | what is mostly added to that |
/// | 23 | of how many last pages that is known |
/// | 24 | 1 if the guest is handed over before it stops, else 0 |
#[repr(C, align(4096))]
pub struct Settings {
    words: [AtomicU64; 25],
}

/// The settings as typed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Startup {
    /// The event channel port of the stub.
    pub port: u32,
    /// The number of bits in the bitmap: one more than the guest's highest pfn.
    pub guest_pfns: u64,
    /// The configuration of the state machine.
    pub config: Config,
}

impl Settings {
    /// Settings that are not written yet, in ordinary memory.
    #[cfg(any(test, feature = "test-support"))]
    pub const fn empty() -> Self {
        Self {
            words: [const { AtomicU64::new(0) }; 25],
        }
    }

    /// Writes the settings. The magic is written last.
    pub fn write(&self, startup: &Startup) {
        let Config {
            limits,
            costs,
            expected_costs,
            suspend_pages,
            last_pages,
            risk,
            guest_pages,
            hands_over,
        } = startup.config;
        let values = [
            VERSION,
            u64::from(startup.port),
            startup.guest_pfns,
            guest_pages,
            limits.max_suspend.map_or(0, |limit| limit.micros().0),
            limits.timeout.map_or(0, |timeout| timeout.micros().0),
            u64::from(risk.get()),
            costs.suspend.0,
            costs.final_bitmap.0,
            costs.cpu_state.0,
            costs.landing.0,
            costs.resume.0,
            expected_costs.suspend.0,
            expected_costs.final_bitmap.0,
            expected_costs.cpu_state.0,
            expected_costs.landing.0,
            expected_costs.resume.0,
            suspend_pages.expected,
            suspend_pages.most,
            last_pages.usual,
            last_pages.most,
            last_pages.longer.0,
            last_pages.pages,
            hands_over.into(),
        ];
        for (word, value) in self.words.iter().skip(1).zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        if let Some(magic) = self.words.first() {
            magic.store(MAGIC, Ordering::Release);
        }
    }

    /// Reads the settings; `None` if the magic, the version or a size is wrong.
    pub fn read(&self) -> Option<Startup> {
        let [
            magic,
            version,
            port,
            guest_pfns,
            guest_pages,
            max_suspend,
            timeout,
            risk,
            costs @ ..,
            suspend_pages_expected,
            suspend_pages_most,
            last_pages_usual,
            last_pages_most,
            last_pages_longer,
            last_pages_number,
            hands_over,
        ] = &self.words;
        let [worst @ .., _, _, _, _, _] = costs;
        let [_, _, _, _, _, expected @ ..] = costs;
        let value = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let micros = |word: &AtomicU64| Micros(value(word));
        let costs =
            |[suspend, final_bitmap, cpu_state, landing, resume]: &[AtomicU64; 5]| FixedCosts {
                suspend: micros(suspend),
                final_bitmap: micros(final_bitmap),
                cpu_state: micros(cpu_state),
                landing: micros(landing),
                resume: micros(resume),
            };
        if magic.load(Ordering::Acquire) != MAGIC || value(version) != VERSION {
            return None;
        }
        let guest_pfns = value(guest_pfns);
        if guest_pfns.div_ceil(8) > BITMAP_BYTES_MAX {
            return None;
        }
        Some(Startup {
            port: u32::try_from(value(port)).ok()?,
            guest_pfns,
            config: Config {
                limits: Limits {
                    max_suspend: DowntimeLimit::new(micros(max_suspend)),
                    timeout: Timeout::new(micros(timeout)),
                },
                costs: costs(worst),
                expected_costs: costs(expected),
                suspend_pages: SuspendPages {
                    expected: value(suspend_pages_expected),
                    most: value(suspend_pages_most),
                },
                last_pages: LastPages {
                    usual: value(last_pages_usual),
                    most: value(last_pages_most),
                    longer: micros(last_pages_longer),
                    pages: value(last_pages_number),
                },
                risk: Risk::per_mille(u16::try_from(value(risk)).ok()?)?,
                guest_pages: value(guest_pages),
                hands_over: value(hands_over) != 0,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each value is another one, so that none can be taken for its neighbour.
    #[test]
    fn what_was_written_is_read_word_by_word() {
        let costs = |first: u64| FixedCosts {
            suspend: Micros(first),
            final_bitmap: Micros(first + 1),
            cpu_state: Micros(first + 2),
            landing: Micros(first + 3),
            resume: Micros(first + 4),
        };
        let startup = Startup {
            port: 2,
            guest_pfns: 3,
            config: Config {
                limits: Limits {
                    max_suspend: DowntimeLimit::new(Micros(5)),
                    timeout: Timeout::new(Micros(6)),
                },
                costs: costs(8),
                expected_costs: costs(13),
                suspend_pages: SuspendPages {
                    expected: 18,
                    most: 19,
                },
                last_pages: LastPages {
                    usual: 20,
                    most: 21,
                    longer: Micros(22),
                    pages: 23,
                },
                risk: Risk::per_mille(7).unwrap(),
                guest_pages: 4,
                hands_over: true,
            },
        };
        let settings = Settings::empty();
        assert_eq!(settings.read(), None);
        settings.write(&startup);
        assert_eq!(settings.read(), Some(startup));
        let word = |at: usize| settings.words[at].load(Ordering::Relaxed);
        for at in 2..24 {
            assert_eq!(word(at), at as u64);
        }
        assert_eq!(word(24), 1);
        settings.words[1].store(VERSION - 1, Ordering::Relaxed);
        assert_eq!(settings.read(), None);
    }
}
