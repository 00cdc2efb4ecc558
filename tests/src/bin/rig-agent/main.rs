//! The rig's agent inside dom0, for what a shell there cannot do, or not quickly.

mod ask;
mod burn;
mod compare;
mod echo_request;
mod hold;
mod hold_land;
mod memory;
mod pause;
mod pester;
mod ping;
mod relay;
mod remote;
mod screen;
mod sink;
mod stream_points;
mod streams;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage:
  rig-agent answer                             runs what `call` asks for, until killed
  rig-agent call HOST COMMAND…                 runs COMMAND there, as ssh does
  rig-agent ask ADDRESS:PORT LINE SECONDS      sends a line, prints the answer
  rig-agent ping ADDRESS INTERVAL_MS STOP       until the file STOP exists; a JSON object a ping
  rig-agent burn DOMID                         a PV domain's vCPU spins, and signals its first
                                               event channel without end
  rig-agent compare DOMID DOMID                frames that differ, as JSON
  rig-agent derail DOMID                       sends a PV domain's vCPU astray
  rig-agent hold-at PLACE RATE DOMID COMMAND -- TRANSPORT…
                                               a transport: runs COMMAND when the
                                               migration of DOMID has come to PLACE
                                               (banner, helper, first-round,
                                               later-round, stopped, cpu-state, ready,
                                               go, report), then goes on at RATE bytes
                                               a second, or 0 for as many as go
  rig-agent hold-land PLACE RATE DOMID COMMAND -- TRANSPORT…
                                               likewise a way to `lull land` (attach,
                                               later-round, stopped, state, landed,
                                               start, started)
  rig-agent older-land NEWEST -- TRANSPORT…    a way to `lull land` that greets as one that
                                               knows no version above NEWEST
  rig-agent hold-ready COMMAND -- TRANSPORT…   a transport for xl migrate -s: runs
                                               COMMAND before READY is passed on
  rig-agent pause-after LINES DOMID COMMAND    reads so many lines, runs COMMAND while the
                                               domain is paused
  rig-agent pester FOLDER                      annoys a socket there until it goes
  rig-agent screen COMMAND                     runs COMMAND on a terminal, prints what it draws
  rig-agent sink FILE                          a receiver that keeps nothing
  rig-agent resume DOMID                       a suspended PVH guest runs on
  rig-agent reset-log DOMID                    its dirty log is switched off and on
  rig-agent squeeze DOMID                      the domain gets no more memory
  rig-agent tee-stream FILE -- TRANSPORT…      a transport that keeps what was sent
  rig-agent throttle BYTES_PER_SEC -- TRANSPORT…
                                               a transport with a rate";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["call", host, command @ ..] => remote::call(host, command),
        words => run(words).map(|()| ExitCode::SUCCESS),
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["answer"] => remote::answer(),
        ["ask", address, line, seconds] => ask::run(address, line, seconds.parse()?),
        ["ping", address, interval, stop] => {
            ping::run(address.parse()?, interval.parse()?, stop.as_ref())
        }
        ["burn", domain] => burn::run(domain.parse()?),
        ["derail", domain] => memory::Privcmd::open()?.set_instruction_pointer(domain.parse()?, 8),
        ["compare", one, other] => compare::run(one.parse()?, other.parse()?),
        [
            "hold-at",
            place,
            rate,
            domain,
            command,
            "--",
            transport @ ..,
        ] => hold::run([place, rate, domain, command], transport),
        [
            "hold-land",
            place,
            rate,
            domain,
            command,
            "--",
            transport @ ..,
        ] => hold_land::run([place, rate, domain, command], transport),
        ["older-land", newest, "--", transport @ ..] => {
            hold_land::as_older(newest.parse()?, transport)
        }
        ["hold-ready", command, "--", transport @ ..] => relay::run(command, transport),
        ["pause-after", lines, domain, command] => {
            pause::run(lines.parse()?, domain.parse()?, command)
        }
        ["pester", folder] => pester::run(folder.as_ref()),
        ["screen", command] => screen::run(command),
        ["sink", file] => sink::run(file),
        ["resume", domain] => memory::Privcmd::open()?.resume(domain.parse()?),
        ["reset-log", domain] => memory::Privcmd::open()?.reset_log(domain.parse()?),
        ["squeeze", domain] => memory::Privcmd::open()?.squeeze(domain.parse()?),
        ["tee-stream", file, "--", transport @ ..] => streams::tee(file, transport),
        ["throttle", rate, "--", transport @ ..] => streams::throttle(rate.parse()?, transport),
        _ => bail!("{USAGE}"),
    }
}
