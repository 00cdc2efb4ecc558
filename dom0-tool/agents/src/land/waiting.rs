//! The guest that waits at the destination. This module finds it, checks it and brings it
//! up to date.

use std::io;

use lull_base::bit_set::BitSet;
use lull_wire::channel::{Attach, PAGES_MAX, Pages, State};
use lull_xen::buffer::HypercallBuffer;
use lull_xen::domctl::{DomainInfo, is_populated};
use lull_xen::foreign::ForeignPages;
use lull_xen::maxmem::Maxmem;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, DomainState, PAGE, Xen};

/// Suffix that stock `xl migrate-receive` appends to a guest's name until it has permission
/// to start it (`tools/xl/xl_migrate.c`, 4.17 to 4.22).
pub const SUFFIX: &str = "--incoming";

/// HVM parameters that name a page shared with another party: the rings of xenstore, the
/// console, a device model and a monitoring domain (`HVM_PARAM_STORE_PFN`, `CONSOLE_PFN`,
/// `IOREQ_PFN`, `BUFIOREQ_PFN`, `PAGING_RING_PFN`, `MONITOR_RING_PFN`, `SHARING_RING_PFN`;
/// `xen/include/public/hvm/params.h`, 4.17).
const RINGS: [u32; 7] = [1, 17, 5, 6, 27, 28, 29];

/// HVM parameters that name the first of the pages that device models beside QEMU share with
/// Xen, and how many there are (`HVM_PARAM_IOREQ_SERVER_PFN`, `NR_IOREQ_SERVER_PAGES`).
const IOREQ_SERVER: [u32; 2] = [32, 33];

/// The most such pages; libxc makes eight (`xg_dom_x86.c`, 4.17).
const IOREQ_SERVER_PAGES_MAX: u64 = 64;

/// A page of zeros.
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Why the guest cannot be written to. The message is a sentence without a full stop.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// No guest of that name and UUID waits here.
    #[error("no guest {0} waits here")]
    None(String),
    /// Several guests of that name and UUID wait here.
    #[error("several guests {0} wait here")]
    Several(String),
    /// The guest is gone, runs, or its domid belongs to another guest now.
    #[error("the guest no longer waits here")]
    NoLongerWaits,
    /// The frame number is beyond the guest's frames.
    #[error("frame {0:#x} lies outside the guest")]
    Frame(u64),
    /// The frame still holds what Xen has handed out, perhaps another domain's data.
    #[error("frame {0:#x} of the guest was never written")]
    NeverWritten(u64),
    /// The guest would exceed the maxmem of its configuration here.
    #[error("the guest would be larger than its maxmem here, {0} MiB")]
    Larger(u64),
    /// Everything is in place, and Xen does not undo the copy's pauses.
    #[error(
        "domain {domain} at the destination, which is the guest's copy, is complete and could not \
         be started: {error}. It stays there, paused, and nothing destroys it. Make sure first \
         that the guest runs nowhere else. Then `xl unpause {domain}` at the destination starts \
         it{}; or `xl destroy {domain}` there, and `lull resume` at the source",
        times(*left)
    )]
    NotStarted {
        /// The copy's domain number.
        domain: DomId,
        /// The number of pauses that are left.
        left: u32,
        /// Xen's error.
        error: io::Error,
    },
    /// A hypercall or a xenstore read failed.
    #[error("{doing}: {error}")]
    Xen {
        /// The operation that failed, as a clause.
        doing: &'static str,
        /// The error that Xen or xenstore returned.
        error: io::Error,
    },
}

/// How often a pause has to be undone, if more than once.
fn times(pauses: u32) -> String {
    match pauses {
        0 | 1 => String::new(),
        pauses => format!(", if it is given {pauses} times"),
    }
}

/// The result of comparing two copies of some pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Number of pages that differ.
    pub differing: u32,
    /// Frame number of the first page that differs; 0 if none does.
    pub first: u64,
}

