//! What a `lull migrate` asks of the processes below it. The save helper, the engine and the
//! transport read the same value from one environment variable, as one JSON object:
//!
//! ```text
//! {"schema":2,"domain":7,"started_monotonic_ns":123456,"landing":"fast",…}
//! ```
//! Times are in microseconds unless a name says otherwise, rates in bytes a second.

use std::num::NonZeroU64;

use lull_base::bandwidth::Bandwidth;
use lull_base::risk::Risk;
use lull_core::downtime::{FixedCosts, LastPages, SuspendPages};
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::Micros;
use lull_xen::DomId;
use serde::{Deserialize, Serialize};

use crate::events::Landing;
use crate::trace::{CostsUs, LastPagesTook, StopPages};

/// The environment variable that holds the specification.
pub const VARIABLE: &str = "LULL_MIGRATION";

/// Version of the specification; raised with every change. Another version is refused: no
/// limit is ever guessed.
pub const SCHEMA: u32 = 2;

/// The longest specification, in bytes.
pub const MAX_BYTES: usize = 4096;

/// One migration, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationSpec {
    /// The domain number of the guest to move.
    pub domain: DomId,
    /// When the attempt started, in nanoseconds of `CLOCK_MONOTONIC`. The timeout counts
    /// from here.
    pub started_monotonic_ns: u64,
    /// The landing that the guest is to use.
    pub landing: Landing,
    /// Whether the guest is to be left paused; no limit then bounds its pause.
    pub left_paused: bool,
    /// Whether xl's receiver is told to leave the copy paused because the guest has emulated
    /// devices and lands fast. `lull land` undoes that pause, unless the guest is to be left
    /// paused.
    pub copy_paused: bool,
    /// The limits at the start. `lull set` may change them while the attempt runs.
    pub limits: Limits,
    /// The bandwidth cap until the guest is asked to suspend.
    pub bandwidth: Bandwidth,
    /// The share of pauses that the estimate may get wrong.
    pub risk: Risk,
    /// What the pause is assumed to cost.
    pub costs: PauseCosts,
    /// Upper bound of the time from READY until the guest runs at the destination.
    pub after_ready: Micros,
}

/// What the pause of a guest is assumed to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseCosts {
    /// Upper bounds, with which limits are checked.
    pub at_most: FixedCosts,
    /// Expected values, for the pause that is expected.
    pub expected: FixedCosts,
    /// What the guest's kernel dirties in order to stop.
    pub suspend_pages: SuspendPages,
    /// How long the last pages of earlier pauses took.
    pub last_pages: LastPages,
}

/// The specification as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    schema: u32,
    domain: DomId,
    started_monotonic_ns: u64,
    landing: Landing,
    left_paused: bool,
    copy_paused: bool,
    max_suspend_us: Option<NonZeroU64>,
    timeout_us: Option<NonZeroU64>,
    bandwidth: Option<NonZeroU64>,
    risk_per_mille: u64,
    costs_us: CostsUs,
    expected_costs_us: CostsUs,
    suspend_pages: StopPages,
    last_pages: LastPagesTook,
    after_ready_us: u64,
}

/// A specification that cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadSpec {
    /// It belongs to another version of lull.
    #[error(
        "{VARIABLE} has schema {0}, and this lull knows schema {SCHEMA} only: another release \
         was installed while `lull migrate` ran, so run it again"
    )]
    Schema(u32),
    /// There is none, although a `lull migrate` is there.
    #[error(
        "`lull migrate` set no {VARIABLE}: another release was installed while it ran, so run it \
         again"
    )]
    Missing,
    /// It is no specification.
    #[error("{VARIABLE} cannot be understood ({0}): run `lull migrate` again")]
    Invalid(String),
}

impl MigrationSpec {
    /// Writes the specification as the value of [`VARIABLE`].
    pub fn encode(&self) -> String {
        let Limits {
            max_suspend,
            timeout,
        } = self.limits;
        let micros = |time: Micros| NonZeroU64::new(time.0);
        let written = Written {
            schema: SCHEMA,
            domain: self.domain,
            started_monotonic_ns: self.started_monotonic_ns,
            landing: self.landing,
            left_paused: self.left_paused,
            copy_paused: self.copy_paused,
            max_suspend_us: max_suspend.and_then(|limit| micros(limit.micros())),
            timeout_us: timeout.and_then(|timeout| micros(timeout.micros())),
            bandwidth: NonZeroU64::new(self.bandwidth.bytes()),
            risk_per_mille: self.risk.0.get().into(),
            costs_us: self.costs.at_most.into(),
            expected_costs_us: self.costs.expected.into(),
            suspend_pages: self.costs.suspend_pages.into(),
            last_pages: self.costs.last_pages.into(),
            after_ready_us: self.after_ready.0,
        };
        serde_json::to_string(&written).expect("numbers and names only")
    }

