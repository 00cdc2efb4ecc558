//! For `xl migrate --debug`: compares all of the guest's memory with the destination's.

use lull_core::batch::BATCH_PAGES;
use lull_wire::events::Refused;

use super::clock::TICK;
use super::failure::{Doing, Failure};
use super::session::Session;

impl Session<'_> {
    /// Sends what is to be compared, while the guest is stopped. dom0 reads the pages
    /// itself: the comparison must not rest on the stub.
    pub(super) fn verify_all_pages(&mut self) -> Result<(), Failure> {
        let first_pass = self.listed.populated_frames();
        let (landing, mut means) = self.landing();
        let frames = landing.begin_verify(&mut means, first_pass)?;
        let present = frames.present.chunks(BATCH_PAGES).map(|pfns| (pfns, true));
        let absent = frames.absent.chunks(BATCH_PAGES).map(|pfns| (pfns, false));
        for (pfns, populated) in present.chain(absent) {
            let pages = match populated {
                true => Some(self.read_pages(pfns)?),
                false => None,
            };
            self.landing.verify(&mut self.queue, pfns, pages);
            loop {
                self.write()?;
                self.recv_landing()?;
                self.attend_while_comparing()?;
                if self.queue.is_empty() && self.landing.is_answered() {
                    break;
                }
                self.wait(TICK).doing("waiting failed")?;
            }
        }
        if let Some(text) = self.landing.verified()? {
            self.log("info", text);
        }
        Ok(())
    }

    fn read_pages(&self, pfns: &[u64]) -> Result<Vec<u8>, Failure> {
        let pages = self.domains.read(pfns);
        pages.doing("the guest's frames cannot be mapped")
    }

    /// Handles cancellation and the operator's requests while all memory is compared, which
    /// takes long.
    pub(super) fn attend_while_comparing(&mut self) -> Result<(), Failure> {
        self.recv_news()?;
        if self.news.cancelled {
            return Err(Failure::HungUp(Refused::Cancelled));
        }
        self.apply_requests()
    }
}
