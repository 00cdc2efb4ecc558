//! The two domains of an attempt on a real hypervisor.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use lull_core::batch::BATCH_PAGES;
use lull_core::link::Link;
use lull_xen::buffer::HypercallBuffer;
use lull_xen::device_model::MakeRun;
use lull_xen::domain::{self, DomainState, Outlived, Resumed};
use lull_xen::domctl::{Clean, PAGE_TYPES_MAX, is_populated};
use lull_xen::foreign::ForeignPages;
use lull_xen::{DomId, Xen};

use super::clock::STUB_SILENCE;
use super::domains::Domains;
use super::log_dirty::{Cleaned, LogDirty, Unread};
use super::saved::{self, Saved};
use super::windows::Windows;
use crate::stub::Stub;

/// The guest, its dirty log and its stub. The fields are in the order in which they are
/// torn down.
pub struct OnXen<'x> {
    stub: Stub<'x>,
    /// The guest's dirty log, which is switched on.
    log: LogDirty<'x>,
    xen: &'x Xen,
    domid: DomId,
    guest_pfns: u64,
    windows: RefCell<Windows>,
    /// A list of frames, and Xen's answer about them.
    types: RefCell<HypercallBuffer<u64>>,
}

const _: () = assert!(BATCH_PAGES <= PAGE_TYPES_MAX);

impl<'x> OnXen<'x> {
    /// The domains of an attempt with guest `domid`, whose frames lie below `guest_pfns`.
    ///
    /// # Errors
    /// When the buffers for hypercalls cannot be allocated.
    pub fn new(
        xen: &'x Xen,
        domid: DomId,
        guest_pfns: u64,
        stub: Stub<'x>,
        log: LogDirty<'x>,
    ) -> io::Result<Self> {
        Ok(Self {
            stub,
            log,
            xen,
            domid,
            guest_pfns,
            windows: RefCell::new(Windows::new()?),
            types: RefCell::new(HypercallBuffer::new(PAGE_TYPES_MAX)?),
        })
    }

    /// Puts `words` into the stub's bitmap.
    pub fn write_bitmap(&self, words: &[u64]) {
        self.stub.write_bitmap(words);
    }

    /// The stub's share of a processor, for the log.
    pub fn stub_share(&self) -> String {
        self.stub.share()
    }
}

impl Domains for OnXen<'_> {
    fn guest(&self) -> io::Result<Option<DomainState>> {
        self.xen.domain_state(self.domid)
    }

    fn guest_pages(&self) -> io::Result<Option<u64>> {
        let info = self.xen.domain_info(self.domid)?;
        Ok(info.map(|info| info.tot_pages))
    }

    fn highest_frame(&self) -> io::Result<u64> {
        self.xen.maximum_gpfn(self.domid)
    }

    fn populated(&self, pfns: &[u64]) -> io::Result<Vec<bool>> {
        let mut types = self.types.borrow_mut();
        types[..pfns.len()].copy_from_slice(pfns);
        self.xen.page_types(self.domid, &mut types, pfns.len())?;
        let types = &types[..pfns.len()];
        Ok(types.iter().map(|kind| is_populated(*kind)).collect())
    }

    fn count(&self) -> Result<u64, Unread> {
        self.log.count()
    }

    fn clean(&self, clean: Clean) -> Result<Cleaned, Unread> {
        self.log.clean(&self.stub, self.guest_pfns, clean)
    }

    fn headers(&self) -> io::Result<Vec<u8>> {
        saved::headers(self.xen, self.domid)
    }

    fn saved(&self) -> io::Result<Saved> {
        Saved::read(self.xen, self.domid)
    }

    fn read(&self, pfns: &[u64]) -> io::Result<Vec<u8>> {
        Ok(ForeignPages::map(self.xen, self.domid, pfns)?.to_vec())
    }

    fn resume(&self, emulated: &mut dyn MakeRun) -> io::Result<Resumed> {
        self.xen.resume_suspended(self.domid, emulated)
    }

    fn outlive_request(&self, emulated: &mut dyn MakeRun) -> io::Result<Outlived> {
        domain::wait_out_suspend(self.xen, self.domid, emulated, domain::FIRST_STEPS)
    }

    fn stub_domid(&self) -> DomId {
        self.stub.domid()
    }

    fn stub_memory(&self) -> u64 {
        self.stub.memory_bytes()
    }

    fn stub(&self) -> io::Result<Option<DomainState>> {
        self.xen.domain_state(self.stub.domid())
    }

    fn stub_silence(&self) -> Duration {
        STUB_SILENCE
    }

    fn acknowledge_shutdown(&self) -> io::Result<bool> {
        domain::acknowledge_shutdown(self.stub.domid())
    }

    fn link(&self) -> &Link {
        self.stub.link()
    }

    fn add_to_bitmap(&self, words: &[u64]) -> u64 {
        self.stub.add_to_bitmap(words)
    }

    fn map(&self, slot: usize, pfns: &mut Vec<u64>) -> io::Result<Vec<u64>> {
        let mut windows = self.windows.borrow_mut();
        windows.map(self.xen, &self.stub, self.domid, slot, pfns)
    }

    fn unmap(&self, slot: usize) -> io::Result<()> {
        self.windows.borrow_mut().clear(self.xen, &self.stub, slot)
    }

    fn payload(&self, slot: usize, pages: usize) -> IoSlice<'_> {
        self.stub.payload(slot, pages)
    }

    fn notify(&self) -> io::Result<()> {
        self.stub.channel.notify()
    }

    fn signal(&self) -> BorrowedFd<'_> {
        self.stub.channel.as_fd()
    }

    fn take_signal(&self) -> io::Result<()> {
        self.stub.channel.take()
    }
}
