//! The engine's part of the fast landing: what is sent where, and when.
//!
//! The stream that libxl began only names the guest's frames, and ends with a state without
//! vCPUs. The destination builds the guest and its devices from it within seconds, and sends
//! READY, which the transport holds back. From then on everything goes over a second channel
//! to `lull land`, round 0 too. What the frames hold until then is
//! whatever Xen has handed out, so each of them must be sent once; both ends check that.
//!
//! With a destination whose lull does not know that, round 0 goes into the stream, and a
//! state of the running guest follows it. The machine then sees only that its first count is
//! answered late.
//!
//! xl's handshake takes place while the guest still runs: the machine says when, and another
//! round is sent meanwhile. At the end `lull land` starts the copy when the
//! engine sends Start (`starting`). An older lull at the destination does not know Start:
//! there the handshake follows once everything is in place.
//!
//! A batch counts as sent once the destination has put it into place. The learned rate is
//! therefore that of the whole path, and no page waits unseen in a pipe when the guest
//! stops.
//!
//! Where further connections have joined ([`further`](super::further)), each batch is shared
//! out to all of them. Nothing orders what travels on different connections, so no frame may
//! be under way on two of them:
//! - A round ends when all of it is answered, and names each frame once.
//! - A list of depopulated frames belongs to no round. It is sent while nothing is under
//!   way elsewhere, and batches take the first connection until it is answered.
//! - What was under way on a connection that is lost is sent again once the destination has
//!   said that it reads nothing more from it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use lull_core::batch::BATCH_PAGES;
use lull_core::link::SLOTS;
use lull_core::units::Micros;
use lull_wire::channel::{self, Attach, Edition, FromLand, Pages, Purpose, SILENCE};
use lull_wire::events;
use lull_wire::stream::records;

use super::channel::{Answers, Channel};
use super::classic::send_in_stream;
use super::comparison::Comparison;
use super::destination_frames::DestinationFrames;
use super::expected::Expected;
use super::further::Further;
use super::joined::Share;
use super::pulse::{Beat, Pulse};
use super::{Host, Landing, Means, Received, ToVerify};
use crate::domains::Domains;
use crate::emit::log;
use crate::failure::{Doing, Failure};
use crate::frames;
use crate::saved::{self, Saved};
use crate::slots::Copied;
use crate::stream::queue::Queue;
use crate::stream::sink::Sink;

/// The time from the destination's message that all is in place until the transport knows
/// of it. The transport keeps the deadline from then on.
const HANDOVER: Micros = Micros::from_millis(10);

/// The most messages about depopulated frames that may be unanswered at a time. No more of them
/// wait in the queue.
const DEPOPULATED_MAX: usize = 16;

/// The number of records that name frames and wait in the queue at a time: 512 KiB.
const NAMING_MAX: usize = 64;

/// The stages of a fast landing, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The frames are being named in the stream.
    Naming,
    /// Round 0 is being written to the stream, for a destination with an older lull.
    FirstPass,
    /// The provisional state is being written to the stream.
    Ending,
    /// The destination builds the guest from the stream.
    Building,
    /// `lull land` looks for the guest's copy.
    Attaching,
    /// Batches go over the channel.
    Open,
    /// The final state goes over the channel.
    Finishing,
    /// All pages and the final state are in place at the destination.
    Landed,
    /// The destination was told to start the copy.
    Starting,
}

/// The message for which an answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// A share of the batch of this slot, with contents of so many bytes.
    Share { slot: usize, bytes: usize },
    /// A list of depopulated frames.
    Depopulated,
    /// A ping ahead of a round's first batch.
    RoundTrip,
    /// A batch to compare.
    Comparison,
    /// To read nothing more from the connection of this number.
    Leave(u8),
}

