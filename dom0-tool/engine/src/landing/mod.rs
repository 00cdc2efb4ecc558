//! The two ways in which a guest lands, seen from the source.
//!
//! In a [`classic`] landing everything goes into the stream that libxl began. In a
//! [`fast`] one a second channel to `lull land` carries the pages
//! while the guest's copy waits there, already built; further connections to it ([`joined`])
//! take their share. The
//! session asks the one [`Landing`] of its attempt, and a landing knows nothing of the
//! session: it is handed what it works with ([`Means`]), and answers.

mod balloon;
mod channel;
mod classic;
mod comparison;
mod depopulated;
mod destination_frames;
mod expected;
mod fast;
mod further;
mod joined;
mod pulse;

use std::os::fd::BorrowedFd;
use std::time::Instant;

use lull_core::units::Micros;
use lull_wire::events;

use super::domains::Domains;
use super::failure::Failure;
use super::saved::Saved;
use super::slots::Copied;
use super::{Host, News};
use crate::stream::queue::Queue;
use crate::stream::sink::Sink;
pub use channel::{Channel, Connection};
use classic::Classic;
use fast::Fast;

/// What a landing works with.
pub struct Means<'a> {
    /// The guest and the stub.
    pub domains: &'a dyn Domains,
    /// The number of the guest's highest frame, plus one.
    pub guest_pfns: u64,
    /// The frames that had a page when the attempt began, as a bitmap.
    pub populated: &'a [u64],
    /// What waits to be written.
    pub queue: &'a mut Queue,
    /// Where it is written.
    pub sink: &'a mut Sink,
    /// The process that hosts the engine.
    pub host: &'a mut dyn Host,
    /// The messages of the other processes so far.
    pub news: News,
}

/// An answer of the destination that the session has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The destination is ready, and the count that waited for it is due.
    Open,
    /// The batch of this slot is in place.
    Sent(usize),
    /// The ping ahead of the round's first batch is answered.
    RoundTrip,
    /// All pages and the final state are in place. Nothing more is expected before
    /// [`Landing::start`].
    Landed,
    /// The destination has started the copy.
    Started,
    /// A connection is lost, and the others carry its part from now on.
    Narrowed,
    /// Something that concerns the landing alone.
    Noted,
}

/// The frames to compare at the end, each in ascending order.
pub struct ToVerify {
    /// Frames whose pages must be equal at the destination.
    pub present: Vec<u64>,
    /// Frames that must have no page there.
    pub absent: Vec<u64>,
}

/// A way to land the guest. All methods return at once.
pub trait Landing {
    /// Its name in events.
    fn name(&self) -> events::Landing;

    /// Whether the engine itself asks the guest to suspend and hands it over. If not,
    /// libxl does both, and the engine can take neither back.
    fn asks_itself(&self) -> bool;

    /// The part of the pause that is set aside, besides the costs of the order, for the
    /// time after the last byte.
    fn reserve(&self) -> Micros;

    /// A round begins.
    fn begin_round(&mut self) {}

    /// Whether the ping ahead of the round's first batch is not answered yet.
    fn awaits_round_trip(&self) -> bool {
        false
    }

