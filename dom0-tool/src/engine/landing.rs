//! The fast landing, as the engine does its part: what goes where, and when.
//!
//! Round 0 goes into the stream that libxl began, as ever, and after it a state
//! of the running guest, so that the stream is complete. The destination builds
//! the guest from that, devices and all, and says READY, which the transport
//! keeps. From then on everything goes over a second channel to `lull land`
//! ([`land`](crate::land)). The machine notices nothing but that its first count
//! is answered late.
//!
//! A batch counts as sent when the destination has put it into place, so the
//! rate that is learned is that of the whole way, and no page waits unseen in a
//! pipe when the guest stops.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use lull_core::batch::BATCH_PAGES;
use lull_core::link::SLOTS;
use lull_core::machine::Event;
use lull_wire::channel::{self, Attach, FromLand, Pages, Purpose};
use lull_xen::buffer::HypercallBuffer;
use lull_xen::domctl::{Clean, is_populated};
use lull_xen::foreign::ForeignPages;

use super::balloon::{Balloon, Change};
use super::channel::{Answers, Channel};
use super::clock::TICK;
use super::failure::{Doing, Failure};
use super::frames;
use super::going::Going;
use super::log_dirty::Cleaned;
use super::saved::{self, Saved};
use super::session::Session;
use crate::stream::sink::Sink;

/// How far a fast landing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Round 0 goes into the stream.
    FirstPass,
    /// So does the provisional state.
    Ending,
    /// The destination builds the guest.
    Building,
    /// `lull land` looks for it.
    Attaching,
    /// Batches go over the channel.
    Open,
    /// The final state does.
    Finishing,
    /// All is in place.
    Landed,
}

/// What an answer is awaited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The batch in that slot.
    Slot(usize),
    /// Frames that are gone.
    Gone,
}

/// A fast landing under way.
pub(super) struct Fast {
    stage: Stage,
    /// The channel's beginning, until the stream is complete.
    to: Option<Sink>,
    from: Answers,
    attach: Attach,
    /// Asked and not answered, the oldest first.
    asked: VecDeque<Asked>,
    /// Frames with a page at the destination, a bit each.
    there: Vec<u64>,
    /// Of each slot's batch, those that have no page any more.
    gone: [Vec<u64>; SLOTS],
    /// Frames that have gone otherwise, of which the destination is still to be told.
    /// A guest may give back all it has at once: they are told a few at a time.
    going: Going,
    balloon: Balloon,
    /// The state that the destination builds the guest from.
    provisional: Option<Saved>,
    types: HypercallBuffer<u64>,
}

impl Fast {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// When there is no memory for hypercalls.
    pub(super) fn new(channel: Channel, guest_pfns: u64, tot_pages: u64) -> io::Result<Self> {
        Ok(Self {
            stage: Stage::FirstPass,
            to: Some(channel.to),
            from: channel.from,
            attach: Attach {
                uuid: channel.uuid,
                frames: guest_pfns,
                name: channel.name,
            },
            asked: VecDeque::new(),
            there: vec![0; guest_pfns.div_ceil(64) as usize],
            gone: Default::default(),
            going: Going::none(guest_pfns),
            balloon: Balloon::listed(tot_pages),
            provisional: None,
            types: HypercallBuffer::new(BATCH_PAGES)?,
        })
    }

    /// Whether batches go over the channel.
    fn is_open(&self) -> bool {
        self.stage >= Stage::Open
    }

    /// Whether the guest is copied no further until the destination is ready.
    pub(super) fn is_building(&self) -> bool {
        matches!(
            self.stage,
            Stage::Ending | Stage::Building | Stage::Attaching
        )
    }

    /// Whether the guest can be started at the destination.
    pub(super) fn has_landed(&self) -> bool {
        self.stage == Stage::Landed
    }

    /// What to wait on for answers.
    pub(super) fn wake_on(&self) -> Option<BorrowedFd<'_>> {
        let awaited = Stage::Building..Stage::Landed;
        awaited.contains(&self.stage).then(|| self.from.as_fd())
    }

    fn mark(&mut self, frames: &[u64], present: bool) {
        for gfn in frames {
            // Within the guest: checked when the stub asked for it.
            if let Some(word) = self.there.get_mut((gfn / 64) as usize) {
                let bit = 1 << (gfn % 64);
                *word = if present { *word | bit } else { *word & !bit };
            }
            if present {
                self.going.came_back(*gfn);
            }
        }
    }
}

