//! The limits and costs for the helper. `lull migrate` passes them in the environment. When
//! plain xl or libvirt starts the helper, it reads the limits from their file and the costs
//! from the ledger.

use std::env;
use std::time::{Duration, Instant};

use anyhow::Context;
use lull_base::bandwidth::Bandwidth;
use lull_base::inherited_fd;
use lull_base::monotonic::now_ns;
use lull_base::risk::Risk;
use lull_core::downtime::{FixedCosts, SuspendPages};
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::Micros;
use lull_xen::DomId;
use lull_xen::xenstore::Xenstore;

use crate::host;
use crate::ledger::{self, Costs, Known, Ledger};
use crate::limits::{self, Chosen, Effective};

/// Microseconds, decimal: the limit on the pause.
pub const MAX_SUSPEND_TIME: &str = "LULL_MAX_SUSPEND_TIME_US";
/// Microseconds, decimal: the limit on the time until the suspend.
pub const TIMEOUT: &str = "LULL_TIMEOUT_US";
/// Microseconds, decimal, separated by commas: upper bounds of suspend, final bitmap, CPU
/// state, landing and resume; then the expected value of each. Two numbers of pages follow:
/// what the guest's kernel dirties in order to stop, expected and at most.
pub const COSTS: &str = "LULL_COSTS_US";

/// Nanoseconds of `CLOCK_MONOTONIC`, decimal: when the operator's command
/// started, which is what the timeout counts from.
pub const STARTED: &str = "LULL_STARTED_NS";

/// Bytes a second, decimal: the bandwidth cap until the suspend.
pub const BANDWIDTH: &str = "LULL_BANDWIDTH";

/// Per mille, decimal: the share of pauses that the estimate may get wrong.
pub const RISK: &str = "LULL_RISK_PER_MILLE";

/// Set when the guest is to be left paused; no limit then bounds its pause.
pub const LEFT_PAUSED: &str = "LULL_LEFT_PAUSED";

/// Whether [`LEFT_PAUSED`] is set.
pub fn is_left_paused() -> bool {
    env::var_os(LEFT_PAUSED).is_some()
}

/// When the attempt started: at the start of the operator's command, or now if none is
/// given.
pub fn start() -> Instant {
    let now = Instant::now();
    let started = env::var(STARTED)
        .ok()
        .and_then(|started| started.parse().ok());
    let ago = started.map_or(0, |started: u64| now_ns().saturating_sub(started));
    now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
}

/// A variable that cannot be parsed. A limit is never guessed.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is {value:?}, which is not {wanted}")]
pub struct BadOrder {
    variable: &'static str,
    value: String,
    wanted: &'static str,
}

/// The limits, and their source if it is not the environment.
#[derive(Debug, Default)]
pub struct Ordered {
    pub limits: Limits,
    /// The bandwidth cap until the suspend.
    pub bandwidth: Bandwidth,
    /// The share of pauses that the estimate may get wrong.
    pub risk: Risk,
    pub from: Effective,
}

impl Ordered {
    /// Whether any limit or bandwidth cap is set.
    pub fn is_limited(&self) -> bool {
        self.limits != Limits::default() || self.bandwidth.0.is_some()
    }
}

/// The limits for this guest; empty where none is set.
///
/// # Errors
/// When a value is not a valid limit, or when the file cannot be read or parsed. An error
/// never means "no limit".
pub fn limits(guest: DomId) -> anyhow::Result<Ordered> {
    if !is_ordered() {
        return ordered_by_file(guest);
    }
    let limits = Limits {
        max_suspend: micros(MAX_SUSPEND_TIME)?.and_then(DowntimeLimit::new),
        timeout: micros(TIMEOUT)?.and_then(Timeout::new),
    };
    let rate = number(BANDWIDTH, "a number of bytes a second above zero")?;
    Ok(Ordered {
        limits,
        bandwidth: Bandwidth::from_bytes(rate.unwrap_or(0)),
        risk: risk()?.unwrap_or_default(),
        from: Effective::default(),
    })
}

/// Whether `lull migrate` set the limits in the environment: it holds the other end of a
/// socket. A shell may have inherited the variables alone, and those must not replace the
/// limits in the file.
fn is_ordered() -> bool {
    let sockets = [lull_wire::events::FRONT_END_FD, super::handed::ENGINE_FD];
    env::var_os(STARTED).is_some() && sockets.into_iter().any(inherited_fd::is_named_socket)
}

fn ordered_by_file(guest: DomId) -> anyhow::Result<Ordered> {
    let from = from_file(guest)?;
    let micros = |chosen: &Option<Chosen>| {
        Chosen::limit_of(chosen.as_ref()).map(|limit| Micros(limit.as_micros()))
    };
    Ok(Ordered {
        limits: Limits {
            max_suspend: micros(&from.max_suspend_time).and_then(DowntimeLimit::new),
            timeout: micros(&from.timeout).and_then(Timeout::new),
        },
        bandwidth: Bandwidth(Chosen::limit_of(from.bandwidth.as_ref())),
        risk: Chosen::limit_of(from.risk.as_ref()).unwrap_or_default(),
        from,
    })
}

fn from_file(guest: DomId) -> anyhow::Result<Effective> {
    let name = name(guest)?;
    let uuid = host::uuid(guest).context("xenstore does not tell the guest's UUID")?;
    limits::effective(&name, Some(&uuid)).map_err(|error| {
        // The full text would fill xl's log.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default().to_owned();
        anyhow::anyhow!("its limits cannot be known: {first} (`lull limits check` shows all of it)")
    })
}

