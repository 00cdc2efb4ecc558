//! The emulated machine of an HVM guest. One of its registers is read for as long as the
//! guest lives. While the device model is stopped, Xen answers all ones in its place, so a
//! guest that runs without its devices is detected.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::checks::Checks;
use crate::protocol::MachineStatus;

/// The configuration space of the first PCI device, the emulated host bridge. Linux reads
/// the device each time, not a copy.
const BRIDGE: &str = "/sys/bus/pci/devices/0000:00:00.0/config";

/// The interval between two reads. Each takes milliseconds under emulation.
const NAP: Duration = Duration::from_millis(100);

/// The register under test and its counters.
pub struct Machine {
    bridge: File,
    /// Vendor and device of the bridge, as first read.
    identity: [u8; 4],
    checks: Checks,
}

impl Machine {
    /// Finds the emulated machine; `None` if the guest has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn found() -> io::Result<Option<Self>> {
        let bridge = match File::open(BRIDGE) {
            Ok(bridge) => bridge,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let identity = identity(&bridge)?;
        Ok(Some(Self {
            bridge,
            identity,
            checks: Checks::default(),
        }))
    }

    /// Returns the counters so far.
    pub fn status(&self) -> MachineStatus {
        self.checks.status()
    }

    /// Reads the register again and again.
    pub fn run(&self) -> ! {
        loop {
            let is_right = identity(&self.bridge).is_ok_and(|now| now == self.identity);
            self.checks.count(is_right);
            thread::sleep(NAP);
        }
    }
}

fn identity(bridge: &File) -> io::Result<[u8; 4]> {
    let mut identity = [0; 4];
    bridge.read_exact_at(&mut identity, 0)?;
    Ok(identity)
}
