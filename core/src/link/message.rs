//! The messages, and their encoding in four words.
//!
//! dom0 sends events. The stub answers with the actions of its machine and with the batches
//! it wants. Numbers that dom0 can compute itself (a round's pages, a refusal's figures) do
//! not travel: dom0 runs the same machine on the same events, and an action that differs
//! ends the attempt.

use crate::limits::{DowntimeLimit, Limits, Timeout};
use crate::machine::{Action, Event};
use crate::units::{Micros, PageRate};

use super::SLOTS;
use super::ring::Words;

/// A message from dom0 to the stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToStub {
    /// An event and its time. [`Event::Sent`] travels as [`ToStub::Sent`].
    Event(Micros, Event),
    /// The slot's batch went to the stream, and the slot is free.
    Sent {
        /// The time at which the batch was written.
        at: Micros,
        /// The number of the slot.
        slot: u8,
        /// The number of frames that the stub had requested.
        requested: u32,
        /// The number of those frames whose contents were written.
        pages: u32,
        /// The number of those frames that are all zero.
        zeros: u32,
    },
    /// The slot's window maps this many of the requested frames, from its start. Frames
    /// that do not exist are left out.
    Mapped {
        /// The number of the slot.
        slot: u8,
        /// The number of pages to copy.
        pages: u32,
        /// Whether pages that are all zero are marked in the slot's
        /// [`ZeroPages`](super::ZeroPages) instead. The payload then holds only the others,
        /// one after the other.
        marks_zeros: bool,
    },
}

/// A message from the stub to dom0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDom0 {
    /// The stub is running.
    Hello,
    /// The machine took this action.
    Did(ActionKind),
    /// Asks dom0 to map the first `count` frames of the slot's wanted list.
    Map {
        /// The number of the slot.
        slot: u8,
        /// The number of frames, 1 to 1,024.
        count: u32,
    },
    /// The slot's payload is complete.
    Filled {
        /// The number of the slot.
        slot: u8,
    },
    /// The round's bitmap has been scanned to its end.
    Scanned,
}

/// An action without its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum ActionKind {
    /// [`Action::Copy`]
    Copy = 1,
    /// [`Action::Count`]
    Count = 2,
    /// [`Action::TakeBitmap`]
    TakeBitmap = 3,
    /// [`Action::Suspend`]
    Suspend = 4,
    /// [`Action::CopyFinal`]
    CopyFinal = 5,
    /// [`Action::Finish`]
    Finish = 6,
    /// [`Action::Refuse`]
    Refuse = 7,
    /// [`Action::Resume`]
    Resume = 8,
    /// [`Action::RunOn`]
    RunOn = 9,
    /// [`Action::HandOver`]
    HandOver = 10,
}

impl ActionKind {
    /// The kind of an action; `None` for [`Action::None`], which is not sent.
    pub const fn of(action: &Action) -> Option<Self> {
        match action {
            Action::None => None,
            Action::Copy { .. } => Some(Self::Copy),
            Action::Count => Some(Self::Count),
            Action::TakeBitmap => Some(Self::TakeBitmap),
            Action::Suspend => Some(Self::Suspend),
            Action::CopyFinal { .. } => Some(Self::CopyFinal),
            Action::Finish => Some(Self::Finish),
            Action::Refuse(_) => Some(Self::Refuse),
            Action::Resume(_) => Some(Self::Resume),
            Action::RunOn(_) => Some(Self::RunOn),
            Action::HandOver => Some(Self::HandOver),
        }
    }

    const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            1 => Self::Copy,
            2 => Self::Count,
            3 => Self::TakeBitmap,
            4 => Self::Suspend,
            5 => Self::CopyFinal,
            6 => Self::Finish,
            7 => Self::Refuse,
            8 => Self::Resume,
            9 => Self::RunOn,
            10 => Self::HandOver,
            _ => return None,
        })
    }
}

/// Four words that do not encode a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMessage(pub Words);

impl core::fmt::Display for BadMessage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "words {:x?} are no message", self.0)
    }
}

