//! The frames of the channel to `lull land`: kind and length, then a body, all little
//! endian.
//!
//! A reader checks a frame completely before it uses anything in it, because the other
//! end is another host. The contents of pages may be anything, so those of a batch may be
//! used as they arrive, once the rest is checked.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use lull_base::connections::Connections;
use lull_base::text::printable;
use lull_xen::PAGE;
use lull_xen::domctl::TscInfo;
use serde::{Deserialize, Serialize};

use crate::events::Landing;
use crate::stream::records;

/// The newest protocol version implemented here.
pub const VERSION: u32 = 6;

/// The oldest one. (Version 1, without pings, was never released.)
const OLDEST: u32 = 2;

/// What is sent when, which the version determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edition {
    /// xl's handshake follows once everything is in place, and starts the copy.
    HandshakeLast,
    /// xl's handshake is over before the guest stops. The copy is started by
    /// [`ToLand::Start`].
    HandshakeFirst,
    /// As [`HandshakeFirst`](Self::HandshakeFirst). The copy is built without any contents,
    /// so each of its frames must be sent, and a frame that is all zero travels as its number
    /// ([`Pages::zero`]).
    Thin,
    /// As [`Thin`](Self::Thin). Further connections may join before [`ToLand::Attach`], and
    /// the batches go over all of them.
    Joined,
    /// As [`Joined`](Self::Joined). The guest may have emulated devices: its copy is announced
    /// ([`ToLand::Expect`]), and their state travels as well ([`ToLand::Devices`]).
    Emulated,
}

impl Edition {
    /// The edition of a protocol version; `None` for a version not implemented here.
    pub const fn of(version: u32) -> Option<Self> {
        match version {
            OLDEST => Some(Self::HandshakeLast),
            3 => Some(Self::HandshakeFirst),
            4 => Some(Self::Thin),
            5 => Some(Self::Joined),
            VERSION => Some(Self::Emulated),
            _ => None,
        }
    }

    /// The protocol version that leads to it.
    pub const fn version(self) -> u32 {
        match self {
            Self::HandshakeLast => OLDEST,
            Self::HandshakeFirst => 3,
            Self::Thin => 4,
            Self::Joined => 5,
            Self::Emulated => VERSION,
        }
    }

    /// Whether the copy is built without any contents.
    pub const fn is_thin(self) -> bool {
        matches!(self, Self::Thin | Self::Joined | Self::Emulated)
    }

    /// Whether further connections may join.
    pub const fn may_join(self) -> bool {
        matches!(self, Self::Joined | Self::Emulated)
    }

    /// Whether the guest may have emulated devices.
    pub const fn takes_devices(self) -> bool {
        matches!(self, Self::Emulated)
    }

    /// The landing that it leads to, in events.
    pub const fn landing(self) -> Landing {
        match self {
            Self::HandshakeLast => Landing::FastHandshakeLast,
            Self::HandshakeFirst | Self::Thin | Self::Joined | Self::Emulated => Landing::Fast,
        }
    }
}

/// How often the source asks whether the destination is still there, while nothing else is
/// due. A firewall forgets a connection that is silent for minutes. The destination relies on
/// it, too, to notice a source that is cut off.
pub const PING: Duration = Duration::from_secs(5);

/// How long an answer may take. The connection is taken for dead then, as ssh's keep-alive
/// does where it is on.
pub const SILENCE: Duration = Duration::from_secs(60);

/// The longest line of JSON, in bytes.
pub const LINE_MAX: usize = 4096;

/// Maximum number of pages in one frame.
pub const PAGES_MAX: usize = lull_core::batch::BATCH_PAGES;

/// Maximum number of pages with contents in one frame of a further connection. A batch is
/// shared out as soon as there is one.
pub const SHARE_MAX: usize = PAGES_MAX / 2;

/// The most connections that may join the first one.
pub const JOINED_MAX: u8 = Connections::MAX - 1;

/// Maximum size of the CPU state in bytes: four times what 128 vCPUs need.
const CONTEXT_MAX: usize = 4 << 20;

