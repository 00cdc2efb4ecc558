//! The destination of the model: it reads the stream, and the channel of a fast landing.

use std::collections::BTreeMap;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};

use lull_wire::channel::{self, FromLand, Purpose, ToLand};
use lull_wire::stream::hvm_context;
use lull_wire::stream::records::Record;
use lull_xen::PAGE;
use rustix::io::ioctl_fionbio;
use rustix::pipe::fcntl_setpipe_size;

use super::model::CONTEXT;
use super::world::{Guest, Way, World};
use crate::Channel;
use crate::stream::sink::Sink;

/// The bytes that wait in a connection. A few pages are more, so a destination that stalls
/// is noticed in every round.
const PIPE: usize = 64 << 10;

/// The image header and the domain header.
const HEADERS: usize = 24 + 16;

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
    land: Option<(Inlet, PipeWriter)>,
    begun: bool,
    /// Whether the stream has ended.
    pub ended: bool,
    /// Whether the final state is in place.
    pub landed: bool,
    /// Whether the copy was started on the source's word.
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
            land: None,
            begun: false,
            ended: false,
            landed: false,
            started: false,
            copy: BTreeMap::new(),
            zeros: 0,
        };
        let mut channel = None;
        if let Some(edition) = world.landing.0 {
            let (from_source, to_land) = pipe().unwrap();
            let (from_land, to_source) = pipe().unwrap();
            let guest = ([7; 16], "web1");
            let (to, from) = (to_land.into(), from_land.into());
            channel = Some(Channel::new(to, from, guest, edition).unwrap());
            it.land = Some((Inlet::new(from_source), to_source));
        }
        (it, Connections { stream, channel })
    }

    /// Reads and answers what has arrived.
    pub fn go_on(&mut self) {
        if self.world.closed.get() {
            self.stream = None;
            self.land = None;
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
        if let Some((mut land, mut to_source)) = self.land.take() {
            land.read();
            while let Some(answer) = self.frame(&mut land) {
                // An engine that has given up reads no more.
                let _ = to_source.write_all(&answer.encode());
            }
            self.land = Some((land, to_source));
        }
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
        let thin = self.world.landing == Way::THIN;
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

    /// Handles a frame of the channel, and returns the answer.
    fn frame(&mut self, land: &mut Inlet) -> Option<FromLand> {
        let head = land.bytes.first_chunk::<8>()?;
        let (kind, length) = channel::header(*head);
        let frame = land.take(8 + length)?;
        Some(match ToLand::decode(kind, &frame[8..]).unwrap() {
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
                for gone in pages.gone {
                    self.copy.remove(&gone);
                }
                FromLand::Applied
            }
            ToLand::Pages(pages, bytes) => {
                let writes = bytes.chunks(PAGE).map(number).map(Some);
                let gone = pages.gone.iter().map(|gfn| (gfn, None));
                let expected = pages.present.iter().zip(writes).chain(gone);
                let wrong = expected.filter(|(gfn, write)| self.copy.get(gfn).copied() != *write);
                let wrong: Vec<u64> = wrong.map(|(gfn, _)| *gfn).collect();
                FromLand::Compared {
                    differing: wrong.len() as u32,
                    first: wrong.first().copied().unwrap_or(0),
                }
            }
            ToLand::State(state) => {
                assert_eq!(state.context, CONTEXT);
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
