//! The hypervisor of the model.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lull_core::batch::BATCH_PAGES;
use lull_core::link::{Link, SLOTS};
use lull_wire::stream::records;
use lull_xen::device_model::MakeRun;
use lull_xen::domain::{DomainState, Outlived, Resumed};
use lull_xen::domctl::{Clean, TscInfo, dominf};
use lull_xen::version::KNOWN;
use lull_xen::{DomId, PAGE};
use rustix::event::{EventfdFlags, eventfd};

use super::stub::{FakeStub, Memory};
use super::world::{FRAMES, Guest, Stub, World, XENS, count};
use crate::domains::Domains;
use crate::log_dirty::{Cleaned, Unread};
use crate::saved::Saved;

/// The most batches that an attempt of the model may send.
const BATCHES_MAX: usize = 200;

/// A state of a header, a vCPU and an end entry, as `hvm_context` reads it.
pub const CONTEXT: [u8; 32] = [
    1, 0, 0, 0, 4, 0, 0, 0, 9, 9, 9, 9, // header
    2, 0, 0, 0, 4, 0, 0, 0, 7, 7, 7, 7, // vCPU
    0, 0, 0, 0, 0, 0, 0, 0,
];

pub struct Model<'l> {
    world: &'l World,
    link: &'l Link,
    stub: RefCell<FakeStub<'l>>,
    signal: OwnedFd,
    bitmap: RefCell<Vec<u64>>,
    windows: RefCell<[Vec<u64>; SLOTS]>,
    /// Every batch that was ever copied; for each slot, the number of its last.
    payloads: Vec<OnceLock<Vec<u8>>>,
    last: [Cell<usize>; SLOTS],
    copied: Cell<usize>,
}

impl<'l> Model<'l> {
    pub fn new(world: &'l World, link: &'l Link, populated: &[u64]) -> Self {
        let model = Self {
            world,
            link,
            stub: RefCell::new(FakeStub::boot(link, world)),
            signal: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap(),
            bitmap: RefCell::new(populated.to_vec()),
            windows: RefCell::default(),
            payloads: (0..BATCHES_MAX).map(|_| OnceLock::new()).collect(),
            last: Default::default(),
            copied: Cell::new(0),
        };
        model.signal_dom0();
        model
    }

    fn signal_dom0(&self) {
        rustix::io::write(&self.signal, &1_u64.to_ne_bytes()).unwrap();
    }

    fn exists(&self) -> io::Result<()> {
        match self.world.guest.get() {
            Guest::Gone => Err(rustix::io::Errno::SRCH.into()),
            _ => Ok(()),
        }
    }
}

/// Dropping the domains switches the log off and destroys the stub.
impl Drop for Model<'_> {
    fn drop(&mut self) {
        self.world.prepared.set(false);
    }
}

impl Memory for Model<'_> {
    fn bitmap(&self) -> Vec<u64> {
        self.bitmap.borrow().clone()
    }

    fn copy(&self, slot: u8, marks_zeros: bool) {
        let slot = usize::from(slot);
        let pfns = &self.windows.borrow()[slot];
        let mut pages = self.world.contents(pfns);
        if marks_zeros {
            let mut marks = [0; BATCH_PAGES / 64];
            let mut kept = Vec::new();
            for (at, page) in pages.chunks(PAGE).enumerate() {
                match page.iter().all(|byte| *byte == 0) {
                    true => marks[at / 64] |= 1 << (at % 64),
                    false => kept.extend(page),
                }
            }
            for (word, marks) in self.link.zeros[slot].words.iter().zip(marks) {
                word.store(marks, Ordering::Relaxed);
            }
            pages = kept;
        }
        let copied = self.copied.get();
        self.payloads[copied].set(pages).unwrap();
        self.last[slot].set(copied);
        self.copied.set(copied + 1);
    }
}

const fn state(shutdown: Option<u8>) -> DomainState {
    DomainState {
        shutdown,
        ..DomainState::IDLE
    }
}

