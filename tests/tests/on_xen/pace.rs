//! The speed of the machine that runs all of this. Machines differ by a factor of three and
//! more, so limits that leave room are derived from the time of one stock move.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lull_tests::Host;
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;

use crate::world::small;

/// The outage of that move on the machine on which most limits were chosen.
const USUAL: Duration = Duration::from_millis(3_500);

/// The speed of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The outage of a stock move of a small, quiet guest.
    stock_outage: Duration,
}

impl Pace {
    /// Measures the speed on the first host; all hosts are on the same machine.
    ///
    /// # Errors
    /// When Xen's own tools do not move a guest, which is the rig's fault.
    pub fn of(host: &Host) -> Result<Self> {
        static MEASURED: Mutex<Option<Pace>> = Mutex::new(None);
        let mut measured = MEASURED
            .lock()
            .map_err(|_| anyhow!("the measurement panicked"))?;
        match *measured {
            Some(pace) => Ok(pace),
            None => Ok(*measured.insert(Self::measure(host)?)),
        }
    }

    /// Measures a move of a guest by Xen's own tools, to the same host.
    fn measure(host: &Host) -> Result<Self> {
        let timeline = Timeline::start();
        let guest = host.create_guest(&small())?;
        let observer = host.observe(&guest)?;
        let command = format!(
            "xl migrate -s '' {} 'xl migrate-receive'",
            quote(guest.name())
        );
        let moved = host.run_for(&command, Duration::from_secs(300))?;
        let outages = observer.stop()?;
        moved.checked().context("stock xl does not move a guest")?;
        guest.destroy()?;
        let stock_outage = Duration::from_secs_f64(outages.longest_ms / 1e3);
        timeline.phase(format_args!(
            "{}: stock xl moves a guest with an outage of {:.1} s; dom0 late by {:.0} ms at most",
            host.name(),
            stock_outage.as_secs_f64(),
            outages.dom0_stall_ms,
        ));
        Ok(Self { stock_outage })
    }

    /// Scales a limit, so that it leaves as much room here as `limit` does on the usual
    /// machine.
    pub fn scaled(self, limit: Duration) -> Duration {
        limit.mul_f64(self.stock_outage.div_duration_f64(USUAL).max(1.0))
    }

    /// Returns a limit that the pause of a quiet guest keeps with room to spare.
    pub fn ample(self) -> Duration {
        self.scaled(Duration::from_secs(20))
    }
}
