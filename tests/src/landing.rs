//! The classic pause with Xen's own script for network interfaces and with
//! lull's: one host, the same load, turn by turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ssh::quote;
use crate::{Guest, GuestSpec, Host, HostConfig, Load};

/// Guests, one after the other: none moves so often that the emulation may
/// lose it (see the tests' world).
const GUESTS: usize = 3;

/// Pairs of moves of each guest.
const PAIRS: usize = 2;

const NAME: &str = "bench";
const LOAD: Load = Load::steady(500, 2_048);

/// No move takes that long.
const LONGEST: Duration = Duration::from_secs(240);

/// Who attaches the network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Stock,
    Lull,
}

/// What one move took, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Move {
    /// Without an answer to a ping.
    outage: f64,
    /// The pause, by lull's clock.
    pause: f64,
    /// Of it until the destination was ready.
    landing: f64,
}

/// Boots a host, moves guests, and prints each move, the medians, and their
/// ratio.
///
/// # Errors
/// When the host does not boot, or a guest does not move.
pub fn run() -> Result<()> {
    let host = Host::boot(&HostConfig::default())?;
    host.install_lull()?;
    let mut moves = [Vec::new(), Vec::new()];
    for number in 0..GUESTS {
        let guest = host.create_guest(&GuestSpec::new(NAME))?;
        guest.set_load(LOAD)?;
        for _ in 0..PAIRS {
            // Neither is always the one that comes first to a fresh guest.
            let order = match number % 2 {
                0 => [Script::Stock, Script::Lull],
                _ => [Script::Lull, Script::Stock],
            };
            for script in order {
                let done = measure(&host, &guest, script)?;
                println!("{script:?}: {done:.0?}");
                moves[script as usize].push(done);
            }
        }
        guest.destroy()?;
    }
    for (name, figure) in [
        ("outage", (|done| done.outage) as fn(&Move) -> f64),
        ("pause", |done| done.pause),
        ("until READY", |done| done.landing),
    ] {
        let [stock, lull] = moves.each_ref().map(|moves| median(moves, figure));
        println!(
            "{name}, medians of {}: vif-bridge {stock:.0} ms, vif-lull {lull:.0} ms, ratio {:.2}",
            moves[0].len(),
            lull / stock
        );
    }
    Ok(())
}

/// The script is the default of the moment when the guest's configuration is
/// read, which this has xl do once more.
fn measure(host: &Host, guest: &Guest, script: Script) -> Result<Move> {
    let (word, name) = match script {
        Script::Stock => ("disable", "vif-bridge"),
        Script::Lull => ("enable", "vif-lull"),
    };
    host.run(&format!("lull {word} vif"))?.checked()?;
    let observer = host.observe(guest)?;
    let command = format!(
        "lull migrate --json -s '' -C /run/rig/{NAME}.cfg {} 'xl migrate-receive'",
        quote(guest.name())
    );
    let said = host.run_for(&command, LONGEST)?.checked()?;
    let outages = observer.stop()?;
    let result: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    let ms = |key: &str| {
        let value = result[key].as_f64();
        value.with_context(|| format!("no {key}: {result}"))
    };
    let backend = format!("/local/domain/0/backend/vif/{}/0", guest.domid()?);
    let used = host.run(&format!("xenstore-read {backend}/script"))?;
    let used = used.checked()?;
    ensure!(used.trim().ends_with(name), "attached by {used}");
    Ok(Move {
        outage: outages.longest_ms,
        pause: ms("observed_downtime_ms")?,
        landing: ms("until_ready_ms")?,
    })
}

/// Of an even count the mean of the two in the middle.
fn median(moves: &[Move], figure: fn(&Move) -> f64) -> f64 {
    let mut figures: Vec<f64> = moves.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}
