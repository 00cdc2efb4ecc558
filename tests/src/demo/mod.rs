//! `cargo demo`: three migrations on a real hypervisor.
//!
//! `show` runs a command with its output passing through, `figures` extracts the figures from
//! lull's output, and `summary` is the table at the end.

mod count;
mod figures;
mod show;
mod summary;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::{Guest, GuestSpec};
use crate::host::{Host, HostConfig};
use crate::observer::Outages;
use crate::timeline::Timeline;
use lull_guest::protocol::Load;

use count::Count;
use figures::Figures;
use show::Manner;
use summary::{Row, Summary};

const NAME: &str = "web1";

/// The limit for the quiet guest. It is far more than the guest needs, unless the machine
/// is busy with other work.
const LIMIT: &str = "12s";

/// A load on half a MiB of pages, each written about once a second.
const QUIET: Load = Load::steady(100, 128);

/// A load on 64 MiB of pages, each written more than once a second.
const BUSY: Load = Load::steady(20_000, RESERVE_PAGES);

/// The guest's memory in MiB; it is small, so that the emulated processors are done in
/// minutes.
const MEMORY_MIB: u32 = 160;

const RESERVE_PAGES: u64 = 16_384;

/// The longest time of a command, enough for a machine four times slower than two quiet
/// cores.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Runs the demonstration.
///
/// # Errors
/// The failure, of the rig or of lull.
pub fn run() -> Result<()> {
    println!(
        "lull moves Xen guests that are never paused longer than you allow.\n\
         Here it does so on real Xen, which runs in QEMU without any help from the\n\
         processor: everything takes much longer than on real hardware.\n"
    );
    let host = Host::boot(&HostConfig::default())?;
    host.install_lull()?;
    let timeline = Timeline::start();
    let guest = host.create_guest(&spec())?;
    timeline.phase(format_args!(
        "guest {NAME} is up: {MEMORY_MIB} MiB, one processor, one network interface"
    ));

    let mut demo = Demo { host, guest };
    let (quiet, pause_ms) = demo.step(Demo::quiet)?;
    // The limit matches the present speed of this machine; stock will need far longer.
    let limit = format!("{}s", (pause_ms * 3 / 2).div_ceil(1_000));
    let busy = demo.step(|demo| demo.busy(&limit))?;
    let stock = demo.step(Demo::stock)?;
    let rows = [quiet, busy, stock];
    demo.check_memory()?;
    println!("\n{}", Summary(&rows));
    demo.guest.destroy()
}

fn spec() -> GuestSpec {
    GuestSpec {
        memory_mib: MEMORY_MIB,
        reserve_pages: RESERVE_PAGES,
        ..GuestSpec::new(NAME)
    }
}

struct Demo {
    host: Host,
    guest: Guest,
}

/// The result of a command that was shown.
struct Seen {
    status: i32,
    text: String,
    outages: Outages,
    seconds: f64,
}

impl Demo {
    /// Runs one migration, and repeats it with a new guest if the emulated machine failed.
    fn step<T>(&mut self, migration: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let mark = self.host.console().mark();
        let outcome = migration(self);
        let Some(fault) = self.host.rig_faults_since(mark).into_iter().next() else {
            return outcome;
        };
        println!(
            "\nThe emulated machine failed, not lull: \"{}\". Once more, with a new {NAME}.",
            fault.line
        );
        for domain in self.host.domains()?.iter().filter(|domain| domain.id != 0) {
            // This destroys what is left of the old guest, which may also disappear by
            // itself.
            let _ = self.host.run(&format!("xl destroy {}", domain.id));
        }
        self.guest = self.host.create_guest(&spec())?;
        migration(self)
    }

    fn quiet(&self) -> Result<(Row, u64)> {
        heading(
            1,
            "A quiet guest moves",
            &format!(
                "{NAME} writes {} pages a second, {} different ones. It may pause for {LIMIT}.",
                QUIET.pages_per_sec, QUIET.working_set_pages
            ),
        );
        self.guest.set_load(QUIET)?;
        let seen = self.watch(
            &format!("lull migrate --max-suspend-time {LIMIT} {NAME} localhost"),
            Manner::AsItIs,
        )?;
        ensure!(seen.status == 0, "lull did not move the quiet guest");
        let figures = Figures::from(seen);
        let pause = figures.observed_ms().context("lull reported no pause")?;
        Ok((Row::of_lull("quiet, lull", "moved", LIMIT, &figures), pause))
    }

    fn busy(&self, limit: &str) -> Result<Row> {
        heading(
            2,
            "A busy guest is refused, and keeps running",
            &format!(
                "Now {NAME} writes {} pages a second, {} different ones. It may pause for {limit},\n   \
                 half as long again as it just did.",
                Count(BUSY.pages_per_sec),
                Count(BUSY.working_set_pages)
            ),
        );
        let before = self.guest.set_load(BUSY)?;
        let seen = self.watch(
            &format!("lull migrate --max-suspend-time {limit} {NAME} localhost"),
            Manner::AsItIs,
        )?;
        ensure!(
            matches!(seen.status, 3 | 4),
            "lull was to refuse the busy guest, and ended with {}",
            seen.status
        );
        let after = self.guest.status()?;
        ensure!(
            after.pages_written > before.pages_written,
            "{NAME} does not run"
        );
        println!(
            "\n{NAME} itself says: {} pages written before, {} after. It never stopped.",
            Count(before.pages_written),
            Count(after.pages_written)
        );
        Ok(Row::of_lull("busy, lull", "refused", limit, &seen.into()))
    }

    fn stock(&self) -> Result<Row> {
        heading(
            3,
            "The same busy guest with stock xl",
            "Stock Xen knows no limit: after five rounds it stops the guest, however much is left.",
        );
        let seen = self.watch(
            &format!("xl migrate {NAME} localhost"),
            Manner::LinesWith("migration"),
        )?;
        ensure!(seen.status == 0, "stock xl did not move the guest");
        Ok(Row::of_stock("busy, stock xl", &seen.into()))
    }

    fn watch(&self, command: &str, manner: Manner) -> Result<Seen> {
        let observer = self.host.observe(&self.guest)?;
        println!("$ {command}");
        let timeline = Timeline::start();
        let (status, text) = show::run(&self.host, command, manner, TIMEOUT)?;
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
            "\n{NAME} has checked its {} pages: each holds what was last written to it.",
            Count(status.reserve_pages)
        );
        Ok(())
    }
}

impl From<Seen> for Figures {
    fn from(seen: Seen) -> Self {
        Self::new(&seen.text, &seen.outages, seen.seconds)
    }
}

fn heading(number: u32, title: &str, text: &str) {
    println!("\n{number}. {title}\n   {text}\n");
}
