//! The link between hosts. QEMU sends each Ethernet frame of a network card over a TCP
//! connection, preceded by its length (four bytes, big endian); this switch passes it on to
//! all other hosts. The link can be slowed down, and cut.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The longest frame in bytes that a card may send, which is QEMU's own bound.
const FRAME_MAX: usize = 68 << 10;

/// A switch that hosts are connected to. It ends with the process.
#[derive(Clone)]
pub struct Link {
    /// The loopback port that QEMU connects to.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    /// Bytes a second in each direction; 0 for no limit.
    rate: AtomicU64,
    next: AtomicU64,
    hosts: Mutex<Vec<(u64, TcpStream)>>,
}

impl Link {
    /// Returns a switch without any connections.
    ///
    /// # Errors
    /// When no port is available.
    pub fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for a link")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        thread::Builder::new().name("link".into()).spawn(move || {
            for host in listener.incoming().flatten() {
                plug_in(host, &accepting);
            }
        })?;
        Ok(Self { port, state })
    }

    /// Drops every frame from now on, like a cable that is pulled out, or carries frames
    /// again.
    pub fn cut(&self, is_cut: bool) {
        self.state.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Limits each direction to that many bytes a second, or removes the limit.
    pub fn shape(&self, bytes_per_sec: Option<u64>) {
        let rate = bytes_per_sec.unwrap_or(0);
        self.state.rate.store(rate, Ordering::Relaxed);
    }
}

fn plug_in(host: TcpStream, state: &Arc<State>) {
    let number = state.next.fetch_add(1, Ordering::Relaxed);
    // Frames are written whole, so a delay to collect more data has no use.
    let Ok(out) = host.set_nodelay(true).and_then(|()| host.try_clone()) else {
        return;
    };
    if let Ok(mut hosts) = state.hosts.lock() {
        hosts.push((number, out));
    }
    let state = Arc::clone(state);
    thread::spawn(move || {
        // The thread ends when its QEMU does.
        let _ = carry(host, number, &state);
        if let Ok(mut hosts) = state.hosts.lock() {
            hosts.retain(|(other, _)| *other != number);
        }
    });
}

fn carry(mut from: TcpStream, number: u64, state: &State) -> io::Result<()> {
    let mut packet = vec![0; 4 + FRAME_MAX];
    let mut free_at = Instant::now();
    loop {
        from.read_exact(&mut packet[..4])?;
        let length = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]) as usize;
        if length > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let packet = &mut packet[..4 + length];
        from.read_exact(&mut packet[4..])?;
        if state.is_cut.load(Ordering::Relaxed) {
            continue;
        }
        let rate = state.rate.load(Ordering::Relaxed);
        if rate > 0 {
            let now = Instant::now();
            free_at = free_at.max(now) + Duration::from_secs_f64(length as f64 / rate as f64);
            thread::sleep(free_at - now);
        }
        let Ok(mut hosts) = state.hosts.lock() else {
            return Ok(());
        };
        for (_, host) in hosts.iter_mut().filter(|(other, _)| *other != number) {
            // The host's own thread detects that the host is gone.
            if host.write_all(packet).is_err() {
                let _ = host.shutdown(Shutdown::Both);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &[u8] = b"\0\0\0\x04ping";

    fn hosts(link: &Link) -> Result<[TcpStream; 2]> {
        let hosts = [
            TcpStream::connect(("127.0.0.1", link.port))?,
            TcpStream::connect(("127.0.0.1", link.port))?,
        ];
        while link.state.hosts.lock().is_ok_and(|hosts| hosts.len() < 2) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(hosts)
    }

    #[test]
    fn a_frame_reaches_the_other_host_alone() -> Result<()> {
        let link = Link::new()?;
        let [mut one, mut other] = hosts(&link)?;
        one.write_all(FRAME)?;
        let mut got = [0; FRAME.len()];
        other.read_exact(&mut got)?;
        assert_eq!(got, FRAME);
        one.set_read_timeout(Some(Duration::from_millis(50)))?;
        assert!(one.read(&mut got).is_err());
        Ok(())
    }

    #[test]
    fn a_link_that_is_cut_drops_what_is_sent_and_carries_what_follows() -> Result<()> {
        let link = Link::new()?;
        let [mut one, mut other] = hosts(&link)?;
        link.cut(true);
        one.write_all(FRAME)?;
        other.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut got = [0; FRAME.len()];
        assert!(other.read(&mut got).is_err());
        link.cut(false);
        one.write_all(b"\0\0\0\x04pong")?;
        other.read_exact(&mut got)?;
        assert_eq!(&got[4..], b"pong");
        Ok(())
    }
}
