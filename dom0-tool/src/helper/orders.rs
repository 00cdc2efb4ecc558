//! What the helper is to do, from its environment: `lull migrate` puts it
//! there.

use std::env;
use std::time::{Duration, Instant};

use lull_core::downtime::FixedCosts;
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::Micros;

use crate::monotonic::now_ns;

/// Microseconds, decimal: the limit on the pause.
pub const MAX_SUSPEND_TIME: &str = "LULL_MAX_SUSPEND_TIME_US";
/// Microseconds, decimal: the limit on the time until the suspend.
pub const TIMEOUT: &str = "LULL_TIMEOUT_US";
/// Microseconds, decimal, separated by commas: upper bounds of suspend, final
/// bitmap, CPU state, landing, resume.
pub const COSTS: &str = "LULL_COSTS_US";

/// Nanoseconds of `CLOCK_MONOTONIC`, decimal: when the operator's command
/// started, which is what the timeout counts from.
pub const STARTED: &str = "LULL_STARTED_NS";

/// When the attempt started: with the operator's command, or now.
pub fn start() -> Instant {
    let now = Instant::now();
    let started = env::var(STARTED)
        .ok()
        .and_then(|started| started.parse().ok());
    let ago = started.map_or(0, |started: u64| now_ns().saturating_sub(started));
    now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
}

/// A variable that cannot be understood. A limit is never guessed at.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is {value:?}, which is not {wanted}")]
pub struct BadOrder {
    variable: &'static str,
    value: String,
    wanted: &'static str,
}

/// The limits; none where none is set.
///
/// # Errors
/// When one is set to something that is no limit.
pub fn limits() -> Result<Limits, BadOrder> {
    let max_suspend = micros(MAX_SUSPEND_TIME)?;
    let timeout = micros(TIMEOUT)?;
    Ok(Limits {
        max_suspend: max_suspend.and_then(DowntimeLimit::new),
        timeout: timeout.and_then(Timeout::new),
    })
}

fn micros(variable: &'static str) -> Result<Option<Micros>, BadOrder> {
    let Some(value) = env::var_os(variable) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    match value.parse() {
        Ok(micros @ 1..) => Ok(Some(Micros(micros))),
        _ => Err(BadOrder {
            variable,
            value: value.into_owned(),
            wanted: "a number of microseconds above zero",
        }),
    }
}

/// The costs to assume; `None` when nobody says.
///
/// # Errors
/// When they are not five numbers.
pub fn costs() -> Result<Option<FixedCosts>, BadOrder> {
    let Some(value) = env::var_os(COSTS) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    let numbers: Result<Vec<u64>, _> = value.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([suspend, final_bitmap, cpu_state, landing, resume]) => Ok(Some(FixedCosts {
            suspend: Micros(*suspend),
            final_bitmap: Micros(*final_bitmap),
            cpu_state: Micros(*cpu_state),
            landing: Micros(*landing),
            resume: Micros(*resume),
        })),
        _ => Err(BadOrder {
            variable: COSTS,
            value: value.into_owned(),
            wanted: "five numbers of microseconds separated by commas",
        }),
    }
}