/// Maximum size of a part of the emulated devices' state in one frame, in bytes.
pub const DEVICES_PART: usize = 1 << 20;

/// Maximum length of a text, in bytes.
const TEXT_MAX: usize = 1024;

/// Size of a frame's header, in bytes.
pub const HEADER: usize = 8;

/// Size of [`TscInfo`] in the format of a migration stream, in bytes.
const TSC: usize = 24;

/// Flag in an entry of a frame of pages: this frame no longer has a page.
const DEPOPULATED: u64 = 1 << 63;

/// Flag in an entry of a frame of pages: this frame's page is all zero.
const ZERO: u64 = 1 << 62;

/// Highest frame number a stream can name (52 bits).
const GFN_MASK: u64 = (1 << 52) - 1;

/// The destination's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The lowest and the highest protocol version that the destination supports.
    pub land: (u32, u32),
    /// The destination's release of lull, for messages.
    pub lull: String,
    /// What further connections name in order to join; `None` if none can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Token>,
}

impl Greeting {
    /// The greeting that a destination of this release sends.
    pub fn ours(join: Option<Token>) -> Self {
        Self {
            land: (OLDEST, VERSION),
            lull: env!("CARGO_PKG_VERSION").to_owned(),
            join,
        }
    }

    /// The newest version that both ends support, if there is one.
    pub fn common(&self) -> Option<u32> {
        let (lowest, highest) = self.land;
        let newest = highest.min(VERSION);
        (newest >= lowest.max(OLDEST)).then_some(newest)
    }
}

/// The source's answer to a [`Greeting`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// The version to use.
    pub land: u32,
}

/// Names a waiting `lull land` to a connection that is to join it. Nobody can guess it. It
/// becomes a word of a command and a file name, so it is checked wherever it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    /// The process number of that `lull land`.
    pub process: u32,
    /// Random bits, which no other process can guess.
    pub secret: u128,
}

/// Formats it as `4711.` and 32 hexadecimal digits.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:032x}", self.process, self.secret)
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (process, secret) = text.split_once('.')?;
            Some(Self {
                process: process.parse().ok()?,
                secret: u128::from_str_radix(secret, 16).ok()?,
            })
        };
        // Numbers can be written in several ways, a token in one.
        let token = read().filter(|token| token.to_string() == text);
        token.ok_or("it is no token of a `lull land`")
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

/// The destination's first line on a further connection: it has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The connection's number, from 1 to [`JOINED_MAX`]. Each has another.
    pub joined: u8,
}

impl Joined {
    /// The number, if it is one.
    pub fn number(self) -> Option<u8> {
        Some(self.joined).filter(|number| (1..=JOINED_MAX).contains(number))
    }
}

/// Kinds of frames: first those to the destination, then those from it.
mod kind {
    pub const ATTACH: u32 = 1;
    pub const PAGES: u32 = 2;
    pub const COMPARE: u32 = 3;
    pub const STATE: u32 = 4;
    pub const PING: u32 = 5;
    pub const START: u32 = 6;
    pub const LEAVE: u32 = 7;
    pub const EXPECT: u32 = 8;
    pub const DEVICES: u32 = 9;
    pub const ATTACHED: u32 = 0x81;
    pub const APPLIED: u32 = 0x82;
    pub const COMPARED: u32 = 0x83;
    pub const LANDED: u32 = 0x84;
    pub const FAILED: u32 = 0x85;
    pub const PONG: u32 = 0x86;
    pub const STARTED: u32 = 0x87;
    pub const LEFT: u32 = 0x88;
    pub const ARMED: u32 = 0x89;
}

/// A frame that is not valid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the other end sent what is no message ({0})")]
pub struct BadFrame(&'static str);

/// Identifies the guest whose copy the destination is to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The UUID that guest and copy have in common.
    pub uuid: [u8; 16],
    /// The guest's highest frame number plus one.
    pub frames: u64,
    /// The guest's name at the source.
    pub name: String,
}

