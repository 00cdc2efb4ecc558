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
//! round goes on beside it. At the end `lull land` starts the copy on the engine's word
//! (`starting`). A destination with an older lull does not know that: there
//! the handshake follows once everything is in place.
//!
//! A batch counts as sent once the destination has put it into place. The learned rate is
//! therefore that of the whole path, and no page waits unseen in a pipe when the guest
//! stops.
//!
//! Where further connections have joined ([`joined`](super::joined)), each batch is shared
//! out to all of them. Nothing orders what travels on different connections, so no frame may
//! be under way on two of them:
//! - A round ends when all of it is answered, and names each frame once.
//! - A list of frames that have gone belongs to no round. It is sent while nothing is under
//!   way elsewhere, and batches take the first connection until it is answered.
//! - What was under way on a connection that is lost is sent again once the destination has
//!   said that it reads nothing more from it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use lull_base::bit_set::BitSet;
use lull_core::batch::BATCH_PAGES;
use lull_core::link::SLOTS;
use lull_core::units::Micros;
use lull_wire::channel::{self, Attach, Edition, FromLand, Pages, Purpose, SILENCE};
use lull_wire::events;
use lull_wire::stream::records;

use super::balloon::{Balloon, Change};
use super::channel::{Answers, Channel};
use super::classic::send_in_stream;
use super::expected::Expected;
use super::going::Going;
use super::joined::{Joined, Said, Share, Unanswered};
use super::pulse::{Beat, Pulse};
use super::{Heard, Landing, Means, ToVerify};
use crate::domains::Domains;
use crate::failure::{Doing, Failure};
use crate::frames;
use crate::saved::{self, Saved};
use crate::slots::Copied;
use crate::stream::queue::Queue;
use crate::stream::sink::Sink;
use crate::telling::say;

/// The time from the destination's message that all is in place until the transport knows
/// of it. The transport keeps the deadline from then on.
const HANDOVER: Micros = Micros::from_millis(10);

/// The most messages about gone frames that may be unanswered at a time. No more of them
/// wait in the queue.
const GOING_MAX: usize = 16;

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
    /// A list of frames that have gone.
    Gone,
    /// A batch to compare.
    Comparison,
    /// To read nothing more from the connection of this number.
    Leave(u8),
}

/// A connection that was lost while shares of it were not answered.
struct Lost {
    number: u8,
    /// Whether the destination was told.
    told: bool,
    shares: Vec<Share>,
}