/// The state of a fast landing under way.
pub struct Fast {
    stage: Stage,
    edition: Edition,
    /// The sending end of the channel. It is kept here until the stream is complete.
    to: Option<Sink>,
    from: Answers,
    attach: Attach,
    /// Messages that are sent and not answered, oldest first.
    asked: VecDeque<Asked>,
    /// All frames below this one are named in the stream, if they have a page.
    named: u64,
    /// What it has of the guest's frames.
    at_destination: DestinationFrames,
    /// For each slot, the frames of its batch that no longer have a page.
    depopulated: [Vec<u64>; SLOTS],
    /// The state from which the destination builds the guest.
    provisional: Option<Saved>,
    comparison: Comparison,
    pulse: Pulse,
    /// Whether a ping of the pulse is unanswered.
    pinged: bool,
    /// Whether a ping is to go ahead of the next batch, the first of its round.
    measures: bool,
    /// The further connections to `lull land`, and what they carry.
    further: Further,
    /// The copy of a guest with emulated devices.
    expected: Option<Expected>,
}

impl Fast {
    /// Prepares a fast landing and sends nothing yet.
    pub fn new(channel: Channel, guest_pfns: u64, tot_pages: u64) -> Self {
        Self {
            stage: match channel.edition.is_thin() {
                true => Stage::Naming,
                false => Stage::FirstPass,
            },
            edition: channel.edition,
            to: Some(channel.to),
            from: channel.from,
            attach: Attach {
                uuid: channel.uuid,
                frames: guest_pfns,
                name: channel.name,
            },
            asked: VecDeque::new(),
            named: 0,
            at_destination: DestinationFrames::new(guest_pfns, tot_pages),
            depopulated: Default::default(),
            provisional: None,
            comparison: Comparison::default(),
            pulse: Pulse::new(Instant::now()),
            pinged: false,
            measures: false,
            further: Further::new(channel.joined),
            expected: channel.expected.map(Expected::new),
        }
    }

    /// Whether batches go over the channel.
    fn is_open(&self) -> bool {
        self.stage >= Stage::Open
    }

    /// Names the next frames in the stream, and ends it once all are named. Each record
    /// covers a window of its own: receivers from Xen 4.21 on then build 2 MiB pages again.
    fn name_frames(&mut self, with: &mut Means<'_>) -> Result<(), Failure> {
        let mut records = 0;
        while records < NAMING_MAX {
            if self.named >= with.guest_pfns {
                let state = with.domains.saved();
                let state = state.doing("the guest's state cannot be read")?;
                self.end_stream(with.queue, state.without_cpus());
                return Ok(());
            }
            let frames = frames::window(with.populated, self.named);
            self.named += BATCH_PAGES as u64;
            if frames.is_empty() {
                continue;
            }
            with.queue.push(records::allocate(&frames));
            records += 1;
            self.at_destination.name(&frames);
        }
        Ok(())
    }

    /// Ends the stream with a provisional state.
    fn end_stream(&mut self, queue: &mut Queue, state: Saved) {
        queue.push(saved::records(&state));
        self.provisional = Some(state);
        self.stage = Stage::Ending;
    }
}

/// Batches, and the connections that carry them.
impl Fast {
    /// Sends a share over the connection that owes the least.
    fn push(&mut self, queue: &mut Queue, share: Share) {
        let owed = |asked: &Asked| match asked {
            Asked::Share { bytes, .. } => *bytes,
            _ => 0,
        };
        let owed = self.asked.iter().map(owed).sum();
        let share = match self.is_sending_depopulated() {
            true => Some(share),
            false => self.further.push(share, owed),
        };
        let Some(share) = share else { return };
        share.push(queue);
        let (slot, bytes) = (share.slot, share.bytes().max(1));
        self.asked.push_back(Asked::Share { slot, bytes });
    }

    /// Handles lost connections: sends Leave to the destination, reports the reason to the
    /// host, and sends again what they carried.
    fn replace_lost(&mut self, with: &mut Means<'_>) {
        for number in self.further.take_lost() {
            with.queue.push(channel::leave(number));
            self.asked.push_back(Asked::Leave(number));
        }
        self.further.report(with.host);
        while let Some(share) = self.further.take_again() {
            self.push(with.queue, share);
        }
    }
}

