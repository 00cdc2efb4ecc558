//! Pings at an even interval and records when each reply came. The kernel of the guest
//! answers, so this shows whether the guest's processor runs, not its programs.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use rustix::time::{ClockId, clock_gettime};

use crate::echo_request;

/// Pings until the file `stop` exists.
///
/// Prints one object per ping, oldest first, when it ends. Sequence numbers have 16 bits,
/// so an observation ends after 65,536 pings (21 minutes).
pub fn run(address: Ipv4Addr, interval_ms: u64, stop: &Path) -> Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
        .context("cannot open a raw socket")?;
    let identifier = (std::process::id() & 0xffff) as u16;
    let interval = interval_ms * 1_000_000;
    let target = SocketAddrV4::new(address, 0);

    let mut sent: Vec<u64> = Vec::new();
    let mut replies: Vec<Option<u64>> = Vec::new();
    let start = now_ns();
    while sent.len() < 1 << 16 && !stop.exists() {
        let now = now_ns();
        // Pings missed during a stall are not sent later; the grid of times stays.
        let due = match sent.last() {
            None => start,
            Some(last) => start + ((last - start) / interval + 1) * interval,
        };
        if now >= due {
            let sequence = u16::try_from(sent.len()).unwrap_or(u16::MAX);
            sent.push(now);
            replies.push(None);
            // While the guest has no interface there is no route, which counts as a lost
            // ping.
            let request = echo_request::request(identifier, sequence);
            let _ = rustix::net::sendto(&socket, &request, SendFlags::empty(), &target);
            continue;
        }
        if wait_for_packet(&socket, due - now)? {
            receive(&socket, identifier, &mut replies);
        }
    }
    // Replies that are still under way get 200 ms.
    let end = now_ns() + 200_000_000;
    while now_ns() < end {
        if wait_for_packet(&socket, 50_000_000)? {
            receive(&socket, identifier, &mut replies);
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (sent_ns, reply) in sent.iter().zip(&replies) {
        let reply = reply.map_or_else(|| String::from("null"), |ns| ns.to_string());
        writeln!(out, "{{\"sent_ns\":{sent_ns},\"reply_ns\":{reply}}}")?;
    }
    out.flush()?;
    Ok(())
}

fn receive(socket: &OwnedFd, identifier: u16, replies: &mut [Option<u64>]) {
    let mut packet = [0_u8; 256];
    let Ok((length, _)) = rustix::net::recv(socket, &mut packet[..], RecvFlags::DONTWAIT) else {
        return;
    };
    let now = now_ns();
    let sequence = echo_request::reply_to(identifier, &packet[..length]);
    if let Some(slot) = sequence.and_then(|s| replies.get_mut(usize::from(s))) {
        slot.get_or_insert(now);
    }
}

fn wait_for_packet(socket: &OwnedFd, nanos: u64) -> Result<bool> {
    let timeout = Timespec::try_from(Duration::from_nanos(nanos)).context("a timeout")?;
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