/// Announces the copy of a guest with emulated devices, before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The UUID that guest and copy have in common.
    pub uuid: [u8; 16],
    /// The guest's name at the source.
    pub name: String,
    /// Whether the copy's receiver leaves it paused and [`ToLand::Start`] undoes that too.
    pub unpause: bool,
}

/// What the destination does with the pages of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The pages replace the content of the copy.
    Write,
    /// The pages are compared with the content of the copy, which should be the same.
    Compare,
}

/// A batch of frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    /// What the destination does with the pages.
    pub purpose: Purpose,
    /// Frames whose pages follow in this order: ascending, without duplicates.
    pub present: Vec<u64>,
    /// Frames whose pages are all zero and do not follow: ascending, without duplicates.
    /// None if the pages are to be compared.
    pub zero: Vec<u64>,
    /// Frames that no longer have a page: ascending, without duplicates.
    pub depopulated: Vec<u64>,
}

/// The final state, which replaces the provisional one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The guest's TSC settings.
    pub tsc: TscInfo,
    /// The state of vCPUs and platform, in Xen's format.
    pub context: Vec<u8>,
}

/// A frame to the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToLand {
    /// See [`Attach`].
    Attach(Attach),
    /// See [`Pages`]; the second field holds the bytes of the pages that are present.
    Pages(Pages, Contents),
    /// See [`State`].
    State(State),
    /// The source asks for a [`FromLand::Pong`].
    Ping,
    /// The guest at the source stays stopped: start the copy. Nothing follows.
    Start,
    /// The further connection of this number is lost. What it may still deliver must not be
    /// used: the source sends it again, and newer contents after that.
    Leave(u8),
    /// See [`Expect`]. The answer is [`FromLand::Armed`], and comes before the end of the
    /// stream from which the copy is built.
    Expect(Expect),
    /// A part of the state of the guest's emulated devices, in order. All parts come before
    /// [`ToLand::State`].
    Devices(Vec<u8>),
}

/// A frame from the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromLand {
    /// The destination has found the copy.
    Attached,
    /// The oldest unanswered batch is in place.
    Applied,
    /// The oldest unanswered batch has been compared.
    Compared {
        /// Number of frames that differ.
        differing: u32,
        /// The first of these frames, if there is one.
        first: u64,
    },
    /// Everything is in place, and the destination writes nothing more.
    Landed,
    /// The destination has started the copy.
    Started,
    /// The destination gives up, for this reason.
    Failed(String),
    /// The destination is there.
    Pong,
    /// Nothing more is read from the connection of the oldest unanswered
    /// [`ToLand::Leave`].
    Left,
    /// The copy exists, and its emulated devices will wait for their state.
    Armed,
}

/// Reads a frame's header: its kind and the length of its body in bytes.
pub fn header(bytes: [u8; HEADER]) -> (u32, usize) {
    let word = |n: usize| u32::from_le_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
    (word(0), word(4) as usize)
}

/// The longest body of a frame to the destination, in bytes.
pub const TO_LAND_MAX: usize = {
    let pages = 8 + PAGES_MAX * (8 + PAGE);
    let state = TSC + CONTEXT_MAX;
    if pages > state { pages } else { state }
};

/// The longest body of a frame to the destination on a further connection, in bytes.
pub const SHARE_BYTES_MAX: usize = 8 + 8 * PAGES_MAX + PAGE * SHARE_MAX;

/// The longest body of a frame from the destination, in bytes.
pub const FROM_LAND_MAX: usize = TEXT_MAX;

fn frame(kind: u32, body: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.min(1 << 16));
    bytes.extend(kind.to_le_bytes());
    let length = u32::try_from(body).expect("frames are far below 4 GiB");
    bytes.extend(length.to_le_bytes());
    bytes
}

/// Encodes an [`Attach`] as a frame.
pub fn attach(attach: &Attach) -> Vec<u8> {
    let mut bytes = frame(kind::ATTACH, 16 + 8 + attach.name.len());
    bytes.extend(attach.uuid);
    bytes.extend(attach.frames.to_le_bytes());
    bytes.extend(attach.name.as_bytes());
    bytes
}