impl Fast {
    /// Tells `lull land` which copy to expect. The stream must not end before it is armed:
    /// the copy's QEMU would take the beginning of a state for all of it.
    fn announce_copy(&mut self) -> Result<(), Failure> {
        let announcement = self.expected.as_mut().and_then(Expected::announcement);
        let (Some(bytes), Some(to)) = (announcement, &mut self.to) else {
            return Ok(());
        };
        // Nothing was written before, so there is room.
        match to.write(&[IoSlice::new(&bytes)]) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err(Failure::LandLost("it takes nothing".into())),
            Err(error) => Err(Failure::LandLost(error.to_string())),
        }
    }

    /// Whether the stream, which is written but for its end, may end. `lull land` is armed once
    /// xl there has begun to build the copy. xl may hold that up for as long as it receives
    /// another guest. The wait ends with the attempt: by its timeout, when it is cancelled, and
    /// with the receiver or `lull land`.
    fn may_end(&mut self, host: &mut dyn Host) -> bool {
        let Some(expected) = &mut self.expected else {
            return true;
        };
        if expected.is_armed() {
            if expected.take_over() {
                log(host, "info", "the destination builds the guest");
            }
            return true;
        }
        if expected.wait(Instant::now()) {
            log(
                host,
                "info",
                "the destination does not build the guest yet: its xl may be receiving another \
                 guest, and takes one at a time where it makes room for guests (autoballoon)",
            );
        }
        false
    }

    /// Asks `lull land` whether it is there, every few seconds while nothing else is due.
    /// Its connection is silent during the first pass: a firewall might forget it, and its
    /// end might go unnoticed.
    fn feel_pulse(&mut self, queue: &mut Queue) -> Result<(), Failure> {
        if self.is_complete() {
            return Ok(());
        }
        let is_due = self.stage == Stage::Attaching || self.stage == Stage::Finishing;
        match self
            .pulse
            .look(Instant::now(), is_due || !self.asked.is_empty())
        {
            Beat::Fine => return Ok(()),
            Beat::Dead => {
                let silence = SILENCE.as_secs();
                return Err(Failure::LandLost(format!(
                    "it sent nothing for {silence} s"
                )));
            }
            Beat::Ask => {}
        }
        self.pinged = true;
        let Some(to) = &mut self.to else {
            queue.push(channel::ping());
            return Ok(());
        };
        // A pipe with room for these few bytes takes all of them, and one without room is
        // not read at its other end.
        match to.write(&[IoSlice::new(&channel::ping())]) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(Failure::LandLost(error.to_string())),
        }
    }
}

impl Landing for Fast {
    fn name(&self) -> events::Landing {
        self.edition.landing()
    }

    fn asks_itself(&self) -> bool {
        true
    }

    fn reserve(&self) -> Micros {
        HANDOVER
    }

    fn begin_round(&mut self) {
        self.measures = true;
    }

    fn awaits_round_trip(&self) -> bool {
        self.asked.contains(&Asked::RoundTrip)
    }

    /// Ends a stream that carries round 0 with a state of the running guest.
    fn end_round(&mut self, with: &mut Means<'_>) -> Result<bool, Failure> {
        if self.stage != Stage::FirstPass {
            self.at_destination.check_all_sent()?;
            return Ok(false);
        }
        let state = with.domains.saved();
        let state = state.doing("the guest's state cannot be read")?;
        self.end_stream(with.queue, state);
        Ok(true)
    }

    fn has_first_pass(&self) -> bool {
        self.stage >= Stage::Building
    }

    fn awaits_copy(&self) -> Option<Instant> {
        self.expected.as_ref().and_then(Expected::awaited_since)
    }

    fn is_resting(&self) -> bool {
        matches!(
            self.stage,
            Stage::Naming | Stage::Ending | Stage::Building | Stage::Attaching
        )
    }

    fn advance(&mut self, with: &mut Means<'_>) -> Result<(), Failure> {
        self.announce_copy()?;
        let is_written = self.stage == Stage::Ending && with.queue.is_empty();
        let may_end = is_written && self.may_end(with.host);
        match self.stage {
            Stage::Naming if with.queue.is_empty() => self.name_frames(with)?,
            Stage::Ending if may_end => {
                if let Some(to) = self.to.take() {
                    // libxl writes the end of the stream itself.
                    *with.sink = to;
                }
                self.stage = Stage::Building;
                let done = with.host.first_pass_done();
                done.doing("libxl has gone")?;
                let has = match self.edition.is_thin() {
                    true => "knows the guest's frames",
                    false => "has the first pass",
                };
                let text =
                    format!("the destination {has}, and sets the guest up while it runs here");
                log(with.host, "info", text);
            }
            Stage::Building if with.news.target_ready => {
                self.stage = Stage::Attaching;
                with.queue.push(channel::attach(&self.attach));
            }
            Stage::Open => drop(self.send_depopulated(with.queue)),
            _ => {}
        }
        self.further.feel_pulses();
        self.replace_lost(with);
        self.feel_pulse(with.queue)
    }