    /// Reads the value of [`VARIABLE`].
    ///
    /// # Errors
    /// When the value is not a specification of this version, complete and without anything
    /// else.
    pub fn decode(text: &[u8]) -> Result<Self, BadSpec> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let invalid = |why: &dyn ToString| BadSpec::Invalid(why.to_string());
        if text.len() > MAX_BYTES {
            return Err(invalid(&format!("it has more than {MAX_BYTES} bytes")));
        }
        let version: Version = serde_json::from_slice(text).map_err(|error| invalid(&error))?;
        if version.schema != SCHEMA {
            return Err(BadSpec::Schema(version.schema));
        }
        let given: Written = serde_json::from_slice(text).map_err(|error| invalid(&error))?;
        let micros = |time: NonZeroU64| Micros(time.get());
        let risk = Risk::per_mille(given.risk_per_mille);
        Ok(Self {
            domain: given.domain,
            started_monotonic_ns: given.started_monotonic_ns,
            landing: given.landing,
            left_paused: given.left_paused,
            copy_paused: given.copy_paused,
            limits: Limits {
                max_suspend: given
                    .max_suspend_us
                    .map(micros)
                    .and_then(DowntimeLimit::new),
                timeout: given.timeout_us.map(micros).and_then(Timeout::new),
            },
            bandwidth: Bandwidth::from_bytes(given.bandwidth.map_or(0, NonZeroU64::get)),
            risk: risk.ok_or_else(|| invalid(&"its risk is above one half"))?,
            costs: PauseCosts {
                at_most: given.costs_us.into(),
                expected: given.expected_costs_us.into(),
                suspend_pages: given.suspend_pages.into(),
                last_pages: given.last_pages.into(),
            },
            after_ready: Micros(given.after_ready_us),
        })
    }
}

#[cfg(feature = "test-support")]
impl MigrationSpec {
    /// A classic move of this domain without limits and costs.
    pub fn unlimited(domain: DomId) -> Self {
        Self {
            domain,
            started_monotonic_ns: 0,
            landing: Landing::Classic,
            left_paused: false,
            copy_paused: false,
            limits: Limits::default(),
            bandwidth: Bandwidth::default(),
            risk: Risk::default(),
            costs: PauseCosts {
                at_most: FixedCosts::default(),
                expected: FixedCosts::default(),
                suspend_pages: SuspendPages::DEFAULT,
                last_pages: LastPages::DEFAULT,
            },
            after_ready: Micros::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use lull_base::fuzz::any_bytes;
    use lull_core::units::PageRate;

    use super::*;

    fn spec() -> MigrationSpec {
        let costs = FixedCosts {
            suspend: Micros(200_000),
            final_bitmap: Micros(10_000),
            cpu_state: Micros(50_000),
            landing: Micros(3_000_000),
            resume: Micros(50_001),
        };
        MigrationSpec {
            domain: 7,
            started_monotonic_ns: u64::MAX,
            landing: Landing::Fast,
            left_paused: false,
            copy_paused: true,
            limits: Limits {
                max_suspend: DowntimeLimit::new(Micros(1_500)),
                timeout: Timeout::new(Micros(60_000_000)),
            },
            bandwidth: Bandwidth(Some(PageRate(2_560))),
            risk: Risk::per_mille(5).unwrap(),
            costs: PauseCosts {
                at_most: costs,
                expected: FixedCosts {
                    suspend: Micros(100_000),
                    ..costs
                },
                suspend_pages: SuspendPages {
                    expected: 420,
                    most: 530,
                },
                last_pages: LastPages {
                    usual: 310,
                    longer: Micros(20_000),
                    most: 470,
                    pages: 440,
                },
            },
            after_ready: Micros(200_000),
        }
    }

    fn bare() -> MigrationSpec {
        MigrationSpec {
            landing: Landing::Classic,
            left_paused: true,
            copy_paused: false,
            limits: Limits::default(),
            bandwidth: Bandwidth(None),
            risk: Risk::default(),
            ..spec()
        }
    }

    fn read(text: &str) -> Result<MigrationSpec, BadSpec> {
        MigrationSpec::decode(text.as_bytes())
    }

    #[test]
    fn what_was_asked_arrives_as_it_was_asked() {
        for spec in [spec(), bare()] {
            let text = spec.encode();
            assert!(text.len() < MAX_BYTES / 2 && !text.contains('\n'), "{text}");
            assert_eq!(read(&text), Ok(spec));
        }
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let text = spec().encode();
        let newer = text.replace(r#""schema":2"#, r#""schema":3,"more":[]"#);
        assert_eq!(read(&newer), Err(BadSpec::Schema(3)));
        let said = read(&newer).unwrap_err().to_string();
        assert!(
            said.contains("schema 3") && said.contains("run it again"),
            "{said}"
        );
    }

    #[test]
    fn a_limit_is_never_guessed() {
        let text = spec().encode();
        for (part, other) in [
            (r#""max_suspend_us":1500"#, r#""max_suspend_us":0"#),
            (r#""max_suspend_us":1500"#, r#""max_suspend_us":-1"#),
            (r#""max_suspend_us":1500"#, r#""max_suspend_us":1.5"#),
            (r#""max_suspend_us":1500"#, r#""max_suspend_ms":1500"#),
            (r#""timeout_us":60000000"#, r#""timeout_us":"60s""#),
            (r#""risk_per_mille":5"#, r#""risk_per_mille":501"#),
            (r#""domain":7"#, r#""domain":70000"#),
            (r#""left_paused":false,"#, ""),
            (r#""copy_paused":true,"#, ""),
            (r#""landing":"fast""#, r#""landing":"soft""#),
            ("}", "}}"),
        ] {
            let changed = text.replacen(part, other, 1);
            assert_ne!(changed, text, "{part}");
            assert!(
                matches!(read(&changed), Err(BadSpec::Invalid(_))),
                "{changed}"
            );
        }
        let long = format!("{text}{}", " ".repeat(MAX_BYTES));
        assert!(read(&long).is_err());
    }

    #[test]
    fn any_bytes_are_a_specification_or_none() {
        let samples = [spec().encode(), bare().encode()];
        any_bytes(&samples.each_ref().map(|text| text.as_bytes()), |bytes| {
            if let Ok(spec) = MigrationSpec::decode(bytes) {
                assert_eq!(read(&spec.encode()), Ok(spec));
            }
        });
    }
}