/// Encodes a frame of [`Pages`] up to, but not including, the pages themselves.
///
/// # Panics
/// Panics with more than [`PAGES_MAX`] entries, which is a bug of the caller.
pub fn pages_header(pages: &Pages) -> Vec<u8> {
    let count = pages.present.len() + pages.zero.len() + pages.depopulated.len();
    assert!(count <= PAGES_MAX, "a batch of pages");
    let kind = match pages.purpose {
        Purpose::Write => kind::PAGES,
        Purpose::Compare => kind::COMPARE,
    };
    let mut bytes = frame(kind, 8 + 8 * count + PAGE * pages.present.len());
    bytes.extend((count as u32).to_le_bytes());
    bytes.extend([0; 4]);
    let zero = pages.zero.iter().map(|gfn| gfn | ZERO);
    let depopulated = pages.depopulated.iter().map(|gfn| gfn | DEPOPULATED);
    let entries = pages.present.iter().copied().chain(zero).chain(depopulated);
    bytes.extend(entries.flat_map(u64::to_le_bytes));
    bytes
}

/// Encodes a [`ToLand::Ping`] as a frame.
pub fn ping() -> Vec<u8> {
    frame(kind::PING, 0)
}

/// Encodes a [`State`] as a frame.
pub fn state(state: &State) -> Vec<u8> {
    let mut bytes = frame(kind::STATE, TSC + state.context.len());
    bytes.extend(records::tsc_info_body(&state.tsc));
    bytes.extend(&state.context);
    bytes
}

/// Encodes [`ToLand::Start`] as a frame.
pub fn start() -> Vec<u8> {
    frame(kind::START, 0)
}

/// Encodes a [`ToLand::Leave`] as a frame.
pub fn leave(number: u8) -> Vec<u8> {
    let mut bytes = frame(kind::LEAVE, 1);
    bytes.push(number);
    bytes
}

/// The contents of a batch's pages. They stay in the frame in which they came.
#[derive(Debug, Clone)]
pub struct Contents {
    body: Vec<u8>,
    from: usize,
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.body[self.from..]
    }
}

impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Contents {}

/// Encodes an [`Expect`] as a frame.
pub fn expect(expect: &Expect) -> Vec<u8> {
    let mut bytes = frame(kind::EXPECT, 16 + 1 + expect.name.len());
    bytes.extend(expect.uuid);
    bytes.push(expect.unpause.into());
    bytes.extend(expect.name.as_bytes());
    bytes
}

/// Encodes the state of emulated devices, in as many frames as it takes.
pub fn devices(state: &[u8]) -> Vec<u8> {
    let parts = state.chunks(DEVICES_PART);
    parts
        .flat_map(|part| [frame(kind::DEVICES, part.len()), part.to_vec()].concat())
        .collect()
}

impl ToLand {
    /// Decodes the body of a frame of this kind.
    ///
    /// # Errors
    /// Returns an error if the body is not valid for the kind.
    pub fn decode(kind: u32, body: Vec<u8>) -> Result<Self, BadFrame> {
        match kind {
            kind::ATTACH => decode_attach(&body).map(Self::Attach),
            kind::PAGES => decode_pages(body, Purpose::Write),
            kind::COMPARE => decode_pages(body, Purpose::Compare),
            kind::STATE => decode_state(&body).map(Self::State),
            kind::PING if body.is_empty() => Ok(Self::Ping),
            kind::START if body.is_empty() => Ok(Self::Start),
            kind::LEAVE => match body[..] {
                [number @ 1..=JOINED_MAX] => Ok(Self::Leave(number)),
                _ => Err(BadFrame("a leave of no connection")),
            },
            kind::EXPECT => decode_expect(&body).map(Self::Expect),
            kind::DEVICES if (1..=DEVICES_PART).contains(&body.len()) => Ok(Self::Devices(body)),
            _ => Err(BadFrame("an unknown kind")),
        }
    }
}