/// What the destination has found in the comparison for `--debug`.
#[derive(Debug, Default)]
struct Comparison {
    /// The number of pages to compare.
    pages: usize,
    /// The number of frames that differ.
    differing: u64,
    /// The first of them.
    first: u64,
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
    /// Bitmap of the frames that have a page at the destination.
    there: Vec<u64>,
    /// Those of them that still hold what Xen has handed out.
    unwritten: BitSet,
    /// For each slot, the frames of its batch that no longer have a page.
    gone: [Vec<u64>; SLOTS],
    /// Other frames that have gone, of which the destination is not told yet. A guest may
    /// give back all its memory at once, so they are sent a few at a time.
    going: Going,
    balloon: Balloon,
    /// The state from which the destination builds the guest.
    provisional: Option<Saved>,
    comparison: Comparison,
    pulse: Pulse,
    /// Whether a ping is unanswered.
    pinged: bool,
    /// The further connections.
    joined: Vec<Joined>,
    /// For each slot, the number of shares of its batch that are not answered.
    unanswered: Unanswered,
    /// What must not be sent again yet.
    lost: Vec<Lost>,
    /// What is to be sent again.
    again: Vec<Share>,
    /// Why connections were lost, where this is not reported yet.
    losses: Vec<String>,
    /// Whether a connection was lost since the answers were last heard.
    narrowed: bool,
    /// The number of bytes written to connections that were lost.
    written_in_vain: u64,
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
            there: vec![0; guest_pfns.div_ceil(64) as usize],
            unwritten: BitSet::below(guest_pfns),
            gone: Default::default(),
            going: Going::none(guest_pfns),
            balloon: Balloon::listed(tot_pages),
            provisional: None,
            comparison: Comparison::default(),
            pulse: Pulse::new(Instant::now()),
            pinged: false,
            joined: channel.joined,
            unanswered: [0; SLOTS],
            lost: Vec::new(),
            again: Vec::new(),
            losses: Vec::new(),
            narrowed: false,
            written_in_vain: 0,
            expected: channel.expected.map(Expected::new),
        }
    }

    /// Whether batches go over the channel.
    fn is_open(&self) -> bool {
        self.stage >= Stage::Open
    }

    fn mark(&mut self, frames: &[u64], present: bool) {
        for gfn in frames {
            // The frame lies within the guest: that was checked when the stub asked for it.
            if let Some(word) = self.there.get_mut((gfn / 64) as usize) {
                let bit = 1 << (gfn % 64);
                *word = if present { *word | bit } else { *word & !bit };
            }
            if present {
                self.going.came_back(*gfn);
            }
            self.unwritten.remove(*gfn);
        }
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
            self.mark(&frames, true);
            for gfn in frames {
                self.unwritten.insert(gfn);
            }
        }
        Ok(())
    }

    /// Ends the stream with a provisional state.
    fn end_stream(&mut self, queue: &mut Queue, state: Saved) {
        queue.push(saved::records(&state));
        self.provisional = Some(state);
        self.stage = Stage::Ending;
    }

    /// Checks that each frame of the copy was sent. The stub says which frames it copies, and
    /// dom0 only counts them.
    fn check_all_sent(&self) -> Result<(), Failure> {
        match self.unwritten.first() {
            Some(gfn) => Err(Failure::NeverSent(gfn)),
            None => Ok(()),
        }
    }
}

/// The further connections.
impl Fast {
    /// Whether anything is under way on a further connection, or was when it was lost.
    fn is_spread(&self) -> bool {
        !self.lost.is_empty()
            || !self.again.is_empty()
            || !self.joined.iter().all(Joined::is_answered)
    }

    /// Whether batches have to take the first connection: the destination is being told of
    /// frames that have gone, and they may be back.
    fn is_telling_gone(&mut self) -> bool {
        !self.going.is_none() || self.asked.contains(&Asked::Gone)
    }

    /// Sends a share over the connection that owes the least.
    fn push(&mut self, queue: &mut Queue, share: Share) {
        let may_join = share.may_join() && !self.is_telling_gone();
        let owed = |asked: &Asked| match asked {
            Asked::Share { bytes, .. } => *bytes,
            _ => 0,
        };
        let owed: usize = self.asked.iter().map(owed).sum();
        let least = self.joined.iter_mut().min_by_key(|joined| joined.owed());
        if let Some(joined) = least.filter(|joined| may_join && joined.owed() < owed) {
            joined.push(share);
            return;
        }
        share.push(queue);
        let (slot, bytes) = (share.slot, share.bytes().max(1));
        self.asked.push_back(Asked::Share { slot, bytes });
    }

    /// A share of that slot's batch is in place. The batch is, once all of them are.
    fn applied(&mut self, slot: usize) -> Heard {
        let left = &mut self.unanswered[slot];
        *left = left.saturating_sub(1);
        match left {
            0 => Heard::Sent(slot),
            _ => Heard::Noted,
        }
    }

    /// Stops using a further connection.
    fn lose(&mut self, index: usize, why: &str) {
        let joined = self.joined.remove(index);
        let number = joined.number;
        self.written_in_vain += joined.written();
        let shares = joined.into_unanswered();
        // What is answered is in place, and nothing of it can come later.
        if !shares.is_empty() {
            self.lost.push(Lost {
                number,
                told: false,
                shares,
            });
        }
        self.losses.push(why.to_owned());
        self.narrowed = true;
    }

    /// Tells the destination which connections are lost, and the host why.
    fn tell_lost(&mut self, with: &mut Means<'_>) {
        for lost in self.lost.iter_mut().filter(|lost| !lost.told) {
            lost.told = true;
            with.queue.push(channel::leave(lost.number));
            self.asked.push_back(Asked::Leave(lost.number));
        }
        for why in self.losses.drain(..) {
            with.host
                .tell(events::Event::ConnectionLost(events::ConnectionLost {
                    left: 1 + self.joined.len() as u8,
                    reason: why,
                }));
        }
    }