    fn recv(&mut self) -> Result<Option<Received>, Failure> {
        let Some(answer) = self.from.next()? else {
            return Ok(self.further.recv());
        };
        self.pulse.received(Instant::now());
        let asked = match (&answer, self.stage) {
            (FromLand::Failed(why), _) => return Err(Failure::Land(why.clone())),
            (FromLand::Pong, _) if std::mem::take(&mut self.pinged) => {
                return Ok(Some(Received::Noted));
            }
            (FromLand::Armed, _) if self.expected.as_mut().is_some_and(Expected::arm) => {
                return Ok(Some(Received::Noted));
            }
            (FromLand::Armed, _) => return Err(out_of_turn()),
            (FromLand::Attached, Stage::Attaching) => {
                self.stage = Stage::Open;
                return Ok(Some(Received::Open));
            }
            (FromLand::Landed, Stage::Finishing) if self.is_answered() => {
                self.stage = Stage::Landed;
                return Ok(Some(Received::Landed));
            }
            (FromLand::Started, Stage::Starting) => return Ok(Some(Received::Started)),
            (_, Stage::Open | Stage::Finishing) => self.asked.pop_front(),
            _ => None,
        };
        match (answer, asked) {
            (FromLand::Applied, Some(Asked::Share { slot, .. })) => {
                Ok(Some(self.further.applied(slot)))
            }
            (FromLand::Left, Some(Asked::Leave(number))) => {
                self.further.left(number);
                Ok(Some(Received::Noted))
            }
            (FromLand::Pong, Some(Asked::RoundTrip)) => Ok(Some(Received::RoundTrip)),
            (FromLand::Applied, Some(Asked::Depopulated)) => Ok(Some(Received::Noted)),
            (FromLand::Compared { differing, first }, Some(Asked::Comparison)) => {
                self.comparison.add(differing, first);
                Ok(Some(Received::Noted))
            }
            _ => Err(out_of_turn()),
        }
    }