fn decode_attach(body: &[u8]) -> Result<Attach, BadFrame> {
    const SHORT: BadFrame = BadFrame("an attach that is cut off");
    let (uuid, rest) = body.split_first_chunk::<16>().ok_or(SHORT)?;
    let (frames, name) = rest.split_first_chunk::<8>().ok_or(SHORT)?;
    let frames = u64::from_le_bytes(*frames);
    if frames > GFN_MASK || name.len() > TEXT_MAX {
        return Err(BadFrame("an attach to what is no guest"));
    }
    let name = std::str::from_utf8(name).map_err(|_| BadFrame("a name that is no text"))?;
    Ok(Attach {
        uuid: *uuid,
        frames,
        name: name.to_owned(),
    })
}

fn decode_expect(body: &[u8]) -> Result<Expect, BadFrame> {
    const SHORT: BadFrame = BadFrame("an announcement that is cut off");
    let (uuid, rest) = body.split_first_chunk::<16>().ok_or(SHORT)?;
    let (unpause, name) = rest.split_first().ok_or(SHORT)?;
    if *unpause > 1 || name.len() > TEXT_MAX {
        return Err(BadFrame("an announcement of what is no guest"));
    }
    let name = std::str::from_utf8(name).map_err(|_| BadFrame("a name that is no text"))?;
    Ok(Expect {
        uuid: *uuid,
        name: name.to_owned(),
        unpause: *unpause == 1,
    })
}

/// Whether frames of this kind bring pages that replace those of the copy.
pub const fn writes_pages(kind: u32) -> bool {
    kind == kind::PAGES
}

/// Size of the number of entries with which a batch begins, in bytes.
pub const BATCH_COUNT: usize = 8;

const SHORT_BATCH: BadFrame = BadFrame("a batch that is cut off");

/// The size of a batch without the pages' contents, in bytes. `count` is its beginning.
///
/// # Errors
/// When a batch does not begin like this.
pub fn batch_head(count: &[u8]) -> Result<usize, BadFrame> {
    let count: [u8; BATCH_COUNT] = count.try_into().map_err(|_| SHORT_BATCH)?;
    let count = u64::from_le_bytes(count);
    match usize::try_from(count)
        .ok()
        .filter(|count| *count <= PAGES_MAX)
    {
        Some(count) => Ok(BATCH_COUNT + 8 * count),
        None => Err(BadFrame("a batch that is too large")),
    }
}

/// Decodes a batch without its contents, which have `contents` bytes.
///
/// # Errors
/// When it is not valid, or does not have such contents.
pub fn decode_batch(head: &[u8], contents: usize, purpose: Purpose) -> Result<Pages, BadFrame> {
    let entries = head.get(BATCH_COUNT..).ok_or(SHORT_BATCH)?;
    let mut present = Vec::with_capacity(entries.len() / 8);
    let mut zero = Vec::new();
    let mut depopulated = Vec::new();
    for entry in entries.chunks(8) {
        let entry = u64::from_le_bytes(entry.try_into().map_err(|_| SHORT_BATCH)?);
        let gfn = entry & GFN_MASK;
        match entry & !GFN_MASK {
            0 if zero.is_empty() && depopulated.is_empty() => present.push(gfn),
            ZERO if depopulated.is_empty() && purpose == Purpose::Write => zero.push(gfn),
            DEPOPULATED => depopulated.push(gfn),
            _ => return Err(BadFrame("a frame number that is none")),
        }
    }
    let ascend = |gfns: &Vec<u64>| gfns.is_sorted_by(|a, b| a < b);
    if ![&present, &zero, &depopulated].into_iter().all(ascend) {
        return Err(BadFrame("frame numbers that are not in order"));
    }
    let mut all = [&present[..], &zero, &depopulated].concat();
    all.sort_unstable();
    if !ascend(&all) {
        return Err(BadFrame("a frame that is named twice"));
    }
    if contents != PAGE * present.len() {
        return Err(BadFrame("a batch with too few or too many bytes"));
    }
    Ok(Pages {
        purpose,
        present,
        zero,
        depopulated,
    })
}

