//! A slow link for the migration. Its traffic goes from dom0 to dom0 over the loopback
//! device, which carries no other significant traffic: guests are on the bridge, and the
//! rig connects through eth0.

use anyhow::Result;

use crate::host::Host;

/// The size of a burst in bytes: more than the largest packet of the loopback (64 KiB),
/// which would otherwise never pass.
const BURST_BYTES: u64 = 128 << 10;

impl Host {
    /// Limits the loopback device to a rate, or removes the limit.
    pub fn shape(&self, bytes_per_sec: Option<u64>) -> Result<()> {
        let command = match bytes_per_sec {
            None => String::from("tc qdisc del dev lo root 2>/dev/null; true"),
            Some(rate) => format!(
                "tc qdisc replace dev lo root tbf rate {rate}bps burst {BURST_BYTES} limit {}",
                4 << 20
            ),
        };
        self.run(&command)?.checked()?;
        Ok(())
    }
}