    /// The machine asks for a count: a round is sent. Returns whether the count has to wait
    /// until the destination is ready ([`Received::Open`]), after a first pass that is in the
    /// stream.
    ///
    /// # Errors
    /// When the guest's state cannot be read, or a frame is missing at the destination.
    fn end_round(&mut self, with: &mut Means<'_>) -> Result<bool, Failure>;

    /// Whether the destination has the whole stream, so that it can be ready.
    fn has_first_pass(&self) -> bool;

    /// Whether copying rests, or does not begin, until the destination is ready.
    fn is_resting(&self) -> bool;

    /// Since when nothing but the destination, which does not build the guest yet, keeps the
    /// stream from its end.
    fn awaits_copy(&self) -> Option<Instant> {
        None
    }

    /// Takes the next step if the event that it waits for has come.
    ///
    /// # Errors
    /// When the process that should go on has gone.
    fn advance(&mut self, with: &mut Means<'_>) -> Result<(), Failure>;

    /// The destination's next answer, if one has arrived.
    ///
    /// # Errors
    /// When the destination has failed, has gone, or is not to be trusted.
    fn recv(&mut self) -> Result<Option<Received>, Failure>;

    /// The descriptors on which answers arrive, while any is due.
    fn wake_on(&self) -> Vec<BorrowedFd<'_>>;

    /// The number of connections that carry the guest, if it does not take the stream.
    fn connections(&self) -> Option<u8> {
        None
    }

    /// The further connections for which bytes wait to be written.
    fn write_on(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Writes what the further connections take now, and at most `allowed` bytes. Returns
    /// the number of bytes.
    fn write(&mut self, _: &dyn Domains, _allowed: usize) -> u64 {
        0
    }

    /// The number of bytes that they have taken so far.
    fn written_elsewhere(&self) -> u64 {
        0
    }

    /// The frames of the slot's batch that are not sent, in order: they have no page any
    /// more, or never had one of the guest's own.
    fn left_out(&mut self, slot: u8, pfns: Vec<u64>);

    /// Whether the stub is to mark the pages of its next batch that are all zero, so that
    /// their contents need not be sent.
    fn marks_zeros(&self) -> bool;

    /// Puts a batch that the stub has copied into the queue. Returns whether there was
    /// anything to send; if not, the batch counts as sent.
    fn send(&mut self, queue: &mut Queue, slot: usize, copied: Copied) -> bool;

    /// Whether a batch counts as sent once it is written. If not, the destination's answer
    /// decides ([`Received::Sent`]).
    fn is_sent_when_written(&self) -> bool;

    /// Whether the engine has to know when memory is given to the guest or taken from it.
    fn follows_memory(&self) -> bool;

    /// Records that the guest has `pages` pages now.
    fn see_pages(&mut self, pages: u64);

    /// Whether memory was given to the guest, or taken from it, since its frames were
    /// listed, and the destination must be told.
    fn is_ballooning(&self) -> bool;

    /// Records a new list of the frames that have a page, as a bitmap. Returns the frames
    /// to send whatever the dirty log says of them.
    fn list(&mut self, now: &[u64]) -> Vec<u64>;

    /// Puts messages about depopulated frames into the queue. Returns whether more are
    /// left, for which there is no room yet.
    fn send_depopulated(&mut self, queue: &mut Queue) -> bool;

    /// Whether depopulated frames are being sent to the destination: some are left, or are
    /// not answered. Batches take one connection meanwhile, because the frames may be back.
    fn is_sending_depopulated(&mut self) -> bool {
        false
    }

    /// Starts the comparison of all memory for `--debug`. `first_pass` are the frames of
    /// round 0.
    ///
    /// # Errors
    /// When Xen refuses to list the frames.
    fn begin_verify(
        &mut self,
        with: &mut Means<'_>,
        first_pass: Vec<u64>,
    ) -> Result<ToVerify, Failure>;

    /// Puts a batch to compare into the queue, with the contents of its pages; `None` if
    /// the frames must have no page.
    fn verify(&mut self, queue: &mut Queue, pfns: &[u64], pages: Option<Vec<u8>>);

    /// Whether the destination has answered all it was sent, if it answers.
    fn is_answered(&self) -> bool;

    /// The result of the comparison as a line for the log, if it is known here.
    ///
    /// # Errors
    /// When the destination's copy differs.
    fn verified(&self) -> Result<Option<String>, Failure>;

    /// Puts the state of the guest's emulated devices into the queue, before
    /// [`send_final_state`](Self::send_final_state). In a classic landing libxl sends it.
    fn send_devices(&mut self, _queue: &mut Queue, _state: &[u8]) {}

    /// Puts the stopped guest's state into the queue. All pages are in place.
    ///
    /// # Errors
    /// When the state cannot replace the one that was sent before.
    fn send_final_state(&mut self, queue: &mut Queue, state: &Saved) -> Result<(), Failure>;

    /// Whether nothing is missing once the queue is empty.
    fn is_complete(&self) -> bool;

    /// Puts Start into the queue ([`Received::Started`]), if xl's handshake
    /// was over before the guest stopped.
    fn start(&mut self, queue: &mut Queue);
}

/// The landing to use: a fast one if there is a channel to `lull land`. `pages` is the
/// guest's number of pages. Sends nothing yet.
pub fn choose(channel: Option<Channel>, guest_pfns: u64, pages: u64) -> Box<dyn Landing> {
    match channel {
        Some(channel) => Box::new(Fast::new(channel, guest_pfns, pages)),
        None => Box::new(Classic),
    }
}
