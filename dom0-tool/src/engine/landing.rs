//! The engine's part of the fast landing: what is sent where, and when.
//!
//! Round 0 goes into the stream that libxl began, as usual. A state of the running guest
//! follows it, so the stream is complete. The destination builds the guest and its devices
//! from that stream and sends READY, which the transport holds back. From then on
//! everything goes over a second channel to `lull land` ([`land`](crate::land)). The
//! machine sees only that its first count is answered late.
//!
//! A batch counts as sent once the destination has put it into place. The learned rate is
//! therefore that of the whole path, and no page waits unseen in a pipe when the guest
//! stops.

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

/// The stages of a fast landing, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Round 0 is being written to the stream.
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
}

/// The message for which an answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The batch of this slot.
    Slot(usize),
    /// A list of frames that have gone.
    Gone,
}

/// The state of a fast landing under way.
pub(super) struct Fast {
    stage: Stage,
    /// The sending end of the channel. It is kept here until the stream is complete.
    to: Option<Sink>,
    from: Answers,
    attach: Attach,
    /// Messages that are sent and not answered, oldest first.
    asked: VecDeque<Asked>,
    /// Bitmap of the frames that have a page at the destination.
    there: Vec<u64>,
    /// For each slot, the frames of its batch that no longer have a page.
    gone: [Vec<u64>; SLOTS],
    /// Other frames that have gone, of which the destination is not told yet. A guest may
    /// give back all its memory at once, so they are sent a few at a time.
    going: Going,
    balloon: Balloon,
    /// The state from which the destination builds the guest.
    provisional: Option<Saved>,
    types: HypercallBuffer<u64>,
}

impl Fast {
    /// Prepares a fast landing and sends nothing yet.
    ///
    /// # Errors
    /// When the hypercall buffer cannot be allocated.
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

    /// Whether copying rests until the destination is ready.
    pub(super) fn is_building(&self) -> bool {
        matches!(
            self.stage,
            Stage::Ending | Stage::Building | Stage::Attaching
        )
    }

    /// Whether the destination can start the guest.
    pub(super) fn has_landed(&self) -> bool {
        self.stage == Stage::Landed
    }

    /// The descriptor on which answers arrive, while any is due.
    pub(super) fn wake_on(&self) -> Option<BorrowedFd<'_>> {
        let awaited = Stage::Building..Stage::Landed;
        awaited.contains(&self.stage).then(|| self.from.as_fd())
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
        }
    }
}

/// The most messages about gone frames that may be unanswered at a time. No more of them
/// wait in the queue.
const GOING_MAX: usize = 16;

impl Session<'_> {
    /// Ends the first pass in the stream with a state of the running guest, if this is a
    /// fast landing whose round 0 is in the stream. The count is then answered once the
    /// destination is ready. Returns whether it did so.
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

    /// Takes the next step of the landing if the event that it waits for has come.
    pub(super) fn advance_landing(&mut self) -> Result<(), Failure> {
        let Some(fast) = self.fast.as_mut() else {
            return Ok(());
        };
        match fast.stage {
            Stage::Ending if self.queue.is_empty() => {
                if let Some(to) = fast.to.take() {
                    // libxl writes the end of the stream itself.
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

    /// Tells the destination of some of the frames that have gone. Returns whether some are
    /// left.
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

    /// Tells the destination of all of them. The guest waits meanwhile, so a cancellation
    /// is still heard.
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

    /// Tells the stub if a limit is in force and memory was given to the guest, or taken
    /// from it, since the last bitmap. The guest must not be stopped then: listing the
    /// frames of a large guest takes seconds, which no prediction includes.
    pub(super) fn tell_if_unsettled(&mut self) -> Result<(), Failure> {
        if self.limit_in_force().is_some() && self.is_ballooning()? {
            self.peer.tell(self.now(), Event::Unsettled)?;
        }
        Ok(())
    }

    /// Whether memory was given to the guest, or taken from it, since its frames were
    /// listed, and the destination must be told.
    pub(super) fn is_ballooning(&mut self) -> Result<bool, Failure> {
        self.count_balloon()?;
        let fast = self.fast.as_ref().filter(|fast| fast.is_open());
        Ok(fast.is_some_and(|fast| fast.balloon.change() != Change::None))
    }

    /// Handles all answers of the destination that have arrived.
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
                    // From here on the data takes a connection that has carried none yet.
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

    /// Runs before a batch is mapped. Leaves out the frames that no longer have a page, or
    /// never had one of the guest's own. The destination is told of them.
    pub(super) fn drop_depopulated(
        &mut self,
        slot: u8,
        pfns: &mut Vec<u64>,
    ) -> Result<(), Failure> {
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

    /// Sends a batch that the stub has copied, into the stream or over the channel.
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

    /// These slots are written to the pipe to their last byte. In the stream that counts as
    /// sent; on the channel the destination's answer decides.
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

    /// Does a CLEAN, and adds what the dirty log does not show
    /// ([`balloon`](super::balloon)). If the guest's number of pages was seen to change,
    /// its frames are listed before the CLEAN, and Xen logs any later write to a listed
    /// frame. If pages both went and came, all pages are sent again.
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

    /// A page mapped in a window still belongs to the guest, and is counted, after the
    /// guest has given its frame back. This clears the windows from which nothing is being
    /// copied. It counts the pages first, so that a page which came in the place of another
    /// is noticed.
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

    /// Reads how many pages the guest has.
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

    /// The frames to send if new ones may have appeared. Those that have gone are noted for
    /// the destination.
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
        // Listing a large guest takes seconds, which no prediction includes.
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

    /// Runs once all pages are in place. In a fast landing it sends the state that replaces
    /// the provisional one; returns whether this is a fast landing.
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

    /// For `--debug`: compares every page of the guest, and every frame without one, with
    /// the destination's while neither copy runs.
    pub(super) fn compare_all_pages(&mut self) -> Result<(), Failure> {
        if self.fast.is_none() {
            return Ok(());
        }
        // The frames are listed again, because the comparison must judge what was sent.
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
