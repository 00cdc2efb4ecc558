//! The link between hosts. QEMU sends each Ethernet frame of a network card over a TCP
//! connection, preceded by its length (four bytes, big endian); this switch passes it on to
//! all other hosts. The link can be slowed down, for all traffic together or for each TCP
//! connection by itself, and cut, and it can note which frames one station sends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The longest frame in bytes that a card may send, which is QEMU's own bound.
const FRAME_MAX: usize = 68 << 10;

/// How long a frame waits for the earlier ones of its TCP connection at most. Further ones
/// are dropped, as a router drops them when its buffer is full.
const QUEUE: Duration = Duration::from_millis(250);

/// The longest list of noted frames.
const NOTED_MAX: usize = 100_000;

/// `ETH_P_RARP`.
const RARP: u16 = 0x8035;

/// A frame of the station that is watched.
#[derive(Debug, Clone, Copy)]
pub struct Noted {
    /// When the switch had it.
    pub at: Instant,
    /// The number of the host that it came from, in the order of connection.
    pub host: u64,
    /// Its EtherType.
    kind: u16,
}

impl Noted {
    /// Whether it is a RARP request, which announces a station.
    pub fn is_announcement(&self) -> bool {
        self.kind == RARP
    }
}

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
    /// The same for each TCP connection.
    flow_rate: AtomicU64,
    next: AtomicU64,
    hosts: Mutex<Vec<(u64, TcpStream)>>,
    watched: Mutex<Option<Watched>>,
}

struct Watched {
    station: [u8; 6],
    noted: Vec<Noted>,
}

