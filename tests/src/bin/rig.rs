//! Starts the rig by hand: `cargo run -p lull-tests --bin rig -- shell`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use lull_tests::{GuestSpec, GuestType, Host, HostConfig, Hypervisor, Link, bench, demo, landing};

const USAGE: &str =
    "usage: rig shell [--pv] [--guest | --hvm] [--hosts] | rig prepare | rig demo | rig bench |
       rig landing [--busy]
  shell   boots a Xen host, prints how to get in, and keeps it until ^C
          --pv: with the hypervisor that can migrate PV guests
          --guest: with lull installed and one guest running
          --hvm: the same with an HVM guest
          --hosts: and two more, of Xen 4.17 and 4.20 as Debian installs them
  prepare fetches and builds what hosts are made of, and boots nothing
  demo    boots a host and shows three migrations (`cargo demo`)
  bench   times lull's sender beside stock's
  landing times outages: stock xl, lull landing the classic way, with its own
          network script, and landing fast";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["shell", options @ ..] => shell(options),
        ["prepare"] => Host::prepare(),
        ["demo"] => demo::run(),
        ["bench"] => bench::run(),
        ["landing"] => landing::run(false),
        ["landing", "--busy"] => landing::run(true),
        _ => bail!("{USAGE}"),
    }
}

fn shell(options: &[&str]) -> Result<()> {
    let mut config = HostConfig::default();
    let mut with_guest = None;
    for option in options {
        match *option {
            "--pv" => config.hypervisor = Hypervisor::Xen417Shadow,
            "--guest" => with_guest = Some(GuestType::Pvh),
            "--hvm" => with_guest = Some(GuestType::Hvm),
            "--hosts" => config.link = Some(Link::new()?),
            _ => bail!("{USAGE}"),
        }
    }
    let host = Host::boot(&config)?;
    let mut others = Vec::new();
    if config.link.is_some() {
        for (hypervisor, number) in [(Hypervisor::Xen417, 2), (Hypervisor::Xen420, 3)] {
            let other = Host::boot(&HostConfig {
                link: config.link.clone(),
                ..HostConfig::as_installed(hypervisor, number)
            })?;
            other.install_lull()?;
            println!("{}: {}", other.name(), other.ssh_command());
            others.push(other);
        }
    }
    if let Some(kind) = with_guest {
        host.install_lull()?;
        if kind == GuestType::Hvm {
            host.install_device_model()?;
        }
        host.run("modprobe -a nvme xen-blkback")?.checked()?;
        let disk = match kind {
            GuestType::Hvm => "phy:/dev/nvme0n1,hda,w",
            _ => "phy:/dev/nvme0n1,xvda,w",
        };
        let guest = host.create_guest(&GuestSpec {
            kind,
            disk: Some(disk.to_owned()),
            ..GuestSpec::new("guest")
        })?;
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