    /// The next answer on a further connection. Once the final state is on its way there is
    /// none: whatever becomes of them, they have done their part.
    fn hear_joined(&mut self) -> Option<Heard> {
        if self.stage >= Stage::Finishing {
            return None;
        }
        let now = Instant::now();
        for index in 0..self.joined.len() {
            match self.joined[index].hear(now) {
                Ok(None) => {}
                Ok(Some(Said::Pong)) => return Some(Heard::Noted),
                Ok(Some(Said::Applied(share))) => return Some(self.applied(share.slot)),
                Err(why) => {
                    self.lose(index, &why);
                    break;
                }
            }
        }
        std::mem::take(&mut self.narrowed).then_some(Heard::Narrowed)
    }

    /// Asks on further connections as on the first one.
    fn feel_pulses(&mut self) {
        if self.stage >= Stage::Finishing {
            return;
        }
        let now = Instant::now();
        for index in (0..self.joined.len()).rev() {
            if let Err(why) = self.joined[index].feel_pulse(now) {
                self.lose(index, &why);
            }
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

    /// Whether the stream may end.
    fn is_expected(&self) -> bool {
        self.expected.as_ref().is_none_or(Expected::is_armed)
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
                    "it was not heard for {silence} s"
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

    /// Ends a stream that carries round 0 with a state of the running guest.
    fn end_round(&mut self, with: &mut Means<'_>) -> Result<bool, Failure> {
        if self.stage != Stage::FirstPass {
            self.check_all_sent()?;
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

    fn is_resting(&self) -> bool {
        matches!(
            self.stage,
            Stage::Naming | Stage::Ending | Stage::Building | Stage::Attaching
        )
    }

    fn advance(&mut self, with: &mut Means<'_>) -> Result<(), Failure> {
        self.announce_copy()?;
        match self.stage {
            Stage::Naming if with.queue.is_empty() => self.name_frames(with)?,
            Stage::Ending if with.queue.is_empty() && self.is_expected() => {
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
                say(with.host, "info", text);
            }
            Stage::Building if with.news.target_ready => {
                self.stage = Stage::Attaching;
                with.queue.push(channel::attach(&self.attach));
            }
            Stage::Open => drop(self.tell_gone(with.queue)),
            _ => {}
        }
        self.feel_pulses();
        self.tell_lost(with);
        while let Some(share) = self.again.pop() {
            self.push(with.queue, share);
        }
        self.feel_pulse(with.queue)
    }

    fn hear(&mut self) -> Result<Option<Heard>, Failure> {
        let Some(answer) = self.from.next()? else {
            return Ok(self.hear_joined());
        };
        self.pulse.felt(Instant::now());
        let asked = match (&answer, self.stage) {
            (FromLand::Failed(why), _) => return Err(Failure::Land(why.clone())),
            (FromLand::Pong, _) if std::mem::take(&mut self.pinged) => {
                return Ok(Some(Heard::Noted));
            }
            (FromLand::Pong, _) => return Err(out_of_turn()),
            (FromLand::Armed, _) if self.expected.as_mut().is_some_and(Expected::arm) => {
                return Ok(Some(Heard::Noted));
            }
            (FromLand::Armed, _) => return Err(out_of_turn()),
            (FromLand::Attached, Stage::Attaching) => {
                self.stage = Stage::Open;
                return Ok(Some(Heard::Open));
            }
            (FromLand::Landed, Stage::Finishing) if self.is_answered() => {
                self.stage = Stage::Landed;
                return Ok(Some(Heard::Landed));
            }
            (FromLand::Started, Stage::Starting) => return Ok(Some(Heard::Started)),
            (_, Stage::Open | Stage::Finishing) => self.asked.pop_front(),
            _ => None,
        };
        match (answer, asked) {
            (FromLand::Applied, Some(Asked::Share { slot, .. })) => Ok(Some(self.applied(slot))),
            (FromLand::Left, Some(Asked::Leave(number))) => {
                let gone = |lost: &mut Lost| lost.number == number;
                let shares = self.lost.extract_if(.., gone).flat_map(|lost| lost.shares);
                self.again.extend(shares);
                Ok(Some(Heard::Noted))
            }
            (FromLand::Applied, Some(Asked::Gone)) => Ok(Some(Heard::Noted)),
            (FromLand::Compared { differing, first }, Some(Asked::Comparison)) => {
                let found = &mut self.comparison;
                if differing > 0 && found.differing == 0 {
                    found.first = first;
                }
                found.differing += u64::from(differing);
                Ok(Some(Heard::Noted))
            }
            _ => Err(out_of_turn()),
        }
    }

    fn wake_on(&self) -> Vec<BorrowedFd<'_>> {
        let awaited = self.stage >= Stage::Building && self.stage != Stage::Landed;
        let awaited = awaited || self.expected.as_ref().is_some_and(Expected::is_due);
        let first = awaited.then(|| self.from.as_fd());
        let used = self.stage < Stage::Finishing;
        let joined = self.joined.iter().filter(|_| used).map(Joined::wake_on);
        first.into_iter().chain(joined).collect()
    }

    fn connections(&self) -> Option<u8> {
        Some(1 + self.joined.len() as u8)
    }

    fn write_on(&self) -> Vec<BorrowedFd<'_>> {
        self.joined.iter().filter_map(Joined::write_on).collect()
    }

    fn write(&mut self, domains: &dyn Domains, allowed: usize) -> u64 {
        let mut written = 0;
        for index in (0..self.joined.len()).rev() {
            let joined = &mut self.joined[index];
            let before = joined.written();
            let left = allowed.saturating_sub(usize::try_from(written).unwrap_or(usize::MAX));
            let outcome = joined.write(domains, left);
            written += joined.written() - before;
            if let Err(why) = outcome {
                self.lose(index, &why);
            }
        }
        written
    }

    fn written_elsewhere(&self) -> u64 {
        let joined: u64 = self.joined.iter().map(Joined::written).sum();
        self.written_in_vain + joined
    }

    fn left_out(&mut self, slot: u8, pfns: Vec<u64>) {
        if self.is_open() {
            self.gone[usize::from(slot)] = pfns;
        }
    }

    /// A receiver of streams knows no zero pages, and an older lull does not either.
    fn marks_zeros(&self) -> bool {
        self.is_open() && self.edition.is_thin()
    }

    /// Sends the batch into the stream or, once that has ended, over the channel.
    fn send(&mut self, queue: &mut Queue, slot: usize, copied: Copied) -> bool {
        self.mark(&copied.pages, true);
        self.mark(&copied.zeros, true);
        if !self.is_open() {
            return send_in_stream(queue, slot, &copied.pages);
        }
        let gone = std::mem::take(&mut self.gone[slot]);
        self.mark(&gone, false);
        let connections = match self.is_telling_gone() {
            true => 1,
            false => 1 + self.joined.len(),
        };
        let shares = Share::of_batch(slot, copied, gone, connections);
        self.unanswered[slot] = shares.len();
        let any = !shares.is_empty();
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
        self.balloon.see(pages);
    }

    fn is_ballooning(&self) -> bool {
        self.is_open() && self.balloon.change() != Change::None
    }

    fn list(&mut self, now: &[u64]) -> Vec<u64> {
        let gained = match self.balloon.change() {
            // Any frame may hold another page by now.
            Change::BothWays => now.to_vec(),
            _ => self.going.gained(now, &self.there),
        };
        self.balloon.list();
        self.going.list(now, &self.there);
        gained
    }

    fn tell_gone(&mut self, queue: &mut Queue) -> bool {
        if self.going.is_none() {
            return false;
        }
        if self.is_spread() {
            return true;
        }
        let is_gone = |asked: &&Asked| **asked == Asked::Gone;
        while self.asked.iter().filter(is_gone).count() < GOING_MAX {
            let gone = self.going.take(BATCH_PAGES);
            if gone.is_empty() {
                return false;
            }
            self.mark(&gone, false);
            queue.push(channel::pages_header(&Pages {
                purpose: Purpose::Write,
                present: Vec::new(),
                zero: Vec::new(),
                gone,
            }));
            self.asked.push_back(Asked::Gone);
        }
        true
    }

    /// Every page of the guest is compared, and every frame without one, while neither copy
    /// runs. The frames are listed again, because the comparison must judge what was sent.
    fn begin_verify(&mut self, with: &mut Means<'_>, _: Vec<u64>) -> Result<ToVerify, Failure> {
        let (now, _) = frames::populated(with.domains, with.guest_pfns)
            .doing("the guest's frames cannot be listed")?;
        let present = frames::listed(now.iter().copied());
        let mut absent = frames::listed(now.iter().map(|word| !word));
        absent.retain(|gfn| *gfn < with.guest_pfns);
        self.comparison.pages = present.len();
        Ok(ToVerify { present, absent })
    }

    fn verify(&mut self, queue: &mut Queue, pfns: &[u64], pages: Option<Vec<u8>>) {
        let (present, gone) = match pages {
            Some(_) => (pfns.to_vec(), Vec::new()),
            None => (Vec::new(), pfns.to_vec()),
        };
        queue.push(channel::pages_header(&Pages {
            purpose: Purpose::Compare,
            present,
            zero: Vec::new(),
            gone,
        }));
        queue.push(pages.unwrap_or_default());
        self.asked.push_back(Asked::Comparison);
    }

    fn is_answered(&self) -> bool {
        self.asked.is_empty() && !self.is_spread()
    }

    fn verified(&self) -> Result<Option<String>, Failure> {
        let Comparison {
            pages,
            differing,
            first,
        } = self.comparison;
        match differing {
            0 => Ok(Some(format!(
                "{pages} pages compared with the destination's: all are equal, and no frame \
                 without a page has one there"
            ))),
            differing => Err(Failure::Differ { differing, first }),
        }
    }

    fn send_devices(&mut self, queue: &mut Queue, state: &[u8]) {
        if let Some(expected) = &mut self.expected {
            queue.push(expected.devices(state));
        }
    }

    /// Sends the state that replaces the one with which the stream ended.
    fn send_final_state(&mut self, queue: &mut Queue, state: &Saved) -> Result<(), Failure> {
        self.check_all_sent()?;
        if !self.expected.as_ref().is_none_or(Expected::has_devices) {
            return Err(Failure::Bug("its devices' state was not sent".into()));
        }
        let Some(provisional) = &self.provisional else {
            return Err(out_of_turn());
        };
        let state = state.replacing(provisional)?;
        self.stage = Stage::Finishing;
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
mod tests {
    use std::io::{PipeReader, PipeWriter, Write, pipe};
    use std::os::fd::OwnedFd;

    use super::super::Connection;
    use super::*;

    /// The other ends of a connection. Nothing is read from the first.
    type Line = (PipeReader, PipeWriter);

    fn line() -> (OwnedFd, OwnedFd, Line) {
        let (land, to) = pipe().unwrap();
        let (from, answers) = pipe().unwrap();
        (to.into(), from.into(), (land, answers))
    }

    /// A landing that takes batches, with two further connections.
    fn open() -> (Fast, Vec<Line>) {
        let (to, from, first) = line();
        let guest = ([7; 16], "web1");
        let mut channel = Channel::new(to, from, guest, Edition::Joined).unwrap();
        let mut lines = vec![first];
        for number in 1..=2 {
            let (to, from, further) = line();
            channel.join(Connection { number, to, from }).unwrap();
            lines.push(further);
        }
        let mut fast = Fast::new(channel, 4_096, 4_096);
        fast.stage = Stage::Open;
        (fast, lines)
    }

    fn batch(frames: std::ops::Range<u64>) -> Copied {
        Copied {
            pages: frames.collect(),
            zeros: Vec::new(),
        }
    }

    /// Answers all that is under way on this connection, and hears it.
    fn answer(fast: &mut Fast, lines: &mut [Line], number: usize) {
        let count = match number.checked_sub(1) {
            None => fast.asked.len(),
            Some(further) => fast.joined[further].unanswered(),
        };
        for _ in 0..count {
            lines[number]
                .1
                .write_all(&FromLand::Applied.encode())
                .unwrap();
        }
        while fast.hear().unwrap().is_some() {}
    }

    fn under_way(fast: &Fast) -> [usize; 3] {
        [
            fast.asked.len(),
            fast.joined[0].unanswered(),
            fast.joined[1].unanswered(),
        ]
    }

    /// Frames that have gone may be back in the next batch. If the two crossed on different
    /// connections, the destination would take the page away again.
    #[test]
    fn what_has_gone_is_told_while_nothing_is_under_way_elsewhere() {
        let (mut fast, mut lines) = open();
        let mut queue = Queue::default();
        assert!(fast.send(&mut queue, 0, batch(0..300)));
        assert_eq!(under_way(&fast), [1, 1, 1]);
        // Two frames go.
        let mut now = fast.there.clone();
        now[0] &= !0b1100;
        let there = fast.there.clone();
        fast.going.list(&now, &there);
        assert!(fast.tell_gone(&mut queue), "it has to wait");
        assert!(fast.send(&mut queue, 1, batch(300..600)));
        assert_eq!(
            under_way(&fast),
            [2, 1, 1],
            "batches take the first connection"
        );
        answer(&mut fast, &mut lines, 1);
        assert!(fast.tell_gone(&mut queue), "it has to wait");
        answer(&mut fast, &mut lines, 2);
        assert!(!fast.tell_gone(&mut queue));
        assert_eq!(fast.asked.back(), Some(&Asked::Gone));
        // One of them is back before that is answered.
        assert!(fast.send(&mut queue, 2, batch(3..200)));
        assert_eq!(under_way(&fast), [4, 0, 0]);
        answer(&mut fast, &mut lines, 0);
        assert!(fast.is_answered());
        assert!(fast.send(&mut queue, 3, batch(0..300)));
        assert_eq!(under_way(&fast), [1, 1, 1]);
    }

    /// What a connection was to carry goes nowhere else before the destination has said that
    /// it reads nothing more from it, and a batch is in place only with all its shares.
    #[test]
    fn what_is_lost_is_sent_again_once_it_cannot_come_late() {
        let (mut fast, mut lines) = open();
        let mut queue = Queue::default();
        assert!(fast.send(&mut queue, 0, batch(0..300)));
        drop(lines.remove(1));
        assert_eq!(fast.hear().unwrap(), Some(Heard::Narrowed));
        assert_eq!(fast.connections(), Some(2));
        assert!(fast.is_spread() && fast.again.is_empty());
        // The first connection has the answers of its share and, in this order, of the
        // Leave that `advance` has sent.
        fast.lost[0].told = true;
        fast.asked.push_back(Asked::Leave(1));
        let first = &mut lines[0].1;
        first.write_all(&FromLand::Applied.encode()).unwrap();
        assert_eq!(fast.hear().unwrap(), Some(Heard::Noted));
        first.write_all(&FromLand::Left.encode()).unwrap();
        assert_eq!(fast.hear().unwrap(), Some(Heard::Noted));
        let share = fast.again.pop().unwrap();
        fast.push(&mut queue, share);
        let other = &mut lines[1].1;
        other.write_all(&FromLand::Applied.encode()).unwrap();
        assert_eq!(fast.hear().unwrap(), Some(Heard::Noted));
        lines[0].1.write_all(&FromLand::Applied.encode()).unwrap();
        assert_eq!(fast.hear().unwrap(), Some(Heard::Sent(0)));
        assert!(fast.is_answered());
    }

    /// A destination may say nothing out of turn on the first connection.
    #[test]
    fn a_leave_that_was_not_asked_for_is_no_answer() {
        let (mut fast, mut lines) = open();
        lines[0].1.write_all(&FromLand::Left.encode()).unwrap();
        assert!(fast.hear().is_err());
    }
}
