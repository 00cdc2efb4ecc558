//! The rig by hand: `cargo run -p lull-tests --bin rig -- shell`.

use std::time::Duration;

use anyhow::{Result, bail};
use lull_tests::timeline::Timeline;
use lull_tests::{GuestSpec, Host, HostConfig, Hypervisor, Load};

const USAGE: &str = "usage: rig shell [--pv] [--guest] | rig demo
  shell   boots a Xen host, prints how to get in, and keeps it until ^C
          --pv: with the hypervisor that can migrate PV guests
          --guest: with one guest running
  demo    boots a host and a guest, and has stock xl migrate it";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["shell", options @ ..] => shell(options),
        ["demo"] => demo(),
        _ => bail!("{USAGE}"),
    }
}

fn shell(options: &[&str]) -> Result<()> {
    let mut config = HostConfig::default();
    let mut with_guest = false;
    for option in options {
        match *option {
            "--pv" => config.hypervisor = Hypervisor::Shadow,
            "--guest" => with_guest = true,
            _ => bail!("{USAGE}"),
        }
    }
    let host = Host::boot(&config)?;
    if with_guest {
        let guest = host.create_guest(&GuestSpec::new("guest"))?;
        println!(
            "guest \"{}\" at {} (seen from dom0)",
            guest.name(),
            guest.ip()
        );
    }
    println!("{}", host.ssh_command());
    println!("logs: {}", host.folder().display());
    println!("^C ends it");
    while host.is_running() {
        std::thread::sleep(Duration::from_millis(500));
    }
    bail!("QEMU ended by itself; see {}", host.folder().display())
}

fn demo() -> Result<()> {
    let host = Host::boot(&HostConfig::default())?;
    let timeline = Timeline::start();
    let guest = host.create_guest(&GuestSpec::new("guest"))?;
    timeline.phase("guest answers");
    guest.set_load(Load::steady(500, 8_192))?;
    let observer = host.observe(&guest)?;
    timeline.phase("xl migrate guest localhost");
    let migration = host.run_for("xl migrate guest localhost", Duration::from_secs(300))?;
    timeline.phase(format_args!("xl ended with status {}", migration.status));
    let outages = observer.stop()?;
    let status = guest.verify_all()?;
    println!(
        "outage {:.0} ms ({} pings lost, dom0 itself stalled {:.0} ms at most); {} damaged pages",
        outages.longest_ms, outages.lost, outages.dom0_stall_ms, status.hash_errors
    );
    guest.destroy()
}