/// A guest that was built here and has never run. The toolstack's receiver keeps it paused
/// until it has permission to start it. The holder may write into the guest, and checks
/// before each step that it still waits.
pub struct Waiting {
    xen: Xen,
    copy: Identity,
    frames: u64,
    maxmem: Maxmem,
    /// Frames of the rings that the toolstack here has set up; they are not overwritten
    /// with the source's.
    rings: Vec<u64>,
    /// Frames that have a page here. Nothing but this process changes that while the copy
    /// waits.
    populated: BitSet,
    /// Frames that still hold what Xen has handed out, if the copy was built without
    /// contents.
    unwritten: BitSet,
    types: HypercallBuffer<u64>,
    /// Whether this process holds a pause of its own.
    held: bool,
    /// Whether the receiver's own pause is to be undone, too.
    unpause: bool,
}

/// The handles needed to write into a guest, opened before anything is read from the
/// source.
pub struct Tools {
    xen: Xen,
    store: Xenstore,
    types: HypercallBuffer<u64>,
}

impl Tools {
    /// Opens the hypervisor and xenstore, and allocates the buffer for page types.
    ///
    /// # Errors
    /// When the hypervisor or xenstore cannot be reached.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            xen: Xen::open_here()?,
            store: Xenstore::open()?,
            types: HypercallBuffer::new(PAGES_MAX)?,
        })
    }
}

impl Waiting {
    /// Finds the copy of the guest that `attach` names.
    ///
    /// # Errors
    /// When the copy is missing, cannot be told from another, or is too large.
    pub fn find(attach: &Attach, tools: Tools) -> Result<Self, Unfit> {
        let Tools {
            xen,
            mut store,
            types,
        } = tools;
        let name = format!("{}{SUFFIX}", attach.name);
        let found = find(&xen, &mut store, attach.uuid, &name)?;
        let domain = found.ok_or(Unfit::None(name))?;
        let maxmem = Maxmem::of(&mut store, domain);
        let maxmem = maxmem.during("the guest's maxmem is not known")?;
        if attach.frames > maxmem.frames() {
            return Err(Unfit::Larger(maxmem.mib()));
        }
        let mut rings = Vec::new();
        for index in RINGS {
            let gfn = xen.hvm_param(domain, index);
            match gfn.during("the guest's parameters cannot be read")? {
                0 => {}
                gfn => rings.push(gfn),
            }
        }
        let [first, count] = IOREQ_SERVER.map(|index| xen.hvm_param(domain, index));
        let first = first.during("the guest's parameters cannot be read")?;
        let count = count.during("the guest's parameters cannot be read")?;
        if first != 0 {
            let count = count.min(IOREQ_SERVER_PAGES_MAX);
            rings.extend(first..first.saturating_add(count));
        }
        let uuid = attach.uuid;
        let mut waiting = Self {
            xen,
            copy: Identity { domain, uuid },
            frames: attach.frames,
            maxmem,
            rings,
            populated: BitSet::below(0),
            unwritten: BitSet::below(0),
            types,
            held: false,
            unpause: false,
        };
        waiting.list()?;
        Ok(waiting)
    }

    /// Lists the frames that have a page. Xen is asked how many frames there are, because the
    /// source might name too few.
    fn list(&mut self) -> Result<(), Unfit> {
        let highest = self.xen.maximum_gpfn(self.copy.domain);
        let highest = highest.during("the guest's size cannot be read")?;
        let frames = highest.saturating_add(1).max(self.frames);
        if frames > self.maxmem.frames() {
            return Err(Unfit::Larger(self.maxmem.mib()));
        }
        self.populated = BitSet::below(frames);
        for first in (0..frames).step_by(PAGES_MAX) {
            let end = frames.min(first + PAGES_MAX as u64);
            let window: Vec<u64> = (first..end).collect();
            for gfn in self.those(&window, |populated| populated)? {
                self.populated.insert(gfn);
            }
        }
        Ok(())
    }

    /// From now on [`Complete::start`] undoes the pause of the copy's receiver, too, which
    /// was told to leave the copy paused.
    pub const fn unpause(&mut self) {
        self.unpause = true;
    }

    /// Checks that the guest still waits.
    ///
    /// # Errors
    /// When it does not wait, or its state cannot be read.
    pub fn check(&self) -> Result<(), Unfit> {
        self.copy.check(&self.xen)
    }

