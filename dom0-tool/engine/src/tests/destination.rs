//! The destination of the model: it reads the stream, and the channel of a fast landing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::time::{Duration, Instant};

use lull_wire::channel::{self, FromLand, Purpose, ToLand};
use lull_wire::stream::hvm_context;
use lull_wire::stream::records::Record;
use lull_xen::PAGE;
use rustix::io::ioctl_fionbio;
use rustix::pipe::fcntl_setpipe_size;

use super::model::CONTEXT;
use super::world::{DEVICES, Guest, Losing, World};
use crate::stream::sink::Sink;
use crate::{Channel, Connection};

/// The bytes that wait in a connection. A few pages are more, so a destination that stalls
/// is noticed in every round.
const PIPE: usize = 64 << 10;

/// The image header and the domain header.
const HEADERS: usize = 24 + 16;

/// Why the destination gives up.
pub const GIVES_UP: &str = "the guest's QEMU does not take its state";

/// Why it does not start the copy.
pub const NOT_STARTED: &str = "domain 12 could not be started";

/// How long a slow destination takes to follow a guest that has given memory back.
const FOLLOWING: Duration = Duration::from_millis(300);

/// What a frame holds of which only the number has come.
const HANDED_OUT: u64 = u64::MAX;

/// A connection's reading end, and what has been read and not used.
struct Inlet {
    from: PipeReader,
    bytes: Vec<u8>,
}

impl Inlet {
    /// Of a connection whose writing end is in the sender's hands. The sender makes it
    /// larger, so it is made small after that.
    fn new(from: PipeReader) -> Self {
        fcntl_setpipe_size(&from, PIPE).unwrap();
        ioctl_fionbio(&from, true).unwrap();
        Self {
            from,
            bytes: Vec::new(),
        }
    }

    fn read(&mut self) {
        match self.from.read_to_end(&mut self.bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        (self.bytes.len() >= count).then(|| self.bytes.drain(..count).collect())
    }

    /// The next frame of a channel, if it is complete. It is not taken.
    fn peek(&self) -> Option<ToLand> {
        let (kind, length) = channel::header(*self.bytes.first_chunk()?);
        let body = self.bytes.get(8..8 + length)?;
        Some(ToLand::decode(kind, body.to_vec()).unwrap())
    }

    /// The next frame of a channel, if it is complete.
    fn frame(&mut self) -> Option<ToLand> {
        let (kind, length) = channel::header(*self.bytes.first_chunk()?);
        let frame = self.take(8 + length)?;
        Some(ToLand::decode(kind, frame[8..].to_vec()).unwrap())
    }
}

/// A connection of the channel.
struct Line {
    /// 0 for the first one.
    number: u8,
    inlet: Inlet,
    to_source: PipeWriter,
}

/// Where the source writes.
pub struct Connections {
    pub stream: Sink,
    pub channel: Option<Channel>,
}

pub struct Destination<'w> {
    world: &'w World,
    /// `None` once the connections are closed.
    stream: Option<Inlet>,
    /// The connections of the channel; empty once they are closed.
    land: Vec<Line>,
    /// What arrived on a connection that is lost, and was not handled.
    late: Option<Inlet>,
    /// When a message first named only frames that have gone.
    gone_since: Option<Instant>,
    /// A number that orders what happens at the same time.
    chance: u32,
    begun: bool,
    /// Whether the stream has ended.
    pub ended: bool,
    /// Whether a copy was announced, whose QEMU waits for its state.
    pub armed: bool,
    /// The state of its QEMU.
    pub devices: Vec<u8>,
    /// Whether the final state is in place.
    pub landed: bool,
    /// Whether Start has started the copy.
    pub started: bool,
    /// What each frame holds here.
    pub copy: BTreeMap<u64, u64>,
    /// The number of pages of which only the numbers came, because they are all zero.
    pub zeros: usize,
}