impl core::error::Error for BadMessage {}

/// Encodes `Tick { dirty: None }`: no count is that high.
const NOT_COUNTED: u64 = u64::MAX;

impl ToStub {
    /// The message as words: what, when, two numbers.
    ///
    /// | what | event | numbers |
    /// |---|---|---|
    /// | 1 | begin | pages, time of a bitmap |
    /// | 3 | tick | pages dirty, or 2^64 - 1 |
    /// | 4 | counted | pages dirty |
    /// | 5, 6 | bitmap, suspended | pages dirty, time of the bitmap |
    /// | 7, 8 | suspend failed, cancel | |
    /// | 9 | limits | downtime limit, timeout; 0 for none |
    /// | 10 | switch now | |
    /// | 11 | bandwidth | pages a second; 0 for as many as go |
    /// | 12 | held back | |
    /// | 16 | sent | slot and zero pages, frames and pages, in 32 bits each |
    /// | 17 | mapped | slot, pages; in place of the time 1 if zero pages are marked, else 0 |
    /// | 18, 19, 20 | unsettled, handed over, round trip | |
    ///
    /// Times are microseconds.
    pub fn encode(self) -> Words {
        match self {
            Self::Event(at, event) => {
                let (tag, a, b) = match event {
                    Event::Begin { pages, took_bitmap } => (1, pages, took_bitmap.0),
                    // The stub reports a `Sent` without a slot as a bad message.
                    Event::Sent { .. } => (2, 0, 0),
                    Event::Tick { dirty } => (3, dirty.unwrap_or(NOT_COUNTED), 0),
                    Event::Counted { dirty } => (4, dirty, 0),
                    Event::Bitmap { dirty, took } => (5, dirty, took.0),
                    Event::Suspended { dirty, took_bitmap } => (6, dirty, took_bitmap.0),
                    Event::SuspendFailed => (7, 0, 0),
                    Event::Cancel => (8, 0, 0),
                    Event::Limits(limits) => {
                        let max_suspend = limits.max_suspend.map_or(0, |limit| limit.micros().0);
                        let timeout = limits.timeout.map_or(0, |timeout| timeout.micros().0);
                        (9, max_suspend, timeout)
                    }
                    Event::SwitchNow => (10, 0, 0),
                    Event::Bandwidth(cap) => (11, cap.map_or(0, |cap| cap.0), 0),
                    Event::HeldBack => (12, 0, 0),
                    Event::PathChanged => (13, 0, 0),
                    Event::OutOfTime => (14, 0, 0),
                    Event::RunsOn => (15, 0, 0),
                    Event::Unsettled => (18, 0, 0),
                    Event::HandedOver => (19, 0, 0),
                    Event::RoundTrip => (20, 0, 0),
                };
                [tag, at.0, a, b]
            }
            Self::Sent {
                at,
                slot,
                requested,
                pages,
                zeros,
            } => {
                let counts = u64::from(requested) << 32 | u64::from(pages);
                [16, at.0, u64::from(slot) | u64::from(zeros) << 32, counts]
            }
            Self::Mapped {
                slot,
                pages,
                marks_zeros,
            } => [17, marks_zeros.into(), slot.into(), pages.into()],
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`BadMessage`] if the words do not encode one.
    pub fn decode(words: Words) -> Result<Self, BadMessage> {
        let bad = BadMessage(words);
        let [tag, at, a, b] = words;
        let at = Micros(at);
        let event = match tag {
            1 => Event::Begin {
                pages: a,
                took_bitmap: Micros(b),
            },
            3 => Event::Tick {
                dirty: (a != NOT_COUNTED).then_some(a),
            },
            4 => Event::Counted { dirty: a },
            5 => Event::Bitmap {
                dirty: a,
                took: Micros(b),
            },
            6 => Event::Suspended {
                dirty: a,
                took_bitmap: Micros(b),
            },
            7 => Event::SuspendFailed,
            8 => Event::Cancel,
            9 => Event::Limits(Limits {
                max_suspend: DowntimeLimit::new(Micros(a)),
                timeout: Timeout::new(Micros(b)),
            }),
            10 => Event::SwitchNow,
            11 => Event::Bandwidth((a != 0).then_some(PageRate(a))),
            12 => Event::HeldBack,
            13 => Event::PathChanged,
            14 => Event::OutOfTime,
            15 => Event::RunsOn,
            18 => Event::Unsettled,
            19 => Event::HandedOver,
            20 => Event::RoundTrip,
            16 => {
                return Ok(Self::Sent {
                    at,
                    slot: slot(a & u64::from(u32::MAX)).ok_or(bad)?,
                    requested: (b >> 32) as u32,
                    pages: b as u32,
                    zeros: (a >> 32) as u32,
                });
            }
            17 => {
                return Ok(Self::Mapped {
                    slot: slot(a).ok_or(bad)?,
                    pages: count(b).ok_or(bad)?,
                    marks_zeros: match at.0 {
                        0 => false,
                        1 => true,
                        _ => return Err(bad),
                    },
                });
            }
            _ => return Err(bad),
        };
        Ok(Self::Event(at, event))
    }
}

impl ToDom0 {
    /// Encodes the message as words of the ring.
    pub fn encode(self) -> Words {
        match self {
            Self::Hello => [1, 0, 0, 0],
            Self::Did(kind) => [2, kind as u64, 0, 0],
            Self::Map { slot, count } => [3, u64::from(slot), u64::from(count), 0],
            Self::Filled { slot } => [4, u64::from(slot), 0, 0],
            Self::Scanned => [5, 0, 0, 0],
        }
    }

