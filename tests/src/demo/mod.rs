//! `cargo demo`: three migrations on a real hypervisor.
//!
//! `show` runs a command with its output passing through, `told` picks the
//! figures out of what lull said, `summary` is the table at the end.

mod show;
mod summary;
mod told;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::{Guest, GuestSpec};
use crate::host::{Host, HostConfig};
use crate::observer::Outages;
use crate::timeline::Timeline;
use lull_guest::protocol::Load;

use summary::{Row, Summary};
use told::Told;

const NAME: &str = "web1";

/// Within reach of the quiet guest; the busy one alone needs longer to send
/// what it has written last.
const LIMIT: &str = "12s";

/// 1 MiB of pages, each written about once a second.
const QUIET: Load = Load::steady(250, 256);

/// 100 MiB of pages, each written about once a second.
const BUSY: Load = Load::steady(20_000, 25_600);

/// Long enough for a machine four times slower than two quiet cores.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs it.
///
/// # Errors
/// What failed, be it the rig or lull.
pub fn run() -> Result<()> {
    println!(
        "lull moves Xen guests that are never paused longer than you allow.\n\
         Here it does so on real Xen, which runs in QEMU without any help from the\n\
         processor: everything takes much longer than on real hardware.\n"
    );
    let host = Host::boot(&HostConfig::default())?;
    host.install_lull()?;
    let timeline = Timeline::start();
    let guest = host.create_guest(&GuestSpec::new(NAME))?;
    timeline.phase("guest web1 is up: 192 MiB, one processor, one network interface");

    let mut demo = Demo { host, guest };
    let rows = [
        demo.step(Demo::quiet)?,
        demo.step(Demo::busy)?,
        demo.step(Demo::stock)?,
    ];
    demo.check_memory()?;
    println!("\n{}", Summary(&rows));
    demo.guest.destroy()
}

struct Demo {
    host: Host,
    guest: Guest,
}

/// What is known of a command that was shown.
struct Seen {
    status: i32,
    text: String,
    outages: Outages,
    seconds: f64,
}

impl Demo {
    /// One migration; once more, with a new guest, when it was the emulated
    /// machine that failed.
    fn step(&mut self, migration: fn(&Self) -> Result<Row>) -> Result<Row> {
        let mark = self.host.console().mark();
        let outcome = migration(self);
        let Some(fault) = self.host.rig_faults_since(mark).into_iter().next() else {
            return outcome;
        };
        println!(
            "\nThe emulated machine failed, not lull: \"{}\". Once more, with a new web1.",
            fault.line
        );
        for domain in self.host.domains()?.iter().filter(|domain| domain.id != 0) {
            // Whatever is left of the old one; it may go by itself.
            let _ = self.host.run(&format!("xl destroy {}", domain.id));
        }
        self.guest = self.host.create_guest(&GuestSpec::new(NAME))?;
        migration(self)
    }

    fn quiet(&self) -> Result<Row> {
        heading(
            1,
            "A quiet guest moves",
            &format!(
                "web1 writes {} pages a second, {} different ones. It may pause for {LIMIT}.",
                QUIET.pages_per_sec, QUIET.working_set_pages
            ),
        );
        self.guest.set_load(QUIET)?;
        let seen = self.watch(&format!(
            "lull migrate --max-suspend-time {LIMIT} web1 localhost"
        ))?;
        ensure!(seen.status == 0, "lull did not move the quiet guest");
        Ok(Row::of_lull("quiet, lull", "moved", LIMIT, &seen.into()))
    }

    fn busy(&self) -> Result<Row> {
        heading(
            2,
            "A busy guest is refused, and keeps running",
            &format!(
                "Now web1 writes {} pages a second all over 100 MiB. The limit is the same.",
                BUSY.pages_per_sec
            ),
        );
        let before = self.guest.set_load(BUSY)?;
        let seen = self.watch(&format!(
            "lull migrate --max-suspend-time {LIMIT} web1 localhost"
        ))?;
        ensure!(
            matches!(seen.status, 3 | 4),
            "lull was to refuse the busy guest, and ended with {}",
            seen.status
        );
        let after = self.guest.status()?;
        ensure!(
            after.pages_written > before.pages_written,
            "web1 does not run"
        );
        println!(
            "\nweb1 itself says: {} pages written before, {} after. It never stopped.",
            before.pages_written, after.pages_written
        );
        Ok(Row::of_lull("busy, lull", "refused", LIMIT, &seen.into()))
    }

    fn stock(&self) -> Result<Row> {
        heading(
            3,
            "The same busy guest with stock xl",
            "Stock Xen knows no limit: after five rounds it stops the guest, however much is left.",
        );
        let seen = self.watch("xl migrate web1 localhost")?;
        ensure!(seen.status == 0, "stock xl did not move the guest");
        Ok(Row::of_stock("busy, stock xl", &seen.into()))
    }

    fn watch(&self, command: &str) -> Result<Seen> {
        let observer = self.host.observe(&self.guest)?;
        println!("$ {command}");
        let timeline = Timeline::start();
        let (status, text) = show::run(&self.host, command, LONGEST)?;
        let seconds = timeline.seconds();
        let outages = observer.stop().context("the ping")?;
        Ok(Seen {
            status,
            text,
            outages,
            seconds,
        })
    }

    fn check_memory(&self) -> Result<()> {
        let status = self.guest.verify_all()?;
        ensure!(
            status.hash_errors == 0,
            "pages were damaged on the way: {status:?}"
        );
        println!(
            "\nweb1 has checked its {} pages: each holds what was last written to it.",
            status.reserve_pages
        );
        Ok(())
    }
}

impl From<Seen> for Told {
    fn from(seen: Seen) -> Self {
        Self::new(&seen.text, &seen.outages, seen.seconds)
    }
}

fn heading(number: u32, title: &str, text: &str) {
    println!("\n{number}. {title}\n   {text}\n");
}