    /// Pauses the copy once more. Whatever its receiver does with its own pause, the copy
    /// runs only after [`Complete::start`] has undone this one.
    ///
    /// # Errors
    /// When the hypercall fails.
    pub fn hold(&mut self) -> Result<(), Unfit> {
        let paused = self.xen.pause_domain(self.copy.domain);
        paused.during("the guest cannot be held")?;
        self.held = true;
        Ok(())
    }

    /// The copy was built without contents: from now on each frame that has a page must be
    /// written before [`set_state`](Self::set_state).
    pub fn expect_all(&mut self) {
        self.unwritten = self.populated.clone();
        for gfn in &self.rings {
            self.unwritten.remove(*gfn);
        }
    }

    /// The domid and UUID of the copy.
    pub const fn copy(&self) -> Identity {
        self.copy
    }

    /// Maps the frames of a batch whose pages are about to arrive, in their order. Zeros are
    /// written to those that are all zero. `None` if pages of the batch are to be left out, or
    /// if the receiver could start the copy meanwhile: use [`write`](Self::write) then.
    ///
    /// # Errors
    /// As there.
    pub fn place(&mut self, pages: &Pages) -> Result<Option<ForeignPages>, Unfit> {
        self.check_frames(pages)?;
        let has_rings = pages.present.iter().any(|gfn| self.rings.contains(gfn));
        if has_rings || !self.held {
            return Ok(None);
        }
        self.check()?;
        let mut frames = pages.present.clone();
        frames.extend(self.not_rings(&pages.zero));
        let mut mapped = self.map_populated(&frames)?;
        for page in pages.present.len()..frames.len() {
            mapped.write(page * PAGE, &ZEROS);
        }
        Ok(Some(mapped))
    }

