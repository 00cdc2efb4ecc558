//! The messages on the transport's sockets, by which its gate decides: one JSON object per
//! line, each with its schema.
//!
//! ```text
//! engine ──FromEngine──▶ transport ◀──GateCommand── lull migrate
//!        ◀──ToEngine────
//! ```
//! The engine is libxl's save helper or, in a fast landing, a process of its own. No other
//! process is between the two: what a paused guest waits for is never held up by a front
//! end that stands still.

use std::marker::PhantomData;

use lull_base::lines::{Lines, TooLong};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::events::{Event, How, Landing, Refused};
use crate::json;

/// Version of these messages; raised when the meaning of one changes. A message of another
/// version is refused.
pub const SCHEMA: u32 = 1;

/// The longest line, in bytes, without its end.
pub const LINE_MAX: usize = 512;

/// From the engine to the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromEngine {
    /// The engine has begun, and is responsible for the guest.
    Begun,
    /// The guest is suspended.
    Suspended {
        /// See [`Suspended::requested_monotonic_ns`](crate::events::Suspended).
        requested_monotonic_ns: u64,
        /// See [`Suspended::limit_us`](crate::events::Suspended).
        limit_us: Option<u64>,
    },
    /// The guest runs on at the source, and copying continues.
    RanOn,
    /// Fast landing: the handshake is to take place now, while the guest runs here.
    HandOver,
    /// Everything is sent, and the engine is no longer responsible for the guest. Where the
    /// handshake is over, the engine asks whether the copy may be started, and remains
    /// responsible until it may.
    Committed,
    /// Fast landing: the destination has started the copy.
    Started,
    /// Fast landing: the destination was asked to start the copy and does not answer.
    Unanswered,
    /// Fast landing: the engine has given up, and the guest runs. A closed socket means the
    /// same, unless the copy may have been started.
    GivenUp,
}

impl FromEngine {
    /// The message that this event of the engine stands for, if the gate needs it.
    pub fn of(event: &Event, landing: Landing) -> Option<Self> {
        Some(match event {
            Event::Started(_) => Self::Begun,
            Event::Suspended(suspended) => Self::Suspended {
                requested_monotonic_ns: suspended.requested_monotonic_ns,
                limit_us: suspended.limit_us,
            },
            Event::RanOn(_) => Self::RanOn,
            Event::Ended(ended) if ended.how == How::StreamComplete => match landing {
                // The engine says so itself, before and after the copy is started.
                Landing::Fast => return None,
                Landing::Classic | Landing::FastHandshakeLast => Self::Committed,
            },
            // In a classic landing libxl learns this from its helper, and closes the
            // connection.
            Event::Ended(_) if landing.is_fast() => Self::GivenUp,
            _ => return None,
        })
    }
}

/// From the transport to the engine of a fast landing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum ToEngine {
    /// The destination has sent READY and waits.
    TargetReady,
    /// The handshake is over: the receiver has taken the guest's name. The guest may be
    /// asked to suspend.
    HandedOver,
    /// The copy may be started. From here on the guest is no longer to be resumed here.
    Start,
    /// The transport has hung up.
    HungUp {
        /// Why the transport hung up.
        why: Refused,
    },
}

/// From the front end to the transport: requests of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum GateCommand {
    /// Give up safely. A closed socket means the same.
    Cancel,
    /// Give up although no helper has reported.
    HangUp,
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    schema: u32,
    #[serde(flatten)]
    message: T,
}

/// A line that is not a valid message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadMessage {
    /// The line has more than [`LINE_MAX`] bytes.
    #[error("a line of more than {LINE_MAX} bytes")]
    TooLong,
    /// The message belongs to another version of lull.
    #[error("a message of schema {0}, and this lull knows schema {SCHEMA} only")]
    Schema(u32),
    /// The line is not a message in this direction.
    #[error("a line that is no message")]
    Unknown,
}

/// Encodes a message as one line, with its end.
pub fn encode<T: Serialize>(message: T) -> Vec<u8> {
    let schema = SCHEMA;
    let line = json::line(&Line { schema, message });
    line.expect("messages have no maps and no foreign types")
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, BadMessage> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    match serde_json::from_slice::<Version>(line) {
        Ok(Version { schema: SCHEMA }) => {}
        Ok(Version { schema }) => return Err(BadMessage::Schema(schema)),
        Err(_) => return Err(BadMessage::Unknown),
    }
    let line: Line<T> = serde_json::from_slice(line).map_err(|_| BadMessage::Unknown)?;
    Ok(line.message)
}

