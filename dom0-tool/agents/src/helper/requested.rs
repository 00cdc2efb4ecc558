//! The limits and costs for the helper. `lull migrate` passes them in the environment
//! ([`MigrationSpec`]). When plain xl or libvirt starts the helper, it reads the limits from
//! their file and the costs from the ledger.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use anyhow::Context;
use lull_base::bandwidth::Bandwidth;
use lull_base::inherited_fd;
use lull_base::monotonic::now_ns;
use lull_base::risk::Risk;
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::Micros;
use lull_store::ledger::{self, Ledger, Subject};
use lull_store::limits::{self, Chosen, Effective};
use lull_wire::spec::{BadSpec, MigrationSpec, PauseCosts, VARIABLE};
use lull_xen::DomId;
use lull_xen::host;
use lull_xen::xenstore::Xenstore;

/// What `lull migrate` asks for; `None` under another toolstack.
///
/// # Errors
/// When the variable is missing or cannot be understood.
pub fn spec() -> Result<Option<MigrationSpec>, BadSpec> {
    let sockets = [
        lull_wire::events::FRONT_END_FD,
        super::pass_stream::ENGINE_FD,
    ];
    let is_watched = sockets.into_iter().any(inherited_fd::is_named_socket);
    read(is_watched, env::var_os(VARIABLE).as_deref())
}

/// A shell may have inherited the variable alone, and that must not replace the limits in
/// the file: `lull migrate` also holds the other end of a socket. Where it does, limits that
/// are not understood are not replaced by those in the file either.
fn read(is_watched: bool, variable: Option<&OsStr>) -> Result<Option<MigrationSpec>, BadSpec> {
    match (is_watched, variable) {
        (false, _) => Ok(None),
        (true, None) => Err(BadSpec::Missing),
        (true, Some(text)) => MigrationSpec::decode(text.as_bytes()).map(Some),
    }
}

/// When the attempt started: as the specification says, or now if there is none.
pub fn start(spec: &Result<Option<MigrationSpec>, BadSpec>) -> Instant {
    let now = Instant::now();
    let started = spec.as_ref().ok().and_then(Option::as_ref);
    let ago = started.map_or(0, |spec| now_ns().saturating_sub(spec.started_monotonic_ns));
    now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
}

/// The limits, and their source if it is not the specification.
#[derive(Debug, Default)]
pub struct Requested {
    pub limits: Limits,
    /// The bandwidth cap until the suspend.
    pub bandwidth: Bandwidth,
    /// The share of pauses that the estimate may get wrong.
    pub risk: Risk,
    /// Whether the guest is to be left paused; no limit then bounds its pause.
    pub left_paused: bool,
    /// Whether xl's receiver leaves the copy paused for `lull land` to start it.
    pub copy_paused: bool,
    /// What the pause is assumed to cost. `None` if that is for the ledger to say.
    pub costs: Option<PauseCosts>,
    pub from: Effective,
}

impl Requested {
    /// Whether any limit or bandwidth cap is set.
    pub fn is_limited(&self) -> bool {
        self.limits != Limits::default() || self.bandwidth.0.is_some()
    }
}

/// The limits for this guest; empty where none is set.
///
/// # Errors
/// When the specification is not one for this guest, or when the file cannot be read or
/// parsed. An error never means "no limit".
pub fn limits(
    domid: DomId,
    spec: Result<Option<MigrationSpec>, BadSpec>,
) -> anyhow::Result<Requested> {
    let Some(spec) = spec? else {
        return requested_by_file(domid);
    };
    if spec.domain != domid {
        anyhow::bail!(
            "`lull migrate` asks for domain {} to be moved, and libxl for domain {domid}",
            spec.domain
        );
    }
    Ok(Requested {
        limits: spec.limits,
        bandwidth: spec.bandwidth,
        risk: spec.risk,
        left_paused: spec.left_paused,
        copy_paused: spec.copy_paused,
        costs: Some(spec.costs),
        from: Effective::default(),
    })
}

fn requested_by_file(domid: DomId) -> anyhow::Result<Requested> {
    let from = from_file(domid)?;
    let micros = |chosen: &Option<Chosen>| {
        Chosen::limit_of(chosen.as_ref()).map(|limit| Micros(limit.as_micros()))
    };
    Ok(Requested {
        limits: Limits {
            max_suspend: micros(&from.max_suspend_time).and_then(DowntimeLimit::new),
            timeout: micros(&from.timeout).and_then(Timeout::new),
        },
        bandwidth: Bandwidth(Chosen::limit_of(from.bandwidth.as_ref())),
        risk: Chosen::limit_of(from.risk.as_ref()).unwrap_or_default(),
        left_paused: false,
        copy_paused: false,
        costs: None,
        from,
    })
}

fn from_file(domid: DomId) -> anyhow::Result<Effective> {
    let name = name(domid)?;
    let uuid = host::uuid(domid).context("the guest's UUID cannot be read from xenstore")?;
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
pub fn name(domid: DomId) -> anyhow::Result<String> {
    let name =
        Xenstore::open().and_then(|mut store| store.read(&format!("/local/domain/{domid}/name")));
    name.context("the guest's name cannot be read from xenstore")?
        .context("xenstore has no name of the guest")
}

/// What the pause of the guest is assumed to cost. The destination is unknown,
/// so these are the worst costs known of any.
pub fn costs_wherever(guest: Subject<'_>) -> PauseCosts {
    let ledger = Ledger::at(ledger::FILE);
    let known = ledger.known_wherever(guest, |line| eprintln!("lull: {line}"));
    (&known).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_end_asks_by_the_variable_and_nothing_else_does() {
        let asked = MigrationSpec::unlimited(7);
        let text = asked.encode();
        assert_eq!(read(true, Some(text.as_ref())), Ok(Some(asked)));
        assert_eq!(read(false, Some(text.as_ref())), Ok(None));
        assert_eq!(read(false, Some("}{".as_ref())), Ok(None));
        assert_eq!(read(true, None), Err(BadSpec::Missing));
        assert!(read(true, Some("}{".as_ref())).is_err());
    }

    #[test]
    fn one_guests_limits_are_not_anothers() {
        let asked = || Ok(Some(MigrationSpec::unlimited(7)));
        assert!(limits(7, asked()).is_ok());
        let error = limits(8, asked()).unwrap_err().to_string();
        assert!(
            error.contains("domain 7") && error.contains("domain 8"),
            "{error}"
        );
    }
}