    /// The pages of a batch are in their [`place`](Self::place), and nothing of them is mapped
    /// any more.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn placed(&mut self, pages: &Pages) -> Result<(), Unfit> {
        self.check()?;
        self.note_written(pages)
    }

    /// Writes the pages of a batch, and zeros to the frames that are all zero. Frames without
    /// a page are populated first, and frames that the source no longer has are depopulated.
    ///
    /// # Errors
    /// When a frame is not the guest's, or a hypercall fails.
    pub fn write(&mut self, pages: &Pages, bytes: &[u8]) -> Result<(), Unfit> {
        self.check()?;
        self.check_frames(pages)?;
        let (mut frames, bytes) = self.own(pages, bytes);
        frames.extend(self.not_rings(&pages.zero));
        if !frames.is_empty() {
            let mut mapped = self.map_populated(&frames)?;
            // A page that Xen has just handed out is not zero by itself.
            let zeros = std::iter::repeat(&ZEROS[..]);
            let contents = bytes.into_iter().chain(zeros);
            for (page, content) in contents.take(frames.len()).enumerate() {
                mapped.write(page * PAGE, content);
            }
        }
        self.note_written(pages)
    }

    /// Maps the frames. Those without a page get one first.
    fn map_populated(&mut self, frames: &[u64]) -> Result<ForeignPages, Unfit> {
        let missing = frames.iter().filter(|gfn| !self.populated.contains(**gfn));
        let missing: Vec<u64> = missing.copied().collect();
        if !missing.is_empty() {
            self.make_room(missing.len() as u64)?;
            let populated = self.xen.populate_frames(self.copy.domain, &missing);
            populated.during("the guest gets no page for a frame that is new")?;
            for gfn in missing {
                self.populated.insert(gfn);
                self.unwritten.insert(gfn);
            }
        }
        self.map(frames)
    }

    /// Notes that the frames of a batch are written, and depopulates those that the source no
    /// longer has.
    fn note_written(&mut self, pages: &Pages) -> Result<(), Unfit> {
        let mut depopulated = self.not_rings(&pages.depopulated);
        depopulated.retain(|gfn| self.populated.contains(*gfn));
        if !depopulated.is_empty() {
            let taken = self.xen.take_frames(self.copy.domain, &depopulated);
            taken.during("a page cannot be taken back")?;
            for gfn in depopulated {
                self.populated.remove(gfn);
            }
        }
        for gfn in [&pages.present, &pages.zero, &pages.depopulated]
            .into_iter()
            .flatten()
        {
            self.unwritten.remove(*gfn);
        }
        Ok(())
    }

    /// Compares the pages of a batch with what is there.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn compare(&mut self, pages: &Pages, bytes: &[u8]) -> Result<Compared, Unfit> {
        self.check()?;
        self.check_frames(pages)?;
        let (frames, bytes) = self.own(pages, bytes);
        let depopulated = self.not_rings(&pages.depopulated);
        let mut wrong = self.those(&frames, |populated| !populated)?;
        wrong.extend(self.those(&depopulated, |populated| populated)?);
        if wrong.is_empty() && !frames.is_empty() {
            let there = self.map(&frames)?.to_vec();
            let pairs = frames.iter().zip(there.chunks(PAGE).zip(bytes));
            wrong.extend(
                pairs
                    .filter(|(_, (there, here))| there != here)
                    .map(|(gfn, _)| *gfn),
            );
        }
        Ok(Compared {
            differing: wrong.len() as u32,
            first: wrong.first().copied().unwrap_or(0),
        })
    }

    /// Sets the guest's clock and CPU state. This is the last change made to the guest.
    ///
    /// # Errors
    /// When a frame was never written, or a hypercall fails; the guest must not be started
    /// then.
    pub fn set_state(self, state: &State) -> Result<Complete, Unfit> {
        self.check()?;
        if let Some(gfn) = self.unwritten.first() {
            return Err(Unfit::NeverWritten(gfn));
        }
        let set = self.xen.set_tsc_info(self.copy.domain, &state.tsc);
        set.during("the guest's clock cannot be set")?;
        let set = self.xen.set_hvm_context(self.copy.domain, &state.context);
        set.during("the guest's CPU state cannot be set")?;
        Ok(Complete {
            xen: self.xen,
            copy: self.copy,
            unpause: self.unpause,
        })
    }

    /// Raises the guest's memory limit if it needs more pages here than when the migration
    /// started: the limit at the source allowed them, and the toolstack here knows only the
    /// older limit.
    fn make_room(&self, pages: u64) -> Result<(), Unfit> {
        let info = self.xen.domain_info(self.copy.domain);
        let info = info.during("the guest's state cannot be read")?;
        let info = info.ok_or(Unfit::NoLongerWaits)?;
        let needed = info.tot_pages.saturating_add(pages);
        if needed <= info.max_pages {
            return Ok(());
        }
        if needed > self.maxmem.pages() {
            return Err(Unfit::Larger(self.maxmem.mib()));
        }
        let kib = needed.saturating_mul(PAGE as u64 / 1024);
        let raised = self.xen.set_max_memory(self.copy.domain, kib);
        raised.during("the guest's memory limit cannot be raised")
    }

    /// Checks that all frames of a batch are the guest's.
    fn check_frames(&self, pages: &Pages) -> Result<(), Unfit> {
        let lists = [&pages.present, &pages.zero, &pages.depopulated];
        match lists.into_iter().flatten().find(|gfn| **gfn >= self.frames) {
            Some(gfn) => Err(Unfit::Frame(*gfn)),
            None => Ok(()),
        }
    }

    /// The present frames that are not rings, with their bytes.
    fn own<'b>(&self, pages: &Pages, bytes: &'b [u8]) -> (Vec<u64>, Vec<&'b [u8]>) {
        let present = pages.present.iter().copied().zip(bytes.chunks(PAGE));
        present.filter(|(gfn, _)| !self.rings.contains(gfn)).unzip()
    }

    fn not_rings(&self, frames: &[u64]) -> Vec<u64> {
        let frames = frames.iter().copied();
        frames.filter(|gfn| !self.rings.contains(gfn)).collect()
    }

    /// The frames that are populated, or that are not, as `wanted` selects.
    fn those(&mut self, frames: &[u64], wanted: fn(bool) -> bool) -> Result<Vec<u64>, Unfit> {
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        self.types[..frames.len()].copy_from_slice(frames);
        let asked = self
            .xen
            .page_types(self.copy.domain, &mut self.types, frames.len());
        asked.during("the guest's frames cannot be listed")?;
        let types = frames.iter().zip(self.types.iter());
        Ok(types
            .filter(|(_, page_type)| wanted(is_populated(**page_type)))
            .map(|(gfn, _)| *gfn)
            .collect())
    }

    fn map(&self, frames: &[u64]) -> Result<ForeignPages, Unfit> {
        let mapped = ForeignPages::map(&self.xen, self.copy.domain, frames);
        mapped.during("the guest's frames cannot be mapped")
    }
}