impl State {
    /// Passes a packet of a host on to all others. Fails when the switch is unusable.
    fn pass_on(&self, packet: &[u8], number: u64) -> Result<(), ()> {
        let mut hosts = self.hosts.lock().map_err(drop)?;
        for (_, host) in hosts.iter_mut().filter(|(other, _)| *other != number) {
            // The host's own thread detects that the host is gone.
            if host.write_all(packet).is_err() {
                let _ = host.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    fn note(&self, frame: &[u8], host: u64) {
        let Ok(mut watched) = self.watched.lock() else {
            return;
        };
        let (Some(watched), Some(&[high, low])) = (&mut *watched, frame.get(12..14)) else {
            return;
        };
        if frame[6..12] == watched.station && watched.noted.len() < NOTED_MAX {
            watched.noted.push(Noted {
                at: Instant::now(),
                host,
                kind: u16::from_be_bytes([high, low]),
            });
        }
    }
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

    /// Notes the frames of the station with that MAC address from now on.
    pub fn watch(&self, station: [u8; 6]) {
        if let Ok(mut watched) = self.state.watched.lock() {
            *watched = Some(Watched {
                station,
                noted: Vec::new(),
            });
        }
    }

    /// Returns the frames noted since then, and notes no more.
    pub fn watched(&self) -> Vec<Noted> {
        let watched = self.state.watched.lock().ok();
        let watched = watched.and_then(|mut watched| watched.take());
        watched.map(|watched| watched.noted).unwrap_or_default()
    }

    /// Limits each direction to that many bytes a second, or removes the limit.
    pub fn shape(&self, bytes_per_sec: Option<u64>) {
        let rate = bytes_per_sec.unwrap_or(0);
        self.state.rate.store(rate, Ordering::Relaxed);
    }

    /// Limits each TCP connection to that many bytes a second in each direction, however
    /// many there are, or removes the limit.
    pub fn shape_flows(&self, bytes_per_sec: Option<u64>) {
        let rate = bytes_per_sec.unwrap_or(0);
        self.state.flow_rate.store(rate, Ordering::Relaxed);
    }
}

/// A direction of a TCP connection over IPv4: addresses and ports.
type Flow = [u8; 12];

/// The connection that a frame belongs to.
fn flow(frame: &[u8]) -> Option<Flow> {
    const TCP: u8 = 6;
    let packet = frame.get(12..)?.strip_prefix(&[8, 0])?;
    let length = usize::from(packet.first()? & 15) * 4;
    let addresses = packet.get(12..20)?;
    let ports = packet.get(length..length + 4)?;
    let is_tcp = packet[0] >> 4 == 4 && packet[9] == TCP;
    let flow: Vec<u8> = [addresses, ports].concat();
    flow.try_into().ok().filter(|_| is_tcp)
}

/// A packet that waits for its turn, and the order in which it came.
type Waiting = Reverse<(Instant, u64, Vec<u8>)>;

/// Sends packets when they are due. Ends when the sender of the channel is dropped.
fn send_when_due(packets: &Receiver<Waiting>, number: u64, state: &State) {
    let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
    loop {
        let due = waiting.peek().map(|Reverse((at, ..))| *at);
        let wait = due.map_or(QUEUE, |at| at.saturating_duration_since(Instant::now()));
        match packets.recv_timeout(wait) {
            Ok(packet) => waiting.push(packet),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(Reverse((at, ..))) = waiting.peek()
            && *at <= Instant::now()
            && let Some(Reverse((_, _, packet))) = waiting.pop()
        {
            if state.pass_on(&packet, number).is_err() {
                return;
            }
        }
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

fn carry(mut from: TcpStream, number: u64, state: &Arc<State>) -> io::Result<()> {
    let mut packet = vec![0; 4 + FRAME_MAX];
    let mut free_at = Instant::now();
    let mut flows: HashMap<Flow, Instant> = HashMap::new();
    let mut later: Option<Sender<Waiting>> = None;
    let mut order = 0;
    loop {
        from.read_exact(&mut packet[..4])?;
        let length = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]) as usize;
        if length > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let packet = &mut packet[..4 + length];
        from.read_exact(&mut packet[4..])?;
        state.note(&packet[4..], number);
        if state.is_cut.load(Ordering::Relaxed) {
            continue;
        }
        let rate = state.rate.load(Ordering::Relaxed);
        if rate > 0 {
            let now = Instant::now();
            free_at = free_at.max(now) + Duration::from_secs_f64(length as f64 / rate as f64);
            thread::sleep(free_at - now);
        }
        let rate = state.flow_rate.load(Ordering::Relaxed);
        if rate == 0 && later.is_some() {
            // What waits is lost, and sent again.
            later = None;
            flows.clear();
        }
        if rate > 0
            && let Some(flow) = flow(&packet[4..])
        {
            let now = Instant::now();
            let free_at = flows.entry(flow).or_insert(now);
            let due = (*free_at).max(now) + Duration::from_secs_f64(length as f64 / rate as f64);
            if due - now > QUEUE {
                continue;
            }
            *free_at = due;
            order += 1;
            let later = later.get_or_insert_with(|| {
                let (later, packets) = mpsc::channel();
                let state = Arc::clone(state);
                thread::spawn(move || send_when_due(&packets, number, &state));
                later
            });
            if later.send(Reverse((due, order, packet.to_vec()))).is_err() {
                return Ok(());
            }
            continue;
        }
        if state.pass_on(packet, number).is_err() {
            return Ok(());
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

    /// A frame of a TCP connection from that port, with so many bytes after its ports.
    fn tcp(port: u16, content: &[u8]) -> Vec<u8> {
        let ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        let ports = [port.to_be_bytes(), [0, 22]].concat();
        let frame = [&[9; 12][..], &[8, 0], &ip, &[10; 8], &ports, content].concat();
        [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
    }

    #[test]
    fn a_connection_that_waits_for_its_turn_keeps_no_other_waiting() -> Result<()> {
        let link = Link::new()?;
        let [mut one, mut other] = hosts(&link)?;
        let other_frame = FRAME[4..].to_vec();
        assert_eq!(flow(&other_frame), None);
        let frame = tcp(7, b"");
        assert_ne!(flow(&frame[4..]), flow(&tcp(8, b"")[4..]));
        assert_eq!(flow(&frame[4..]), flow(&tcp(7, b"more")[4..]));
        // A frame takes 40 ms, so all but six of one connection are dropped.
        link.shape_flows(Some(frame.len() as u64 * 25));
        for _ in 0..50 {
            one.write_all(&frame)?;
        }
        one.write_all(&tcp(8, b""))?;
        one.write_all(FRAME)?;
        other.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut got = Vec::new();
        let _ = other.read_to_end(&mut got);
        assert!(got.starts_with(FRAME), "what is no TCP does not wait");
        let count = |port: u16| {
            let frame = tcp(port, b"");
            let frames = got[FRAME.len()..].chunks(frame.len());
            frames.filter(|got| *got == frame).count()
        };
        assert!((1..=7).contains(&count(7)), "{}", count(7));
        assert_eq!(count(8), 1);
        Ok(())
    }

    #[test]
    fn frames_of_one_station_are_noted() -> Result<()> {
        let link = Link::new()?;
        let [mut one, mut other] = hosts(&link)?;
        link.watch([7; 6]);
        let frame = |from: u8, kind: u16| {
            let kind = kind.to_be_bytes();
            [&[0, 0, 0, 14][..], &[9; 6], &[from; 6], &kind].concat()
        };
        for sent in [
            frame(6, RARP),
            frame(7, RARP),
            frame(7, 0x800),
            FRAME.into(),
        ] {
            one.write_all(&sent)?;
        }
        let mut got = vec![0; 3 * 18 + FRAME.len()];
        other.read_exact(&mut got)?;
        let noted = link.watched();
        let announced: Vec<bool> = noted.iter().map(Noted::is_announcement).collect();
        assert_eq!(announced, [true, false]);
        assert!(noted.iter().all(|frame| frame.host == noted[0].host));
        assert!(link.watched().is_empty());
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