fn decode_pages(body: Vec<u8>, purpose: Purpose) -> Result<ToLand, BadFrame> {
    let count = body.get(..BATCH_COUNT).ok_or(SHORT_BATCH)?;
    let from = batch_head(count)?;
    let (head, contents) = body.split_at_checked(from).ok_or(SHORT_BATCH)?;
    let pages = decode_batch(head, contents.len(), purpose)?;
    Ok(ToLand::Pages(pages, Contents { body, from }))
}

fn decode_state(body: &[u8]) -> Result<State, BadFrame> {
    let (tsc, context) = body
        .split_first_chunk::<TSC>()
        .ok_or(BadFrame("a state that is cut off"))?;
    let tsc = records::tsc_info_of(tsc);
    if context.is_empty() || context.len() > CONTEXT_MAX {
        return Err(BadFrame("a state of no vCPU"));
    }
    Ok(State {
        tsc,
        context: context.to_vec(),
    })
}

impl FromLand {
    /// Encodes the answer as a frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Attached => frame(kind::ATTACHED, 0),
            Self::Applied => frame(kind::APPLIED, 0),
            Self::Compared { differing, first } => {
                let mut bytes = frame(kind::COMPARED, 12);
                bytes.extend(differing.to_le_bytes());
                bytes.extend(first.to_le_bytes());
                bytes
            }
            Self::Landed => frame(kind::LANDED, 0),
            Self::Pong => frame(kind::PONG, 0),
            Self::Started => frame(kind::STARTED, 0),
            Self::Left => frame(kind::LEFT, 0),
            Self::Armed => frame(kind::ARMED, 0),
            Self::Failed(text) => {
                let mut end = text.len().min(TEXT_MAX);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                let mut bytes = frame(kind::FAILED, end);
                bytes.extend(&text.as_bytes()[..end]);
                bytes
            }
        }
    }

    /// Decodes the body of a frame of this kind.
    ///
    /// # Errors
    /// Returns an error if the body is not valid for the kind.
    pub fn decode(kind: u32, body: &[u8]) -> Result<Self, BadFrame> {
        match (kind, body) {
            (kind::ATTACHED, []) => Ok(Self::Attached),
            (kind::APPLIED, []) => Ok(Self::Applied),
            (kind::COMPARED, &[a, b, c, d, ref first @ ..]) => Ok(Self::Compared {
                differing: u32::from_le_bytes([a, b, c, d]),
                first: first
                    .try_into()
                    .map(u64::from_le_bytes)
                    .map_err(|_| BadFrame("a comparison that is cut off"))?,
            }),
            (kind::LANDED, []) => Ok(Self::Landed),
            (kind::PONG, []) => Ok(Self::Pong),
            (kind::STARTED, []) => Ok(Self::Started),
            (kind::LEFT, []) => Ok(Self::Left),
            (kind::ARMED, []) => Ok(Self::Armed),
            (kind::FAILED, text) => Ok(Self::Failed(printable(&String::from_utf8_lossy(text)))),
            _ => Err(BadFrame("an unknown kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use lull_base::fuzz::any_bytes;
    use proptest::prelude::*;

    use super::*;

    const TSC_INFO: TscInfo = TscInfo {
        mode: 2,
        khz: 2_400_000,
        incarnation: 3,
        elapsed_ns: 77,
    };

    fn split(bytes: &[u8]) -> (u32, &[u8]) {
        let (head, body) = bytes.split_first_chunk::<HEADER>().unwrap();
        let (kind, length) = header(*head);
        assert_eq!(length, body.len());
        (kind, body)
    }

    #[test]
    fn the_newest_version_that_both_know_is_agreed_on_or_there_is_none() {
        let greeting = |land| Greeting {
            land,
            lull: "0.1.0".into(),
            join: None,
        };
        for (land, agreed, edition) in [
            ((2, 2), 2, Edition::HandshakeLast),
            ((0, 2), 2, Edition::HandshakeLast),
            ((2, 3), 3, Edition::HandshakeFirst),
            ((3, 3), 3, Edition::HandshakeFirst),
            ((2, 4), 4, Edition::Thin),
            ((4, 4), 4, Edition::Thin),
            ((2, 5), 5, Edition::Joined),
            ((5, 5), 5, Edition::Joined),
            ((2, 6), 6, Edition::Emulated),
            ((4, 9), 6, Edition::Emulated),
        ] {
            assert_eq!(greeting(land).common(), Some(agreed), "{land:?}");
            assert_eq!(Edition::of(agreed), Some(edition));
            assert_eq!(edition.version(), agreed);
        }
        for land in [(0, 0), (1, 1), (7, 9), (3, 2), (u32::MAX, 0)] {
            assert_eq!(greeting(land).common(), None, "{land:?}");
        }
        assert_eq!([1, 7].map(Edition::of), [None, None]);
        assert_eq!(Greeting::ours(None).common(), Some(VERSION));
    }

    #[test]
    fn a_token_is_a_word_and_a_file_name_or_none() {
        let token = Token {
            process: 4711,
            secret: 0xab << 96,
        };
        let text = "4711.000000ab000000000000000000000000";
        assert_eq!(token.to_string(), text);
        assert_eq!(text.parse(), Ok(token));
        let greeting = Greeting::ours(Some(token));
        let line = serde_json::to_string(&greeting).unwrap();
        assert_eq!(serde_json::from_str::<Greeting>(&line).unwrap(), greeting);
        for bad in [
            "",
            "4711",
            "4711.",
            "4711.000000ab00000000000000000000000",
            "4711.000000AB000000000000000000000000",
            "4711.+00000ab000000000000000000000000",
            "04711.000000ab000000000000000000000000",
            "../4711.000000ab000000000000000000000000",
            "4711.000000ab000000000000000000000000; reboot",
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
            let greeting = line.replace(text, bad);
            assert!(
                serde_json::from_str::<Greeting>(&greeting).is_err(),
                "{bad}"
            );
        }
        for (joined, number) in [(0, None), (1, Some(1)), (7, Some(7)), (8, None)] {
            assert_eq!(Joined { joined }.number(), number);
        }
    }

    fn decoded(kind: u32, body: &[u8]) -> Result<ToLand, BadFrame> {
        ToLand::decode(kind, body.to_vec())
    }

    /// They come from another host.
    #[test]
    fn any_bytes_announce_a_guest_or_nothing() {
        let whose = Expect {
            uuid: [7; 16],
            name: "web1".into(),
            unpause: true,
        };
        let frame = expect(&whose);
        any_bytes(&[&frame[HEADER..], b"", &[0; 17]], |bytes| {
            if let Ok(ToLand::Expect(expect)) = decoded(kind::EXPECT, bytes) {
                assert!(expect.name.len() <= TEXT_MAX);
            }
            if let Ok(ToLand::Devices(part)) = decoded(kind::DEVICES, bytes) {
                assert_eq!(part, bytes);
            }
        });
        let long = [&frame[HEADER..], &[b'x'; TEXT_MAX]].concat();
        assert!(decoded(kind::EXPECT, &long).is_err());
        let long = vec![0; DEVICES_PART + 1];
        assert!(decoded(kind::DEVICES, &long).is_err());
        assert!(decoded(kind::DEVICES, &[]).is_err());
    }

    #[test]
    fn the_devices_state_comes_in_parts() {
        for length in [0, 1, DEVICES_PART, DEVICES_PART + 1, 2 * DEVICES_PART + 9] {
            let mut state = vec![0xa5; length];
            state.iter_mut().step_by(4_093).for_each(|byte| *byte = 7);
            let sent = devices(&state);
            let mut left = &sent[..];
            let mut read = Vec::new();
            while let Some((head, rest)) = left.split_first_chunk::<HEADER>() {
                let (kind, length) = header(*head);
                assert!(length <= TO_LAND_MAX);
                match decoded(kind, &rest[..length]).unwrap() {
                    ToLand::Devices(part) => read.extend(part),
                    other => panic!("{other:?}"),
                }
                left = &rest[length..];
            }
            assert!(read == state, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_read(
            frames_of in proptest::collection::btree_map(0..=GFN_MASK, 0..3_u8, 0..12),
            compare: bool,
            uuid: [u8; 16],
            frames in 0..=GFN_MASK,
            name in "[a-z]{0,20}",
            context in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let purpose = if compare { Purpose::Compare } else { Purpose::Write };
            let of = |kind: u8| {
                let frames = frames_of.iter().filter(|(_, of)| **of == kind);
                frames.map(|(gfn, _)| *gfn).collect::<Vec<_>>()
            };
            let zero = if compare { Vec::new() } else { of(1) };
            let pages = Pages { purpose, present: of(0), zero, depopulated: of(2) };
            let bytes = vec![0xa5; PAGE * pages.present.len()];
            let sent = [pages_header(&pages), bytes.clone()].concat();
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).unwrap(), ToLand::Pages(pages, Contents { body: bytes, from: 0 }));

            let whose_name = name.clone();
            let whose = Attach { uuid, frames, name };
            let sent = attach(&whose);
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).unwrap(), ToLand::Attach(whose));

            let sent = ping();
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).unwrap(), ToLand::Ping);

            let given = State { tsc: TSC_INFO, context };
            let sent = state(&given);
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).unwrap(), ToLand::State(given));

            let whose = Expect { uuid, name: whose_name, unpause: compare };
            let sent = expect(&whose);
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).unwrap(), ToLand::Expect(whose));

            let sent = start();
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).unwrap(), ToLand::Start);
            prop_assert!(decoded(kind, &[0]).is_err());

            for number in 0..=9 {
                let sent = leave(number);
                let (kind, body) = split(&sent);
                let frame = decoded(kind, body);
                let is_one = (1..=JOINED_MAX).contains(&number);
                prop_assert_eq!(frame, if is_one {
                    Ok(ToLand::Leave(number))
                } else {
                    Err(BadFrame("a leave of no connection"))
                });
            }
        }

        #[test]
        fn a_frame_that_is_named_twice_or_out_of_order_is_refused(
            present in proptest::collection::vec(0..9_u64, 0..3),
            zero in proptest::collection::vec(0..9_u64, 0..3),
            depopulated in proptest::collection::vec(0..9_u64, 0..3),
        ) {
            let all = [&present[..], &zero, &depopulated].concat();
            let unique = all.iter().collect::<std::collections::BTreeSet<_>>().len() == all.len();
            let sorted = unique && [&present, &zero, &depopulated].map(|list| list.is_sorted()) == [true; 3];
            let bytes = vec![0; PAGE * present.len()];
            let pages = Pages { purpose: Purpose::Write, present, zero, depopulated };
            let sent = [pages_header(&pages), bytes].concat();
            let (kind, body) = split(&sent);
            prop_assert_eq!(decoded(kind, body).is_ok(), sorted);
        }

        #[test]
        fn an_answer_is_read_as_it_was_meant(differing: u32, first: u64, text in ".{0,400}") {
            for answer in [
                FromLand::Attached,
                FromLand::Applied,
                FromLand::Compared { differing, first },
                FromLand::Landed,
                FromLand::Pong,
                FromLand::Started,
                FromLand::Left,
                FromLand::Armed,
                FromLand::Failed(text.clone()),
            ] {
                let sent = answer.encode();
                let (kind, body) = split(&sent);
                prop_assert!(body.len() <= FROM_LAND_MAX);
                let read = FromLand::decode(kind, body).unwrap();
                match (&answer, &read) {
                    (FromLand::Failed(said), FromLand::Failed(received)) => {
                        prop_assert!(printable(said).starts_with(received.as_str()));
                    }
                    _ => prop_assert_eq!(answer, read),
                }
            }
        }

        #[test]
        fn garbage_is_an_error_and_nothing_else(
            kind in 0..0x90_u32,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(ToLand::Pages(pages, bytes)) = decoded(kind, &body) {
                let count = pages.present.len() + pages.zero.len() + pages.depopulated.len();
                prop_assert!(count <= PAGES_MAX);
                prop_assert!(pages.zero.is_empty() || pages.purpose == Purpose::Write);
                prop_assert_eq!(bytes.len(), PAGE * pages.present.len());
            }
            let _ = FromLand::decode(kind, &body);
        }
    }
}
