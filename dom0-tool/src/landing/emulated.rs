//! Which HVM guests may land fast.
//!
//! Their copy's QEMU stands at the destination while the guest still runs here. It has not
//! got its state, so it has its disks open without using them, and takes no packet.

use std::fs;
use std::io;

use lull_xen::domain::hvm_param;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, Xen};

/// Why an older lull at the destination takes no HVM guest, as a clause.
pub const TOO_OLD: &str =
    "it is an HVM guest, and the lull there does not know how to keep its QEMU waiting";

/// Why a receiver of the operator's own takes none, as a clause.
pub const NO_RECEIVER: &str = "it is an HVM guest, and the command that leads there does not end \
     in `xl migrate-receive`, so it cannot be told to leave the copy paused";

/// The word in QEMU's command line with `dm_restrict` (`libxl_dm.c`, 4.17 to 4.22).
const RESTRICTED: &[u8] = b"-xen-domid-restrict";

/// What has to be known of the guest.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Its QEMU may do no more than it needs to (`dm_restrict`). libxl then waits for an
    /// answer that the copy's QEMU gives only once it has its state.
    is_restricted: bool,
    /// It has drivers that follow a request to suspend. Without them libxl stops the guest
    /// from outside, and lull does not.
    has_drivers: bool,
    /// It sleeps, as ACPI has it, and follows no request.
    sleeps: bool,
    /// QEMU serves a disk that the guest can write to as a Xen disk, too. Such a disk is
    /// opened for good while the guest still runs here.
    has_qdisk: bool,
}

/// Checks whether the guest may land fast, beside what its devices are.
///
/// # Errors
/// Why it may not, as a clause without a full stop.
pub fn judge(store: &mut Xenstore, domid: DomId) -> Result<(), String> {
    let xen = Xen::open_here().map_err(|error| format!("Xen cannot be asked: {error}"))?;
    let machine = look(&xen, store, domid);
    bears_it(machine.map_err(|error| format!("its emulated machine is not known: {error}"))?)
}

fn look(xen: &Xen, store: &mut Xenstore, domid: DomId) -> io::Result<Machine> {
    Ok(Machine {
        is_restricted: is_restricted(&command_line(store, domid)?),
        has_drivers: xen.hvm_param(domid, hvm_param::CALLBACK_IRQ)? != 0,
        sleeps: xen.hvm_param(domid, hvm_param::ACPI_S_STATE)? != 0,
        has_qdisk: has_qdisk(store, domid)?,
    })
}

/// The command line of the guest's QEMU, with a NUL after each word.
fn command_line(store: &mut Xenstore, domid: DomId) -> io::Result<Vec<u8>> {
    let path = format!("/local/domain/{domid}/image/device-model-pid");
    let pid = store.read(&path)?.and_then(|pid| pid.parse::<u32>().ok());
    let pid = pid.ok_or_else(|| io::Error::other("libxl does not say which QEMU it has"))?;
    fs::read(format!("/proc/{pid}/cmdline"))
}

fn is_restricted(line: &[u8]) -> bool {
    line.split(|byte| *byte == 0).any(|word| word == RESTRICTED)
}

fn has_qdisk(store: &mut Xenstore, domid: DomId) -> io::Result<bool> {
    let folder = format!("/libxl/{domid}/device/vbd");
    for number in store.list(&folder)? {
        let backend = store.read(&format!("{folder}/{number}/backend"))?;
        let backend = backend.unwrap_or_default();
        if backend.starts_with("/local/domain/0/backend/qdisk/")
            && store.read(&format!("{backend}/mode"))?.as_deref() != Some("r")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn bears_it(machine: Machine) -> Result<(), String> {
    let why = match machine {
        Machine {
            is_restricted: true,
            ..
        } => "its QEMU is restricted (dm_restrict), and could not wait at the destination",
        Machine {
            has_drivers: false, ..
        } => "it is an HVM guest without PV drivers, which only libxl can stop",
        Machine { sleeps: true, .. } => "it sleeps (ACPI), and only libxl can stop it so",
        Machine {
            has_qdisk: true, ..
        } => "its QEMU serves it a disk that it can write to",
        _ => return Ok(()),
    };
    Err(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Machine = Machine {
        is_restricted: false,
        has_drivers: true,
        sleeps: false,
        has_qdisk: false,
    };

    #[test]
    fn a_usual_guest_bears_it_and_others_are_told_why() {
        assert_eq!(bears_it(USUAL), Ok(()));
        let no = |machine| bears_it(machine).unwrap_err();
        let restricted = Machine {
            is_restricted: true,
            ..USUAL
        };
        assert!(no(restricted).contains("dm_restrict"));
        let bare = Machine {
            has_drivers: false,
            ..USUAL
        };
        assert!(no(bare).contains("PV drivers"));
        let asleep = Machine {
            sleeps: true,
            ..USUAL
        };
        assert!(no(asleep).contains("ACPI"));
        let served = Machine {
            has_qdisk: true,
            ..USUAL
        };
        assert!(no(served).contains("disk"));
    }

    #[test]
    fn a_restricted_qemu_is_known_by_a_whole_word() {
        assert!(is_restricted(
            b"qemu\0-xen-domid\x007\0-xen-domid-restrict\0"
        ));
        assert!(!is_restricted(b"qemu\0-name\0x-xen-domid-restrict\0"));
        assert!(!is_restricted(b""));
    }
}