/// The one guest with that UUID and name that waits, or is being built; `None` if there is
/// none yet.
fn find(
    xen: &Xen,
    store: &mut Xenstore,
    uuid: [u8; 16],
    name: &str,
) -> Result<Option<DomId>, Unfit> {
    let mut found = None;
    for info in xen.domains().during("the guests cannot be listed")? {
        if waits(&info, uuid) {
            let called = store
                .read(&name_of(info.domain))
                .during("xenstore does not answer")?;
            if called.as_deref() == Some(name) && found.replace(info.domain).is_some() {
                return Err(Unfit::Several(name.to_owned()));
            }
        }
    }
    Ok(found)
}

/// Looks for a copy before it is built completely.
pub struct Finder {
    xen: Xen,
    store: Xenstore,
}

impl Finder {
    /// Opens the hypervisor and xenstore.
    ///
    /// # Errors
    /// When they cannot be reached.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            xen: Xen::open_here()?,
            store: Xenstore::open()?,
        })
    }

    /// The copy of the guest with that UUID and name; `None` if it does not exist yet.
    ///
    /// # Errors
    /// When it cannot be told from another, or Xen or xenstore does not answer.
    pub fn find(&mut self, uuid: [u8; 16], name: &str) -> Result<Option<Identity>, Unfit> {
        let name = format!("{name}{SUFFIX}");
        let domain = find(&self.xen, &mut self.store, uuid, &name)?;
        Ok(domain.map(|domain| Identity { domain, uuid }))
    }
}

/// A copy in which everything is in place. Nothing of it is mapped any more.
pub struct Complete {
    xen: Xen,
    copy: Identity,
    unpause: bool,
}

impl Complete {
    /// Checks that the guest still waits.
    ///
    /// # Errors
    /// When it does not wait, or its state cannot be read.
    pub fn check(&self) -> Result<(), Unfit> {
        self.copy.check(&self.xen)
    }

    /// Undoes [`Waiting::hold`]: one hypercall, and the guest runs. It stays paused if its
    /// receiver was told to leave it so, unless [`Waiting::unpause`] says otherwise.
    ///
    /// # Errors
    /// When a hypercall fails.
    pub fn start(self) -> Result<(), Unfit> {
        let pauses: u32 = if self.unpause { 2 } else { 1 };
        let domain = self.copy.domain;
        for undone in 0..pauses {
            let started = self.xen.unpause_domain(domain);
            started.map_err(|error| Unfit::NotStarted {
                domain,
                left: pauses - undone,
                error,
            })?;
        }
        Ok(())
    }
}

/// The domid and UUID of a copy, for the guard, which destroys a copy that must not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The domid of the copy here.
    pub domain: DomId,
    uuid: [u8; 16],
}

impl Identity {
    /// Length of a serialised identity, in bytes.
    pub const BYTES: usize = 18;

