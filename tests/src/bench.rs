//! Compares lull's sender with stock's, without and with lull's transport. The guest and
//! the sink are the same, and the senders take turns.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lull_base::table::{Table, table};

use crate::{Guest, GuestSpec, Host, HostConfig};

/// The number of turns of each sender; the first of each is a warm-up.
const TURNS: usize = 4;

/// The file in dom0 to which the sink writes its measurements.
const SINK: &str = "/run/rig/sink";

/// Bytes of a page.
const PAGE: f64 = 4096.0;

/// One of the senders that are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Stock,
    /// lull runs as libxl's helper.
    Helper,
    /// `lull migrate` runs the helper with the transport behind it.
    Whole,
}

impl Sender {
    const ALL: [Self; 3] = [Self::Stock, Self::Helper, Self::Whole];

    /// Returns the start of the command line; the guest and the destination follow.
    const fn command(self) -> &'static str {
        match self {
            Self::Stock => "xl migrate -s ''",
            Self::Helper => "LIBXL_SAVE_HELPER=/usr/local/bin/lull xl migrate -s ''",
            Self::Whole => "lull migrate -s ''",
        }
    }
}

/// The measurements of one turn.
struct Turn {
    pages_per_sec: f64,
    /// CPU seconds of dom0, including everything that runs there, per GiB sent.
    cpu_per_gib: f64,
}

/// Boots a host, runs the turns and prints the medians and their ratio.
pub fn run() -> Result<()> {
    let host = Host::boot(&HostConfig::default())?;
    host.install_lull()?;
    let guest = host.create_guest(&GuestSpec::new("bench"))?;
    let mut all = [const { Vec::new() }; 3];
    for turn in 0..TURNS {
        for (sender, turns) in Sender::ALL.into_iter().zip(&mut all) {
            let measured = measure(&host, &guest, sender)?;
            if turn > 0 {
                turns.push(measured);
            }
        }
    }
    println!("{}", compared(&all));
    Ok(())
}

fn measure(host: &Host, guest: &Guest, sender: Sender) -> Result<Turn> {
    // The fields are user, nice, system, irq and softirq, in hundredths of a second.
    let cpu = "awk '/^cpu /{print $2+$3+$4+$7+$8}' /proc/stat";
    let before: f64 = host.run(cpu)?.checked()?.trim().parse()?;
    let name = guest.name();
    let command = format!(
        "rm -f {SINK}; {} {name} 'rig-agent sink {SINK}' 2>&1; cat {SINK}",
        sender.command()
    );
    let output = host.run_for(&command, Duration::from_secs(300))?;
    let after: f64 = host.run(cpu)?.checked()?.trim().parse()?;
    guest
        .status()
        .context("the guest must run on at the source")?;
    let last = output.stdout.lines().last().unwrap_or_default();
    let numbers: Vec<f64> = last.split(' ').filter_map(|n| n.parse().ok()).collect();
    ensure!(
        numbers.len() == 2 && numbers[1] > 0.0,
        "no stream: {}",
        output.stdout
    );
    let (bytes, seconds) = (numbers[0], numbers[1] / 1_000.0);
    Ok(Turn {
        pages_per_sec: bytes / PAGE / seconds,
        cpu_per_gib: (after - before) / 100.0 / (bytes / f64::from(1 << 30)),
    })
}

fn compared(all: &[Vec<Turn>; 3]) -> Table {
    let header = [
        "median of three turns",
        "stock xl",
        "lull's helper",
        "lull migrate",
        "helper / stock",
        "migrate / helper",
    ];
    let mut table = table(&header, 1..header.len());
    for (name, figure) in [
        (
            "pages a second",
            (|turn: &Turn| turn.pages_per_sec) as fn(&Turn) -> f64,
        ),
        ("dom0 CPU s per GiB sent", |turn| turn.cpu_per_gib),
    ] {
        let [stock, helper, whole] = all.each_ref().map(|turns| median(turns, figure));
        table.add_row([
            name.to_owned(),
            format!("{stock:.1}"),
            format!("{helper:.1}"),
            format!("{whole:.1}"),
            format!("{:.2}", helper / stock),
            format!("{:.2}", whole / helper),
        ]);
    }
    table
}

fn median(turns: &[Turn], figure: fn(&Turn) -> f64) -> f64 {
    let mut figures: Vec<f64> = turns.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