    /// Decodes a message; slots and counts are checked against their bounds.
    ///
    /// # Errors
    /// [`BadMessage`] if the words do not encode one.
    pub fn decode(words: Words) -> Result<Self, BadMessage> {
        let bad = BadMessage(words);
        let [tag, a, b, _] = words;
        Ok(match tag {
            1 => Self::Hello,
            2 => Self::Did(ActionKind::from_word(a).ok_or(bad)?),
            3 => Self::Map {
                slot: slot(a).ok_or(bad)?,
                count: count(b).filter(|count| *count > 0).ok_or(bad)?,
            },
            4 => Self::Filled {
                slot: slot(a).ok_or(bad)?,
            },
            5 => Self::Scanned,
            _ => return Err(bad),
        })
    }
}

/// The word as a slot number, if it is within bounds.
fn slot(word: u64) -> Option<u8> {
    u8::try_from(word)
        .ok()
        .filter(|slot| usize::from(*slot) < SLOTS)
}

/// The word as a number of pages, if a batch can hold that many.
fn count(word: u64) -> Option<u32> {
    u32::try_from(word)
        .ok()
        .filter(|count| *count <= crate::batch::BATCH_PAGES as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_words_are_a_message_or_an_error_and_messages_survive(words: [u64; 4], tag in 0_u64..21) {
            for words in [words, [tag, words[1] % 11, words[2] % 2_000, words[3]], [tag, words[1] % 2, words[2] % 6, words[3] % 2_000]] {
                if let Ok(message) = ToDom0::decode(words) {
                    prop_assert_eq!(ToDom0::decode(message.encode()), Ok(message));
                }
                if let Ok(message) = ToStub::decode(words) {
                    prop_assert_eq!(ToStub::decode(message.encode()), Ok(message));
                }
            }
        }
    }

    #[test]
    fn slots_and_counts_beyond_the_link_are_refused() {
        assert!(ToDom0::decode([3, SLOTS as u64, 1, 0]).is_err());
        assert!(ToDom0::decode([3, 0, 0, 0]).is_err());
        assert!(ToDom0::decode([3, 0, 1_025, 0]).is_err());
        assert!(ToDom0::decode([3, 0, 1_024, 0]).is_ok());
        assert!(ToDom0::decode([4, 1 << 32, 0, 0]).is_err());
    }
}
