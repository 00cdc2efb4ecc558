//! What the guest has dirtied: Xen's log, and what the log does not show.

use lull_core::link::SLOTS;
use lull_core::machine::Event;
use lull_xen::domctl::Clean;

use super::failure::{Doing, Failure};
use super::frames;
use super::log_dirty::Cleaned;
use super::session::Session;

impl Session<'_> {
    /// How many pages are dirty now.
    pub(super) fn count(&self) -> Result<u64, Failure> {
        let counted = self.domains.count();
        counted.map_err(|why| Failure::unread("the dirty pages cannot be counted", why))
    }

    /// Answers the count that ends a round, once the destination knows all depopulated
    /// frames. No prediction includes the time for that, so the guest is not stopped before. Nor
    /// is another round sent: the rounds of an idle guest take next to no time, and would use
    /// up their number.
    pub(super) fn count_if_due(&mut self) -> Result<(), Failure> {
        if !self.count_due || self.landing.is_sending_depopulated() {
            return Ok(());
        }
        self.count_due = false;
        self.feed_if_unsettled()?;
        self.answer_count()?;
        self.notify()
    }

    /// Counts the dirty pages for the machine, which has asked for it.
    pub(super) fn answer_count(&mut self) -> Result<(), Failure> {
        let dirty = self.count()?;
        self.peer.feed(self.now(), Event::Counted { dirty })?;
        self.emit_progress();
        Ok(())
    }

    /// Does a CLEAN, and adds what the dirty log does not show: frames that were added to
    /// the guest. If the guest's number of pages was seen to change, its frames are listed
    /// before the CLEAN, and Xen logs any later write to a listed frame. If pages both went
    /// and came, all pages are sent again.
    pub(super) fn take_bitmap(&mut self, clean: Clean) -> Result<Cleaned, Failure> {
        let gained = self.list_if_ballooning(clean)?;
        let cleaned = self
            .domains
            .clean(clean)
            .map_err(|why| Failure::unread("the dirty bitmap cannot be read", why))?;
        let added = gained.map_or(0, |gained| self.domains.add_to_bitmap(&gained));
        Ok(Cleaned {
            dirty: cleaned.dirty + added,
            ..cleaned
        })
    }

    /// The frames to send if new ones may have appeared.
    fn list_if_ballooning(&mut self, clean: Clean) -> Result<Option<Vec<u64>>, Failure> {
        if !self.is_ballooning()? {
            return Ok(None);
        }
        // Listing a large guest takes seconds, which no prediction includes.
        if clean == Clean::Final && self.limit_in_force().is_some() {
            return Err(Failure::Ballooning);
        }
        let (now, _) = frames::populated(self.domains, self.listed.guest_pfns)
            .doing("the guest's frames cannot be listed")?;
        Ok(Some(self.landing.list(&now)))
    }

    /// Reports to the stub if a limit is in force and memory was given to the guest, or taken
    /// from it, since the last bitmap. The guest must not be stopped then: no prediction
    /// includes the seconds in which the frames of a large guest are listed.
    fn feed_if_unsettled(&mut self) -> Result<(), Failure> {
        if self.limit_in_force().is_none() {
            return Ok(());
        }
        if self.is_ballooning()? {
            self.peer.feed(self.now(), Event::Unsettled)?;
        }
        Ok(())
    }

    /// Whether memory was given to the guest, or taken from it, since its frames were
    /// listed, and the destination must be told.
    pub(super) fn is_ballooning(&mut self) -> Result<bool, Failure> {
        self.look_at_memory()?;
        Ok(self.landing.is_ballooning())
    }

    /// Reads how many pages the guest has, if the landing has to know.
    pub(super) fn look_at_memory(&mut self) -> Result<(), Failure> {
        if !self.landing.follows_memory() {
            return Ok(());
        }
        let pages = self.domains.guest_pages();
        if let Some(pages) = pages.doing("the guest's state cannot be read")? {
            self.landing.see_pages(pages);
        }
        Ok(())
    }

    /// A page mapped in a window still belongs to the guest, and is counted, after the
    /// guest has given its frame back. If that count matters, this clears the windows from
    /// which nothing is being copied. It counts the pages first, so that a page which came
    /// in the place of another is noticed.
    pub(super) fn clear_windows(&mut self) -> Result<(), Failure> {
        self.look_at_memory()?;
        if !self.landing.follows_memory() {
            return Ok(());
        }
        for slot in (0..SLOTS).filter(|slot| self.slots.is_free(*slot)) {
            let unmapped = self.domains.unmap(slot);
            unmapped.doing("the guest's frames cannot be unmapped")?;
        }
        Ok(())
    }
}