/// Messages about frames that have gone which may be unanswered at a time: they, and no
/// more of them, wait in the queue.
const GOING_MAX: usize = 16;

impl Session<'_> {
    /// Round 0 is in the stream: ends that with a state of the running guest.
    /// The count is taken when the destination is ready. Says whether that is
    /// how this guest lands.
    pub(super) fn ends_first_pass(&mut self) -> Result<bool, Failure> {
        let Some(fast) = self.fast.as_mut() else {
            return Ok(false);
        };
        if fast.stage != Stage::FirstPass {
            return Ok(false);
        }
        let state =
            Saved::read(self.xen, self.order.guest).doing("the guest's state cannot be read")?;
        self.queue.push(saved::records(&state));
        fast.provisional = Some(state);
        fast.stage = Stage::Ending;
        Ok(true)
    }

    /// What the next step of the landing waits for may have come.
    pub(super) fn go_on_landing(&mut self) -> Result<(), Failure> {
        let Some(fast) = self.fast.as_mut() else {
            return Ok(());
        };
        match fast.stage {
            Stage::Ending if self.queue.is_empty() => {
                if let Some(to) = fast.to.take() {
                    // The stream's own end is libxl's to write.
                    self.sink = to;
                }
                fast.stage = Stage::Building;
                let done = self.host.first_pass_done();
                done.doing("libxl has gone")?;
                self.say(
                    "info",
                    "the destination has the first pass, and sets the guest up while it runs here"
                        .into(),
                );
            }
            Stage::Building if self.host.is_target_ready() => {
                fast.stage = Stage::Attaching;
                let frame = channel::attach(&fast.attach);
                self.queue.push(frame);
            }
            Stage::Open => drop(self.tell_gone()),
            _ => {}
        }
        self.hear_land()
    }

    /// Tells the destination of some of those frames that have gone; whether there are
    /// more.
    fn tell_gone(&mut self) -> bool {
        let Some(fast) = self.fast.as_mut() else {
            return false;
        };
        let is_gone = |asked: &&Asked| **asked == Asked::Gone;
        while fast.asked.iter().filter(is_gone).count() < GOING_MAX {
            let gone = fast.going.take(BATCH_PAGES);
            if gone.is_empty() {
                return false;
            }
            fast.mark(&gone, false);
            self.queue.push(channel::pages_header(&Pages {
                purpose: Purpose::Write,
                present: Vec::new(),
                gone,
            }));
            fast.asked.push_back(Asked::Gone);
        }
        true
    }

    /// The same of all of them: the guest waits, and whoever wants it back is heard.
    pub(super) fn tell_all_gone(&mut self) -> Result<(), Failure> {
        while self.tell_gone() {
            self.write()?;
            self.hear_land()?;
            self.wait(TICK).doing("waiting failed")?;
            self.attend_while_comparing()?;
            self.check_deadline()?;
        }
        Ok(())
    }

    /// Where memory was given to the guest, or taken, since the last bitmap, the guest is
    /// not to be stopped: listing a large one's frames takes seconds, of which no
    /// prediction knows.
    pub(super) fn tell_if_unsettled(&mut self) -> Result<(), Failure> {
        if self.limit_in_force().is_some() && self.is_ballooning()? {
            self.peer.tell(self.now(), Event::Unsettled)?;
        }
        Ok(())
    }

    /// Whether memory was given to the guest, or taken, since it was listed, of which the
    /// destination must be told.
    pub(super) fn is_ballooning(&mut self) -> Result<bool, Failure> {
        self.count_balloon()?;
        let fast = self.fast.as_ref().filter(|fast| fast.is_open());
        Ok(fast.is_some_and(|fast| fast.balloon.change() != Change::None))
    }

    /// Handles everything the destination has answered.
    fn hear_land(&mut self) -> Result<(), Failure> {
        let mut heard = false;
        while let Some(fast) = self.fast.as_mut() {
            let Some(answer) = fast.from.next()? else {
                break;
            };
            heard = true;
            match (answer, fast.stage) {
                (FromLand::Attached, Stage::Attaching) => {
                    fast.stage = Stage::Open;
                    // What comes now goes over a connection that has carried nothing.
                    self.peer.tell(self.now(), Event::PathChanged)?;
                    let dirty = self.count()?;
                    self.peer.tell(self.now(), Event::Counted { dirty })?;
                    self.tell_progress();
                }
                (FromLand::Applied, Stage::Open | Stage::Finishing) => {
                    match fast.asked.pop_front() {
                        Some(Asked::Slot(slot)) => self.sent(slot)?,
                        Some(Asked::Gone) => {}
                        None => return Err(out_of_turn()),
                    }
                }
                (FromLand::Landed, Stage::Finishing) if fast.asked.is_empty() => {
                    fast.stage = Stage::Landed;
                    break;
                }
                (FromLand::Failed(why), _) => return Err(Failure::Land(why)),
                _ => return Err(out_of_turn()),
            }
        }
        match heard {
            true => self.notify(),
            false => Ok(()),
        }
    }

    /// Before a batch is mapped: leaves out what has no page any more, or never
    /// had one of the guest's own. The destination is told so.
    pub(super) fn leave_out_gone(&mut self, slot: u8, pfns: &mut Vec<u64>) -> Result<(), Failure> {
        let Some(fast) = self.fast.as_mut().filter(|fast| fast.is_open()) else {
            return Ok(());
        };
        fast.types[..pfns.len()].copy_from_slice(pfns);
        let asked = self
            .xen
            .page_types(self.order.guest, &mut fast.types, pfns.len());
        asked.doing("the guest's frames cannot be listed")?;
        let mut types = fast.types.iter();
        let gone = &mut fast.gone[usize::from(slot)];
        gone.clear();
        pfns.retain(|pfn| {
            let populated = types.next().is_some_and(|kind| is_populated(*kind));
            if !populated {
                gone.push(*pfn);
            }
            populated
        });
        Ok(())
    }

    /// A batch is copied: it goes into the stream, or over the channel.
    pub(super) fn send_batch(&mut self, slot: u8, pfns: Vec<u64>) -> Result<(), Failure> {
        let place = usize::from(slot);
        let Some(fast) = self.fast.as_mut() else {
            return self.send_in_stream(place, &pfns);
        };
        if !fast.is_open() {
            fast.mark(&pfns, true);
            return self.send_in_stream(place, &pfns);
        }
        let gone = std::mem::take(&mut fast.gone[place]);
        if pfns.is_empty() && gone.is_empty() {
            return self.sent(place);
        }
        fast.mark(&pfns, true);
        fast.mark(&gone, false);
        let pages = pfns.len();
        self.queue.push(channel::pages_header(&Pages {
            purpose: Purpose::Write,
            present: pfns,
            gone,
        }));
        self.queue.push_payload(place, pages);
        fast.asked.push_back(Asked::Slot(place));
        Ok(())
    }

    /// Slots whose payload is in the pipe to its last byte: in the stream's
    /// case that is all that is heard of it.
    pub(super) fn written(&mut self, slots: Vec<usize>) -> Result<(), Failure> {
        let answered = self.fast.as_ref().is_some_and(Fast::is_open);
        if slots.is_empty() || answered {
            return Ok(());
        }
        for slot in slots {
            self.sent(slot)?;
        }
        self.notify()
    }

    /// A CLEAN, and what the dirty log does not show ([`balloon`](super::balloon)). A
    /// guest whose number of pages was seen to change is listed first, so that
    /// whatever is written to a listed frame afterwards is noted. Where it changed
    /// both ways all its pages are sent again.
    pub(super) fn take_bitmap(&mut self, clean: Clean) -> Result<Cleaned, Failure> {
        let prepared = self.prepared;
        let gained = self.look_at_the_balloon(clean)?;
        let cleaned = prepared
            .log_dirty
            .clean(self.stub, prepared.guest_pfns, clean)
            .map_err(|why| Failure::unread("the dirty bitmap cannot be read", why))?;
        let added = gained.map_or(0, |gained| self.stub.add_to_bitmap(&gained));
        Ok(Cleaned {
            dirty: cleaned.dirty + added,
            ..cleaned
        })
    }

    /// A page that a window shows stays the guest's, and counts, when the guest has
    /// given its frame back: clears those that nobody copies from. It is counted first,
    /// so that one which came in its place is seen.
    pub(super) fn clear_windows(&mut self) -> Result<(), Failure> {
        self.count_balloon()?;
        let (Some(_), Some(windows)) = (&self.fast, &mut self.windows) else {
            return Ok(());
        };
        for slot in (0..SLOTS).filter(|slot| self.slots.is_free(*slot)) {
            windows
                .clear(self.xen, self.stub, slot)
                .doing("the guest's frames cannot be unmapped")?;
        }
        Ok(())
    }

    /// How many pages the guest has.
    pub(super) fn count_balloon(&mut self) -> Result<(), Failure> {
        let Some(fast) = self.fast.as_mut() else {
            return Ok(());
        };
        let info = self.xen.domain_info(self.order.guest);
        if let Some(info) = info.doing("the guest's state cannot be read")? {
            fast.balloon.see(info.tot_pages);
        }
        Ok(())
    }

    /// The frames to be sent, if any may have come. The destination is told of
    /// those that have gone.
    fn look_at_the_balloon(&mut self, clean: Clean) -> Result<Option<Vec<u64>>, Failure> {
        self.count_balloon()?;
        let limit = self.limit_in_force();
        let Some(fast) = self.fast.as_mut().filter(|fast| fast.is_open()) else {
            return Ok(None);
        };
        let change = fast.balloon.change();
        if change == Change::None {
            return Ok(None);
        }
        // Listing a large guest takes seconds, of which no prediction knows.
        if clean == Clean::Final && limit.is_some() {
            return Err(Failure::Ballooning);
        }
        fast.balloon.list();
        let (now, _) = frames::populated(self.xen, self.order.guest, self.prepared.guest_pfns)
            .doing("the guest's frames cannot be listed")?;
        let gained = match change {
            Change::BothWays => now.clone(),
            _ => fast.going.gained(&now, &fast.there),
        };
        fast.going.list(&now, &fast.there);
        Ok(Some(gained))
    }

    /// All pages are in place: the state that replaces the provisional one. Says
    /// whether that is how this guest lands.
    pub(super) fn send_final_state(&mut self, state: &Saved) -> Result<bool, Failure> {
        let Some(fast) = self.fast.as_mut() else {
            return Ok(false);
        };
        let Some(provisional) = &fast.provisional else {
            return Err(out_of_turn());
        };
        let state = state.replacing(provisional)?;
        fast.stage = Stage::Finishing;
        self.queue.push(channel::state(&state));
        Ok(true)
    }

    /// For `--debug`: every page of the guest, and every frame without one,
    /// compared with the destination's while neither runs.
    pub(super) fn compare_all_pages(&mut self) -> Result<(), Failure> {
        if self.fast.is_none() {
            return Ok(());
        }
        // Listed anew: what was sent is what is to be judged.
        let (now, count) = frames::populated(self.xen, self.order.guest, self.prepared.guest_pfns)
            .doing("the guest's frames cannot be listed")?;
        let present = frames::listed(now.iter().copied());
        let mut absent = frames::listed(now.iter().map(|word| !word));
        absent.retain(|gfn| *gfn < self.prepared.guest_pfns);
        let with_pages = present.chunks(BATCH_PAGES).map(|pfns| (pfns, true));
        let without = absent.chunks(BATCH_PAGES).map(|pfns| (pfns, false));
        let mut wrong = (0_u64, 0);
        for (pfns, populated) in with_pages.chain(without) {
            let (present, gone) = match populated {
                true => (pfns.to_vec(), Vec::new()),
                false => (Vec::new(), pfns.to_vec()),
            };
            self.queue.push(channel::pages_header(&Pages {
                purpose: Purpose::Compare,
                present,
                gone,
            }));
            if populated {
                let pages = ForeignPages::map(self.xen, self.order.guest, pfns)
                    .doing("the guest's frames cannot be mapped")?;
                self.queue.push(pages.to_vec());
            }
            let (differing, first) = self.hear_comparison()?;
            if differing > 0 && wrong.0 == 0 {
                wrong.1 = first;
            }
            wrong.0 += u64::from(differing);
        }
        if wrong.0 > 0 {
            return Err(Failure::Differ {
                differing: wrong.0,
                first: wrong.1,
            });
        }
        self.say(
            "info",
            format!(
                "{count} pages compared with the destination's: all are equal, and no frame \
                 without a page has one there"
            ),
        );
        Ok(())
    }

    fn hear_comparison(&mut self) -> Result<(u32, u64), Failure> {
        loop {
            self.write()?;
            let Some(fast) = self.fast.as_mut() else {
                return Err(out_of_turn());
            };
            match fast.from.next()? {
                Some(FromLand::Compared { differing, first }) => return Ok((differing, first)),
                Some(FromLand::Applied) if fast.asked.front() == Some(&Asked::Gone) => {
                    fast.asked.pop_front();
                }
                Some(FromLand::Failed(why)) => return Err(Failure::Land(why)),
                Some(_) => return Err(out_of_turn()),
                None => self.wait(TICK).doing("waiting failed")?,
            }
            self.attend_while_comparing()?;
        }
    }
}

fn out_of_turn() -> Failure {
    Failure::Land("it spoke out of turn".into())
}
