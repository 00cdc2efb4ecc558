//! The rig by hand: `cargo run -p lull-tests --bin rig -- shell`.

use std::io::Read;

use anyhow::{Result, bail};
use lull_tests::{Host, HostConfig, Hypervisor};

const USAGE: &str = "usage: rig shell [--pv]
  shell   boots a Xen host, prints how to get in, and keeps it until ^C
          --pv: with the hypervisor that can migrate PV guests";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["shell"] => shell(Hypervisor::Security),
        ["shell", "--pv"] => shell(Hypervisor::Shadow),
        _ => bail!("{USAGE}"),
    }
}

fn shell(hypervisor: Hypervisor) -> Result<()> {
    let host = Host::boot(&HostConfig {
        hypervisor,
        ..HostConfig::default()
    })?;
    println!("{}", host.ssh_command());
    println!("logs: {}", host.folder().display());
    println!("^C ends it");
    // Standard input at its end (a detached job has none) is no wish to stop.
    let mut byte = [0; 1];
    while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
    while host.is_running() {
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    bail!("QEMU ended by itself; see {}", host.folder().display())
}