/// Reads the guest's name.
///
/// # Errors
/// When xenstore does not answer, or has no name for it.
pub fn name(guest: DomId) -> anyhow::Result<String> {
    let name =
        Xenstore::open().and_then(|mut store| store.read(&format!("/local/domain/{guest}/name")));
    name.context("xenstore does not tell the guest's name")?
        .context("xenstore knows no name of the guest")
}

fn risk() -> Result<Option<Risk>, BadOrder> {
    let understand = |text: &str| text.parse().ok().and_then(Risk::per_mille);
    variable(RISK, "a share per mille, up to 500", understand)
}

fn micros(variable: &'static str) -> Result<Option<Micros>, BadOrder> {
    let wanted = "a number of microseconds above zero";
    Ok(number(variable, wanted)?.map(Micros))
}

fn number(name: &'static str, wanted: &'static str) -> Result<Option<u64>, BadOrder> {
    let above_zero = |text: &str| text.parse().ok().filter(|number| *number > 0);
    variable(name, wanted, above_zero)
}

/// The parsed value of the variable; `None` if it is not set.
fn variable<T>(
    name: &'static str,
    wanted: &'static str,
    understand: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, BadOrder> {
    let Some(value) = env::var_os(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    match understand(&value) {
        Some(understood) => Ok(Some(understood)),
        None => Err(BadOrder {
            variable: name,
            value: value.into_owned(),
            wanted,
        }),
    }
}

/// What the pause of a guest is assumed to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumed {
    /// Upper bounds.
    pub at_most: FixedCosts,
    /// Expected values.
    pub expected: FixedCosts,
    /// What the guest's kernel dirties in order to stop.
    pub suspend_pages: SuspendPages,
}

impl From<Known> for Assumed {
    fn from(known: Known) -> Self {
        Self {
            at_most: known.bounds.into(),
            expected: known.expected().into(),
            suspend_pages: known.suspend_pages,
        }
    }
}

/// The value for [`COSTS`], in whole microseconds and in pages.
pub fn costs_variable(at_most: Costs, expected: Costs, suspend_pages: SuspendPages) -> String {
    let parts = [at_most.parts(), expected.parts()];
    let micros = parts.as_flattened().iter().map(Duration::as_micros);
    let SuspendPages { expected, most } = suspend_pages;
    let numbers = micros.chain([expected.into(), most.into()]);
    let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
    numbers.join(",")
}

/// The costs to assume for the guest of that name. If [`COSTS`] is not set, the destination
/// is unknown too, and the worst costs known of any destination are used.
///
/// # Errors
/// When the variable is set and cannot be parsed.
pub fn costs(name: &str) -> Result<Assumed, BadOrder> {
    let from_ledger = || {
        let ledger = Ledger::at(ledger::FILE);
        let known = ledger.known_wherever(name, |line| eprintln!("lull: {line}"));
        known.into()
    };
    let wanted = "ten numbers of microseconds and two of pages, separated by commas";
    Ok(variable(COSTS, wanted, assumed)?.unwrap_or_else(from_ledger))
}

/// What the value of [`COSTS`] says. An older `lull migrate`, which runs until its attempt
/// is over, gives the ten times only.
fn assumed(value: &str) -> Option<Assumed> {
    let numbers: Result<Vec<u64>, _> = value.split(',').map(str::parse).collect();
    let numbers = numbers.ok()?;
    let ([at_most, expected], pages) = numbers.as_chunks() else {
        return None;
    };
    let suspend_pages = match *pages {
        [] => SuspendPages::DEFAULT,
        [expected, most] => SuspendPages { expected, most },
        _ => return None,
    };
    Some(Assumed {
        at_most: costs_of(at_most),
        expected: costs_of(expected),
        suspend_pages,
    })
}

fn costs_of([suspend, final_bitmap, cpu_state, landing, resume]: &[u64; 5]) -> FixedCosts {
    FixedCosts {
        suspend: Micros(*suspend),
        final_bitmap: Micros(*final_bitmap),
        cpu_state: Micros(*cpu_state),
        landing: Micros(*landing),
        resume: Micros(*resume),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_arrive_as_they_were_sent() {
        let expected = Costs {
            suspend: Duration::from_millis(100),
            ..Costs::ASSUMED
        };
        let suspend_pages = SuspendPages {
            expected: 420,
            most: 530,
        };
        let sent = costs_variable(Costs::ASSUMED, expected, suspend_pages);
        let arrived = Assumed {
            at_most: Costs::ASSUMED.into(),
            expected: expected.into(),
            suspend_pages,
        };
        assert_eq!(assumed(&sent), Some(arrived));
    }

    #[test]
    fn the_ten_numbers_of_an_older_lull_are_understood_and_others_are_not() {
        let ten = "200000,10000,50000,3000000,50000,100000,10000,50000,3000000,50000";
        let understood = assumed(ten).expect("ten numbers");
        assert_eq!(understood.suspend_pages, SuspendPages::DEFAULT);
        assert_eq!(understood.expected.suspend, Micros(100_000));
        let others = [",1", ",1,2,3", ",1,x", ",,", ",1,2,3,4,5"];
        for other in others.map(|more| format!("{ten}{more}")) {
            assert_eq!(assumed(&other), None, "{other}");
        }
        assert_eq!(assumed(&ten[7..]), None);
        assert_eq!(assumed(""), None);
    }
}