impl Domains for Model<'_> {
    fn guest(&self) -> io::Result<Option<DomainState>> {
        Ok(match self.world.look() {
            Guest::Running | Guest::Stopping => Some(state(None)),
            Guest::Suspended => Some(state(Some(dominf::REASON_SUSPEND))),
            Guest::Gone => None,
        })
    }

    fn guest_pages(&self) -> io::Result<Option<u64>> {
        Ok(self.exists().ok().map(|()| self.world.pages()))
    }

    fn highest_frame(&self) -> io::Result<u64> {
        self.exists()?;
        Ok(FRAMES - 1 + u64::from(self.world.grown.get()))
    }

    fn populated(&self, pfns: &[u64]) -> io::Result<Vec<bool>> {
        self.exists()?;
        Ok(pfns.iter().map(|pfn| self.world.has_page(*pfn)).collect())
    }

    fn count(&self) -> Result<u64, Unread> {
        self.exists()?;
        Ok(self.world.dirty_count())
    }

    fn clean(&self, _: Clean) -> Result<Cleaned, Unread> {
        self.exists()?;
        let words = self.world.take_dirty();
        let dirty = count(&words);
        self.bitmap.replace(words);
        Ok(Cleaned {
            dirty,
            took: Duration::from_micros(50),
        })
    }

    fn headers(&self) -> io::Result<Vec<u8>> {
        Ok(records::headers(KNOWN[0]))
    }

    fn saved(&self) -> io::Result<Saved> {
        self.exists()?;
        let placed = self.world.placed.get();
        self.world.placed_when_saved.set(placed);
        Ok(Saved {
            tsc: TscInfo {
                mode: 0,
                khz: 1_000_000,
                elapsed_ns: 1,
                incarnation: 0,
            },
            context: CONTEXT.to_vec(),
            params: Vec::new(),
        })
    }

    fn read(&self, pfns: &[u64]) -> io::Result<Vec<u8>> {
        Ok(self.world.contents(pfns))
    }

    fn resume(&self, emulated: &mut dyn MakeRun) -> io::Result<Resumed> {
        if self.world.look() != Guest::Suspended {
            return Ok(Resumed::WasNotSuspended);
        }
        if let Some(left) = self.world.failing_resumes.get().checked_sub(1) {
            self.world.failing_resumes.set(left);
            return Err(io::Error::other("it cannot be resumed"));
        }
        let devices = emulated.make_run();
        assert!(self.world.qemu_runs.get(), "resumed without its devices");
        self.world.guest.set(Guest::Running);
        self.world.resumes.set(self.world.resumes.get() + 1);
        let at = Instant::now();
        let known = !self.world.forgotten.get();
        Ok(Resumed::Yes { at, devices, known })
    }

    fn outlive_request(&self, emulated: &mut dyn MakeRun) -> io::Result<Outlived> {
        if let Resumed::Yes { at, devices, known } = self.resume(emulated)? {
            return Ok(Outlived::Resumed { at, devices, known });
        }
        if self.world.guest.get() == Guest::Stopping {
            self.world.guest.set(Guest::Running);
        }
        Ok(Outlived::Over)
    }

    fn stub_domid(&self) -> DomId {
        9
    }

    fn stub_memory(&self) -> u64 {
        16 << 20
    }

    fn stub(&self) -> io::Result<Option<DomainState>> {
        Ok((self.world.stub.get() != Stub::Dead).then_some(state(None)))
    }

    fn stub_silence(&self) -> Duration {
        Duration::from_millis(800)
    }

    fn acknowledge_shutdown(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn link(&self) -> &Link {
        self.link
    }

    fn add_to_bitmap(&self, more: &[u64]) -> u64 {
        let mut bitmap = self.bitmap.borrow_mut();
        let before = count(&bitmap);
        for (word, more) in bitmap.iter_mut().zip(more) {
            *word |= more;
        }
        count(&bitmap) - before
    }

    fn map(&self, slot: usize, pfns: &mut Vec<u64>) -> io::Result<Vec<u64>> {
        self.exists()?;
        let unmappable = |pfn: &mut u64| !self.world.has_page(*pfn) && *pfn != XENS;
        let left_out = pfns.extract_if(.., unmappable);
        let left_out = left_out.collect();
        self.windows.borrow_mut()[slot].clone_from(pfns);
        Ok(left_out)
    }

    fn unmap(&self, slot: usize) -> io::Result<()> {
        self.windows.borrow_mut()[slot].clear();
        Ok(())
    }

    fn payload(&self, slot: usize, pages: usize) -> IoSlice<'_> {
        let copied = self.payloads[self.last[slot].get()].get().unwrap();
        IoSlice::new(&copied[..pages * PAGE])
    }

    fn notify(&self) -> io::Result<()> {
        if self.stub.borrow_mut().answer(self) {
            self.signal_dom0();
        }
        Ok(())
    }

    fn signal(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    fn take_signal(&self) -> io::Result<()> {
        let mut count = [0; 8];
        match rustix::io::read(&self.signal, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
