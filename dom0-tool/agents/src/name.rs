//! The name of a guest whose handshake precedes its stop.
//!
//! xl renames the guest before it says GO, while the guest still runs here, and renames it
//! back when the destination gives it back. An xl that dies, or loses its connection, leaves
//! the guest under the other name.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lull_xen::DomId;
use lull_xen::xenstore::Xenstore;

/// Suffix that stock `xl migrate` appends to a guest's name before it says GO
/// (`tools/xl/xl_migrate.c`, 4.17 to 4.22).
pub const SUFFIX: &str = "--migratedaway";

/// Time that a domain of the same name has to go. On one host that is the guest's copy,
/// which is being destroyed.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between two tries.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Which name the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Its own, or one that neither xl nor lull gave it.
    Own,
    /// The other one, because another domain has its own.
    Taken(DomId),
}

/// Gives a guest that stays here its own name back, if xl has left it under the other. Waits
/// at most `patience` for a domain of that name to go.
///
/// # Errors
/// When xenstore does not answer.
pub fn give_back(domid: DomId, name: &str, patience: Duration) -> io::Result<Name> {
    let mut store = Xenstore::open()?;
    let until = Instant::now() + patience;
    loop {
        let found = try_to_give_back(&mut store, domid, name)?;
        if found == Name::Own || Instant::now() >= until {
            return Ok(found);
        }
        sleep(POLL_INTERVAL);
    }
}

fn try_to_give_back(store: &mut Xenstore, domid: DomId, name: &str) -> io::Result<Name> {
    let away = format!("{name}{SUFFIX}");
    let path = path_of(domid);
    if store.read(&path)?.as_ref() != Some(&away) {
        return Ok(Name::Own);
    }
    for other in store.list("/local/domain")? {
        let Some(other) = other.parse().ok().filter(|other| *other != domid) else {
            continue;
        };
        if store.read(&path_of(other))?.as_deref() == Some(name) {
            return Ok(Name::Taken(other));
        }
    }
    // xl may rename it at the same moment.
    if store.replace(&path, &away, name)?
        && let Some(vm) = store.read(&format!("/local/domain/{domid}/vm"))?
    {
        store.write(&format!("{vm}/name"), name)?;
    }
    Ok(Name::Own)
}

/// The guest's name now; `None` if xenstore does not tell it.
pub fn of(domid: DomId) -> Option<String> {
    Xenstore::open().ok()?.read(&path_of(domid)).ok()?
}

fn path_of(domain: DomId) -> String {
    format!("/local/domain/{domain}/name")
}