impl<'w> Destination<'w> {
    pub fn new(world: &'w World) -> (Self, Connections) {
        let (from_source, to_stream) = pipe().unwrap();
        let stream = Sink::new(to_stream.into()).unwrap();
        let mut it = Self {
            world,
            stream: Some(Inlet::new(from_source)),
            land: Vec::new(),
            late: None,
            gone_since: None,
            chance: 1,
            begun: false,
            ended: false,
            armed: false,
            devices: Vec::new(),
            landed: false,
            started: false,
            copy: BTreeMap::new(),
            zeros: 0,
        };
        let mut channel = None;
        if let Some(edition) = world.landing.0 {
            let guest = ([7; 16], "web1");
            for number in 0..=world.landing.further() {
                let (from_source, to_land) = pipe().unwrap();
                let (from_land, to_source) = pipe().unwrap();
                let (to, from) = (to_land.into(), from_land.into());
                match &mut channel {
                    None => channel = Some(Channel::new(to, from, guest, edition).unwrap()),
                    Some(first) => first.join(Connection { number, to, from }).unwrap(),
                }
                it.land.push(Line {
                    number,
                    inlet: Inlet::new(from_source),
                    to_source,
                });
            }
            if let Some(channel) = channel.as_mut().filter(|_| world.landing.has_devices()) {
                channel.expect_devices(true).unwrap();
            }
        }
        (it, Connections { stream, channel })
    }

    /// Reads and answers what has arrived.
    pub fn go_on(&mut self) {
        if self.world.closed.get() {
            self.stream = None;
            self.land.clear();
        }
        if self.world.stalled.get() {
            return;
        }
        if let Some(mut stream) = self.stream.take() {
            stream.read();
            self.begun = self.begun || stream.take(HEADERS).is_some();
            while self.begun && self.record(&mut stream) {}
            self.stream = Some(stream);
        }
        let mut land = std::mem::take(&mut self.land);
        for line in &mut land {
            line.inlet.read();
        }
        self.lose(&mut land);
        self.answer_all(&mut land);
        self.land = land;
    }

    /// Breaks the connections that are to break.
    fn lose(&mut self, land: &mut Vec<Line>) {
        match self.world.losing.get() {
            Losing::None => return,
            Losing::One => land.retain(|line| line.number != 1),
            Losing::All => land.retain(|line| line.number == 0),
            Losing::OneLate => {
                let Some(at) = land.iter().position(|line| line.number == 1) else {
                    return;
                };
                let inlet = &land[at].inlet;
                let is_whole = inlet.bytes.first_chunk().is_some_and(|head| {
                    let (_, length) = channel::header(*head);
                    inlet.bytes.len() >= 8 + length
                });
                if !is_whole {
                    return;
                }
                self.late = Some(land.remove(at).inlet);
            }
        }
        self.world.losing.set(Losing::None);
    }

    /// Handles all frames that have arrived, in any order that keeps each connection's own.
    /// They were under way at the same time, so no frame of the guest may be in two of them
    /// unless one connection carries both.
    fn answer_all(&mut self, land: &mut [Line]) {
        let mut named: BTreeMap<u64, u8> = BTreeMap::new();
        let mut open: BTreeSet<u8> = land.iter().map(|line| line.number).collect();
        // A connection that will break does nothing until then.
        if self.world.losing.get() == Losing::OneLate {
            open.remove(&1);
        }
        while !open.is_empty() {
            self.chance = self.chance.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let nth = (self.chance >> 16) as usize % open.len();
            let number = *open.iter().nth(nth).unwrap();
            let line = land.iter_mut().find(|line| line.number == number).unwrap();
            if self.world.rests.get() && self.is_slow_with(line.inlet.peek()) {
                open.remove(&number);
                continue;
            }
            let Some(frame) = line.inlet.frame() else {
                open.remove(&number);
                continue;
            };
            if let ToLand::Pages(pages, _) = &frame {
                for gfn in [&pages.present, &pages.zero, &pages.depopulated]
                    .into_iter()
                    .flatten()
                {
                    let before = *named.entry(*gfn).or_insert(number);
                    assert_eq!(before, number, "frame {gfn:#x} on two connections");
                }
                assert!(number == 0 || pages.purpose == Purpose::Write);
            } else {
                assert!(number == 0 || frame == ToLand::Ping, "{frame:?}");
            }
            let (number, answer) = match self.world.land_gives_up.get() {
                // It says so on the first connection.
                true => (0, Some(FromLand::Failed(GIVES_UP.into()))),
                false => (number, self.handle(frame)),
            };
            let line = land.iter_mut().find(|line| line.number == number).unwrap();
            if let Some(answer) = answer {
                // An engine that has given up reads no more.
                let _ = line.to_source.write_all(&answer.encode());
            }
        }
    }

    /// Whether this message names only frames that have gone, and is not handled yet.
    fn is_slow_with(&mut self, frame: Option<ToLand>) -> bool {
        let Some(ToLand::Pages(pages, _)) = frame else {
            return false;
        };
        let is_more = !pages.present.is_empty() || !pages.zero.is_empty();
        if is_more || pages.depopulated.is_empty() {
            return false;
        }
        self.gone_since.get_or_insert_with(Instant::now).elapsed() < FOLLOWING
    }