    fn wake_on(&self) -> Vec<BorrowedFd<'_>> {
        let awaited = self.stage >= Stage::Building && self.stage != Stage::Landed;
        let awaited = awaited || self.expected.as_ref().is_some_and(Expected::is_due);
        let first = awaited.then(|| self.from.as_fd());
        first.into_iter().chain(self.further.wake_on()).collect()
    }

    fn connections(&self) -> Option<u8> {
        Some(self.further.connections())
    }

    fn write_on(&self) -> Vec<BorrowedFd<'_>> {
        self.further.write_on()
    }

    fn write(&mut self, domains: &dyn Domains, allowed: usize) -> u64 {
        self.further.write(domains, allowed)
    }

    fn written_elsewhere(&self) -> u64 {
        self.further.written()
    }

    fn left_out(&mut self, slot: u8, pfns: Vec<u64>) {
        if self.is_open() {
            self.depopulated[usize::from(slot)] = pfns;
        }
    }

    /// A receiver of streams knows no zero pages, and an older lull does not either.
    fn marks_zeros(&self) -> bool {
        self.is_open() && self.edition.is_thin()
    }

    /// Sends the batch into the stream or, once that has ended, over the channel.
    fn send(&mut self, queue: &mut Queue, slot: usize, copied: Copied) -> bool {
        self.at_destination.send(&copied.pages);
        self.at_destination.send(&copied.zeros);
        if !self.is_open() {
            return send_in_stream(queue, slot, &copied.pages);
        }
        let depopulated = std::mem::take(&mut self.depopulated[slot]);
        self.at_destination.depopulate(&depopulated);
        let connections = match self.is_sending_depopulated() {
            true => 1,
            false => usize::from(self.further.connections()),
        };
        let shares = Share::of_batch(slot, copied, depopulated, connections);
        self.further.begin(slot, shares.len());
        let any = !shares.is_empty();
        if any && std::mem::take(&mut self.measures) {
            queue.push(channel::ping());
            self.asked.push_back(Asked::RoundTrip);
        }
        for share in shares {
            self.push(queue, share);
        }
        any
    }

    /// On the channel the destination answers each batch.
    fn is_sent_when_written(&self) -> bool {
        !self.is_open()
    }

    fn follows_memory(&self) -> bool {
        true
    }

    fn see_pages(&mut self, pages: u64) {
        self.at_destination.see_pages(pages);
    }

    fn is_ballooning(&self) -> bool {
        self.is_open() && self.at_destination.is_ballooning()
    }

    fn list(&mut self, now: &[u64]) -> Vec<u64> {
        self.at_destination.list(now)
    }

    fn send_depopulated(&mut self, queue: &mut Queue) -> bool {
        if !self.at_destination.has_depopulated() {
            return false;
        }
        if self.further.is_spread() {
            return true;
        }
        let is_depopulated = |asked: &&Asked| **asked == Asked::Depopulated;
        while self.asked.iter().filter(is_depopulated).count() < DEPOPULATED_MAX {
            let depopulated = self.at_destination.take_depopulated(BATCH_PAGES);
            if depopulated.is_empty() {
                return false;
            }
            queue.push(channel::pages_header(&Pages {
                purpose: Purpose::Write,
                present: Vec::new(),
                zero: Vec::new(),
                depopulated,
            }));
            self.asked.push_back(Asked::Depopulated);
        }
        true
    }

    fn is_sending_depopulated(&mut self) -> bool {
        self.at_destination.has_depopulated() || self.asked.contains(&Asked::Depopulated)
    }

    /// Every page of the guest is compared, and every frame without one, while neither copy
    /// runs. The frames are listed again, because the comparison must judge what was sent.
    fn begin_verify(&mut self, with: &mut Means<'_>, _: Vec<u64>) -> Result<ToVerify, Failure> {
        let (now, _) = frames::populated(with.domains, with.guest_pfns)
            .doing("the guest's frames cannot be listed")?;
        let present = frames::listed(now.iter().copied());
        let mut absent = frames::listed(now.iter().map(|word| !word));
        absent.retain(|gfn| *gfn < with.guest_pfns);
        self.comparison = Comparison::of(present.len());
        Ok(ToVerify { present, absent })
    }

    fn verify(&mut self, queue: &mut Queue, pfns: &[u64], pages: Option<Vec<u8>>) {
        let (present, depopulated) = match pages {
            Some(_) => (pfns.to_vec(), Vec::new()),
            None => (Vec::new(), pfns.to_vec()),
        };
        queue.push(channel::pages_header(&Pages {
            purpose: Purpose::Compare,
            present,
            zero: Vec::new(),
            depopulated,
        }));
        queue.push(pages.unwrap_or_default());
        self.asked.push_back(Asked::Comparison);
    }

    fn is_answered(&self) -> bool {
        self.asked.is_empty() && !self.further.is_spread()
    }

    fn verified(&self) -> Result<Option<String>, Failure> {
        self.comparison.result().map(Some)
    }

    fn send_devices(&mut self, queue: &mut Queue, state: &[u8]) {
        if let Some(expected) = &mut self.expected {
            queue.push(expected.devices(state));
        }
    }

    /// Sends the state that replaces the one with which the stream ended.
    fn send_final_state(&mut self, queue: &mut Queue, state: &Saved) -> Result<(), Failure> {
        self.at_destination.check_all_sent()?;
        if !self.expected.as_ref().is_none_or(Expected::has_devices) {
            return Err(Failure::Bug("its devices' state was not sent".into()));
        }
        let Some(provisional) = &self.provisional else {
            return Err(out_of_turn());
        };
        let state = state.replacing(provisional)?;
        self.stage = Stage::Finishing;
        self.further.end();
        queue.push(channel::state(&state));
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.stage == Stage::Landed
    }

    fn start(&mut self, queue: &mut Queue) {
        self.stage = Stage::Starting;
        queue.push(channel::start());
    }
}

fn out_of_turn() -> Failure {
    Failure::Land("it spoke out of turn".into())
}

#[cfg(test)]
#[path = "fast_tests.rs"]
mod tests;