/// Cuts the bytes of a socket, which arrive in pieces of any size, into messages.
#[derive(Debug)]
pub struct Incoming<T> {
    lines: Lines,
    messages: PhantomData<T>,
}

impl<T> Default for Incoming<T> {
    fn default() -> Self {
        Self {
            lines: Lines::of(LINE_MAX),
            messages: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Incoming<T> {
    /// Takes the next bytes, and hands over the messages that end in them. Holds at most
    /// [`LINE_MAX`] bytes afterwards.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Result<T, BadMessage>)) {
        self.lines.push(bytes);
        while let Some(line) = self.lines.next_line() {
            each(match line {
                Ok(line) => decode(&line),
                Err(TooLong) => Err(BadMessage::TooLong),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use lull_base::fuzz::any_bytes;

    use super::*;

    const FROM_ENGINE: [FromEngine; 8] = [
        FromEngine::Unanswered,
        FromEngine::HandOver,
        FromEngine::Started,
        FromEngine::Begun,
        FromEngine::Suspended {
            requested_monotonic_ns: u64::MAX,
            limit_us: Some(u64::MAX),
        },
        FromEngine::RanOn,
        FromEngine::Committed,
        FromEngine::GivenUp,
    ];

    const TO_ENGINE: [ToEngine; 4] = [
        ToEngine::TargetReady,
        ToEngine::HandedOver,
        ToEngine::Start,
        ToEngine::HungUp {
            why: Refused::FrontEndGone,
        },
    ];

    const COMMANDS: [GateCommand; 2] = [GateCommand::Cancel, GateCommand::HangUp];

    fn sent<T: Serialize + Copy>(messages: &[T]) -> Vec<u8> {
        messages.iter().flat_map(|it| encode(*it)).collect()
    }

    fn received<T: DeserializeOwned>(pieces: &[&[u8]]) -> Vec<Result<T, BadMessage>> {
        let mut incoming = Incoming::default();
        let mut received = Vec::new();
        for piece in pieces {
            incoming.take(piece, |message| received.push(message));
        }
        received
    }

    #[test]
    fn messages_arrive_as_they_were_sent_in_pieces_and_together() {
        fn arrives<T>(messages: &[T])
        where
            T: Serialize + DeserializeOwned + Copy + PartialEq + std::fmt::Debug,
        {
            let bytes = sent(messages);
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            let expected: Vec<_> = messages.iter().copied().map(Ok).collect();
            assert_eq!(received::<T>(&pieces), expected);
            assert_eq!(received::<T>(&[&bytes]), expected);
            let longest = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
            assert!(longest < Some(LINE_MAX), "{longest:?}");
        }
        arrives(&FROM_ENGINE);
        arrives(&TO_ENGINE);
        arrives(&COMMANDS);
    }

    #[test]
    fn another_version_and_another_direction_are_refused() {
        let newer = br#"{"schema":2,"message":"target-ready"}"#;
        assert_eq!(decode::<ToEngine>(newer), Err(BadMessage::Schema(2)));
        let without = br#"{"message":"target-ready"}"#;
        assert_eq!(decode::<ToEngine>(without), Err(BadMessage::Unknown));
        let bytes = encode(FromEngine::Committed);
        assert_eq!(received::<ToEngine>(&[&bytes]), [Err(BadMessage::Unknown)]);
    }

    #[test]
    fn a_line_without_end_is_refused_once_and_the_next_one_arrives() {
        let endless = [b'x'; 10 * LINE_MAX];
        let next = encode(ToEngine::TargetReady);
        assert_eq!(
            received(&[&endless, &endless, b"\n", &next]),
            [Err(BadMessage::TooLong), Ok(ToEngine::TargetReady)]
        );
    }

    /// The transport also carries bytes of another host; a fault there must not reach the
    /// engine through this socket.
    #[test]
    fn any_bytes_are_messages_or_none() {
        let samples = [sent(&FROM_ENGINE), sent(&TO_ENGINE), sent(&COMMANDS)];
        let samples = samples.each_ref().map(Vec::as_slice);
        any_bytes(&samples, |bytes| {
            drop(received::<FromEngine>(&[bytes]));
            drop(received::<GateCommand>(&[bytes]));
            let mut incoming = Incoming::<ToEngine>::default();
            incoming.take(bytes, drop);
            assert!(incoming.lines.held() <= LINE_MAX);
        });
    }
}