    /// Serialises the domid, little-endian, followed by the UUID.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (domain, uuid) = bytes.split_at_mut(2);
        domain.copy_from_slice(&self.domain.to_le_bytes());
        uuid.copy_from_slice(&self.uuid);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let (domain, uuid) = bytes.split_first_chunk()?;
        Some(Self {
            domain: DomId::from_le_bytes(*domain),
            uuid: uuid.try_into().ok()?,
        })
    }

    /// Whether the copy has the guest's own name: its receiver has had permission, and has
    /// reported and gone, or is about to.
    ///
    /// # Errors
    /// When xenstore does not answer.
    pub fn is_renamed(self) -> io::Result<bool> {
        let name = Xenstore::open()?.read(&name_of(self.domain))?;
        Ok(name.is_some_and(|name| !name.ends_with(SUFFIX)))
    }

    fn check(self, xen: &Xen) -> Result<(), Unfit> {
        match self.waits(xen) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Unfit::NoLongerWaits),
            Err(error) => Err(error).during("the guest's state cannot be read"),
        }
    }

    /// Whether the copy exists and still has not run.
    ///
    /// # Errors
    /// When the hypercall fails.
    pub fn waits(self, xen: &Xen) -> io::Result<bool> {
        let info = xen.domain_info(self.domain)?;
        Ok(info.is_some_and(|info| waits(&info, self.uuid)))
    }

    /// Whether the copy has been started.
    ///
    /// # Errors
    /// When the hypercall fails.
    pub fn runs(self, xen: &Xen) -> io::Result<bool> {
        let info = xen.domain_info(self.domain)?;
        Ok(info.is_some_and(|info| runs(&info, self.uuid)))
    }
}

fn name_of(domain: DomId) -> String {
    format!("/local/domain/{domain}/name")
}

/// Whether this is the guest with that UUID, paused, and has never run. It may still be under
/// construction.
fn waits(info: &DomainInfo, uuid: [u8; 16]) -> bool {
    let state = DomainState::from(*info);
    let fresh = state.cpu_time_ns == 0 && state.shutdown.is_none() && !state.dying;
    info.handle == uuid && state.hvm && state.paused && fresh
}

/// Whether this is the guest with that UUID, and runs.
fn runs(info: &DomainInfo, uuid: [u8; 16]) -> bool {
    let state = DomainState::from(*info);
    let stopped = state.paused || state.shutdown.is_some() || state.dying;
    info.handle == uuid && state.hvm && !stopped
}

/// Adds the operation that failed to an error from Xen.
trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, Unfit>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, doing: &'static str) -> Result<T, Unfit> {
        self.map_err(|error| Unfit::Xen { doing, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_xen::domctl::dominf;

    const UUID: [u8; 16] = [7; 16];

    fn info(flags: u32, cpu_time: u64) -> DomainInfo {
        DomainInfo {
            domain: 3,
            flags,
            tot_pages: 1,
            max_pages: 1,
            shared_info_frame: 1,
            cpu_time,
            max_vcpu_id: 0,
            handle: UUID,
        }
    }

    #[test]
    fn a_guest_that_is_paused_dying_or_another_does_not_run() {
        assert!(runs(&info(dominf::HVM_GUEST, 0), UUID));
        assert!(runs(&info(dominf::HVM_GUEST, 1), UUID));
        assert!(!runs(&info(dominf::HVM_GUEST, 1), [8; 16]));
        for flag in [dominf::PAUSED, dominf::DYING, dominf::SHUTDOWN] {
            assert!(!runs(&info(dominf::HVM_GUEST | flag, 1), UUID));
        }
    }

    /// The guest stands still at both ends, and an operator has to decide.
    #[test]
    fn a_copy_that_is_not_started_is_named_with_what_to_do() {
        for (left, often) in [(1, false), (2, true)] {
            let error = io::Error::from_raw_os_error(22);
            let said = Unfit::NotStarted {
                domain: 12,
                left,
                error,
            };
            let said = said.to_string();
            for words in [
                "domain 12",
                "Invalid argument",
                "paused",
                "runs nowhere else",
                "`xl unpause 12`",
                "`lull resume`",
            ] {
                assert!(said.contains(words), "{words}: {said}");
            }
            assert_eq!(said.contains("2 times"), often, "{said}");
        }
    }

    #[test]
    fn only_a_guest_that_has_never_run_and_is_paused_waits() {
        let paused = dominf::HVM_GUEST | dominf::PAUSED;
        assert!(waits(&info(paused, 0), UUID));
        assert!(!waits(&info(paused, 0), [8; 16]));
        assert!(!waits(&info(paused, 1), UUID));
        assert!(!waits(&info(dominf::HVM_GUEST, 0), UUID));
        assert!(!waits(&info(paused | dominf::DYING, 0), UUID));
        assert!(!waits(&info(paused | dominf::SHUTDOWN, 0), UUID));
        assert!(!waits(&info(dominf::PAUSED, 0), UUID));
    }
}
