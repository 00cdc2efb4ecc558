//! Starts the rig by hand: `cargo run -p lull-tests --bin rig -- shell`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use lull_tests::{GuestSpec, GuestType, Host, HostConfig, Hypervisor, Link, bench, demo, landing};

const USAGE: &str =
    "usage: rig shell [--pv] [--guest | --hvm] [--hosts] | rig prepare | rig demo | rig bench |
       rig landing [--hvm | --hosts | --large] [--busy]
  shell   boots a Xen host, prints how to get in, and keeps it until ^C
          --pv: with the hypervisor that can migrate PV guests
          --guest: with lull installed and one guest running
          --hvm: the same with an HVM guest
          --hosts: and two more, of Xen 4.17 and 4.20 as Debian installs them
  prepare fetches and builds what hosts are made of, and boots nothing
  demo    boots a host and shows three migrations (`cargo demo`)
  bench   times lull's sender beside stock's
  landing times outages: stock xl, lull landing the classic way, with its own
          network script, and landing fast
          --hvm: of an HVM guest, and not with lull's network script
          --hosts: there and back between two hosts of Xen 4.17, likewise without it
          --large: of a guest of 1 GiB, half of it written; for its CPU time
          --busy: of a guest that writes 2,000 pages a second";

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
        ["landing", options @ ..] => time_landings(options),
        _ => bail!("{USAGE}"),
    }
}

fn time_landings(options: &[&str]) -> Result<()> {
    let mut setting = landing::Setting {
        kind: GuestType::Pvh,
        busy: false,
        large: false,
        two_hosts: false,
    };
    for option in options {
        match *option {
            "--hvm" => setting.kind = GuestType::Hvm,
            "--busy" => setting.busy = true,
            "--large" => setting.large = true,
            "--hosts" => setting.two_hosts = true,
            _ => bail!("{USAGE}"),
        }
    }
    landing::run(setting)
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
        let spec = match kind {
            GuestType::Hvm => {
                host.install_device_model()?;
                GuestSpec::hvm("guest")
            }
            _ => {
                host.run("modprobe -a nvme xen-blkback")?.checked()?;
                GuestSpec {
                    disk: Some("phy:/dev/nvme0n1,xvda,w".to_owned()),
                    ..GuestSpec::new("guest")
                }
            }
        };
        let guest = host.create_guest(&spec)?;
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