    /// Handles a record of the stream. Returns whether there was one.
    fn record(&mut self, stream: &mut Inlet) -> bool {
        let Some(head) = stream.bytes.first_chunk::<8>() else {
            return false;
        };
        let (kind, length) = channel::header(*head);
        let Some(record) = stream.take(8 + length.next_multiple_of(8)) else {
            return false;
        };
        let body = &record[8..8 + length];
        let thin = self.world.landing.is_thin();
        if kind == Record::PageData as u32 {
            let count = number(body) as u32 as usize;
            let (entries, pages) = body[8..].split_at(8 * count);
            let mut pages = pages.chunks(PAGE).map(number);
            for entry in entries.chunks(8).map(number) {
                let holds = match (entry >> 60, thin) {
                    (0xe, true) => HANDED_OUT,
                    (0, false) => pages.next().unwrap(),
                    other => panic!("a page of type {other:?}"),
                };
                self.copy.insert(entry << 12 >> 12, holds);
            }
            assert_eq!(pages.next(), None);
        }
        if kind == Record::HvmContext as u32 {
            let bare = hvm_context::header_only(&CONTEXT).unwrap();
            assert_eq!(body, if thin { &bare[..] } else { &CONTEXT });
        }
        self.ended |= kind == Record::End as u32;
        true
    }

    /// Handles a frame of the channel, and returns the answer if there is one.
    fn handle(&mut self, frame: ToLand) -> Option<FromLand> {
        Some(match frame {
            ToLand::Expect(copy) => {
                assert!(!self.ended, "announced after the stream was complete");
                assert_eq!((copy.name.as_str(), copy.unpause), ("web1", true));
                if self.world.never_arms.get() {
                    return None;
                }
                self.armed = true;
                FromLand::Armed
            }
            ToLand::Devices(part) => {
                assert!(self.armed && !self.landed);
                self.devices.extend(part);
                return None;
            }
            ToLand::Attach(attach) => {
                assert!(self.ended, "attached before the stream was complete");
                assert_eq!(attach.name, "web1");
                FromLand::Attached
            }
            ToLand::Pages(pages, bytes) if pages.purpose == Purpose::Write => {
                let writes = bytes.chunks(PAGE).map(number);
                self.copy.extend(pages.present.into_iter().zip(writes));
                self.zeros += pages.zero.len();
                self.copy.extend(pages.zero.into_iter().map(|gfn| (gfn, 0)));
                for depopulated in pages.depopulated {
                    self.copy.remove(&depopulated);
                }
                self.world.placed.set(self.world.placed.get() + 1);
                FromLand::Applied
            }
            ToLand::Pages(pages, bytes) => {
                let writes = bytes.chunks(PAGE).map(number).map(Some);
                let depopulated = pages.depopulated.iter().map(|gfn| (gfn, None));
                let expected = pages.present.iter().zip(writes).chain(depopulated);
                let wrong = expected.filter(|(gfn, write)| self.copy.get(gfn).copied() != *write);
                let wrong: Vec<u64> = wrong.map(|(gfn, _)| *gfn).collect();
                FromLand::Compared {
                    differing: wrong.len() as u32,
                    first: wrong.first().copied().unwrap_or(0),
                }
            }
            ToLand::Leave(number) => {
                assert_eq!(number, 1, "not lost with anything under way");
                self.late = None;
                FromLand::Left
            }
            ToLand::State(state) => {
                // Whatever could still arrive does.
                while let Some(frame) = self.late.as_mut().and_then(Inlet::frame) {
                    let _ = self.handle(frame);
                }
                assert_eq!(state.context, CONTEXT);
                let saved = if self.armed { DEVICES } else { &[] };
                assert_eq!(self.devices, saved);
                let never = self.copy.values().any(|holds| *holds == HANDED_OUT);
                assert!(!never, "a frame was never written");
                self.landed = true;
                FromLand::Landed
            }
            ToLand::Start => {
                let world = self.world;
                assert_eq!(
                    (world.commits.get(), world.guest.get()),
                    (1, Guest::Suspended)
                );
                assert!(self.landed && !self.started, "started too early, or twice");
                if world.not_started.get() {
                    return Some(FromLand::Failed(NOT_STARTED.into()));
                }
                self.started = true;
                FromLand::Started
            }
            ToLand::Ping => FromLand::Pong,
        })
    }
}

/// The first eight bytes.
fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().unwrap())
}
