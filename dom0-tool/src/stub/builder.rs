//! Builds the stub domain, and takes it away again.
//!
//! No toolstack is involved: the domain is in no list but Xen's, has no
//! device, no console and no xenstore connection, and is there in a few
//! milliseconds. Its UUID starts with [`MARK`] and names the guest and the
//! process it belongs to, so that one left behind is recognised.

use std::io::{self, IoSlice};
use std::process;

use lull_base::processes;
use lull_core::link::{
    BITMAP_VA, LINK_PAGES, Link, PAYLOAD_VA, SLOT_BYTES, SLOTS, STACK_END_VA, Startup, WINDOW_VA,
};
use lull_core::machine::Config;
use lull_xen::buffer::HypercallBuffer;
use lull_xen::domctl::{dominf, vcpu_context};
use lull_xen::evtchn::EventChannel;
use lull_xen::foreign::ForeignPages;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, PAGE, Xen};

use super::address_space::AddressSpace;
use super::image::{Image, ImageError};

/// First bytes of every stub's UUID.
const MARK: &[u8; 8] = b"lullstub";

/// `FLAT_KERNEL_CS` and `FLAT_KERNEL_SS`
/// (`xen/include/public/arch-x86/xen-x86_64.h`, 4.17).
const FLAT_KERNEL_CS: u64 = 0xe033;
const FLAT_KERNEL_SS: u64 = 0xe02b;

/// Interrupts enabled, as a PV kernel must run.
const RFLAGS_IF: u64 = 1 << 9;

/// Why there is no stub.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// See [`ImageError`].
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Xen or the kernel said no.
    #[error("the stub domain could not be {step}: {source}")]
    Xen {
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Turns an error of a step into [`StubError`].
trait During<T> {
    fn during(self, step: &'static str) -> Result<T, StubError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, step: &'static str) -> Result<T, StubError> {
        self.map_err(|source| StubError::Xen { step, source })
    }
}

/// A stub domain, destroyed when dropped.
pub struct Stub<'x> {
    xen: &'x Xen,
    domid: DomId,
    /// The event channel to it.
    pub channel: EventChannel,
    shared: ForeignPages,
    bitmap_pages: usize,
    /// Machine addresses of the window's page-table entries.
    entries: Vec<u64>,
    memory_bytes: u64,
}

/// A domain that is destroyed unless the build is completed.
struct Unfinished<'x> {
    xen: &'x Xen,
    domid: DomId,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        destroy(self.xen, self.domid);
    }
}

/// Takes a stub away. Nothing is left to do when that fails: the next attempt
/// finds it among the [`orphans`].
fn destroy(xen: &Xen, domid: DomId) {
    let _ = xen.destroy_domain(domid);
    let _ = Xenstore::open().and_then(|mut store| store.remove(&format!("/local/domain/{domid}")));
}

/// Memory that a stub for a guest of `guest_pfns` frames takes.
///
/// # Errors
/// When its image is not usable.
pub fn memory_bytes(guest_pfns: u64) -> Result<u64, ImageError> {
    let space = AddressSpace::new(&Image::embedded()?, guest_pfns);
    // One page more: Xen's own.
    Ok((space.pages() as u64 + 1) * PAGE as u64)
}

impl<'x> Stub<'x> {
    /// Builds a stub for `guest`, with a bitmap of `guest_pfns` bits, and
    /// starts it.
    ///
    /// # Errors
    /// What failed; nothing is left behind then.
    pub fn build(
        xen: &'x Xen,
        guest: DomId,
        guest_pfns: u64,
        config: Config,
    ) -> Result<Self, StubError> {
        let image = Image::embedded()?;
        let space = AddressSpace::new(&image, guest_pfns);

        let domid = xen.create_pv_domain(handle(guest)).during("created")?;
        let unfinished = Unfinished { xen, domid };
        // One page more than it has: the limit also counts Xen's own.
        let kib = (space.pages() as u64 + 1) * PAGE as u64 / 1024;
        xen.set_max_vcpus(domid, 1).during("given a vCPU")?;
        xen.set_max_memory(domid, kib).during("given memory")?;
        let mfns = xen.populate(domid, space.pages()).during("given memory")?;
        let info = xen.domain_info(domid).during("looked at")?;
        let shared_info = info.ok_or(io::ErrorKind::NotFound.into()).during("found")?;
        let shared_info = shared_info.shared_info_frame;

        fill(xen, domid, &image, &space, &mfns, shared_info).during("filled")?;
        let port = xen.alloc_unbound_port(domid).during("linked")?;
        let frames = &mfns[space.shared_pfns()];
        let mut shared = ForeignPages::map(xen, domid, frames).during("mapped")?;
        // The payload needs no zeroes: nobody reads what was not written.
        let zeroed = LINK_PAGES as usize + space.bitmap_pages;
        shared.write(0, &vec![0; zeroed * PAGE]);
        let link: &Link = shared.shared();
        link.settings.write(&Startup {
            port,
            guest_pfns,
            config,
        });
        let channel = EventChannel::bind(domid, port).during("linked")?;

        let context = boot_context(&image, mfns[space.root_pfn()]).during("prepared")?;
        xen.set_vcpu_context(domid, 0, &context)
            .during("prepared")?;
        name(domid, guest);
        xen.unpause_domain(domid).during("started")?;

        std::mem::forget(unfinished);
        let window = (0..SLOTS as u64 * SLOT_BYTES).step_by(PAGE);
        Ok(Self {
            xen,
            domid,
            channel,
            shared,
            bitmap_pages: space.bitmap_pages,
            entries: window
                .map(|offset| space.entry_address(WINDOW_VA + offset, &mfns))
                .collect(),
            memory_bytes: space.pages() as u64 * PAGE as u64,
        })
    }

    /// Its domain number.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// Memory it has, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The control pages.
    pub fn link(&self) -> &Link {
        self.shared.shared()
    }

    /// Puts `words` into the bitmap.
    pub fn write_bitmap(&self, words: &[u64]) {
        assert!(
            words.len() * 8 <= self.bitmap_pages * PAGE,
            "bitmap too long"
        );
        self.shared.store(LINK_PAGES as usize * PAGE, words);
    }

    /// Sets the bits of `words` in the bitmap too; how many were not set.
    ///
    /// A lying stub may change them meanwhile: then its round does not add up.
    pub fn add_to_bitmap(&self, words: &[u64]) -> u64 {
        let start = LINK_PAGES as usize * PAGE;
        let added = words.iter().enumerate().filter(|(_, word)| **word != 0);
        added
            .map(|(n, word)| u64::from(self.shared.set_bits(start + n * 8, *word)))
            .sum()
    }

    /// The first `pages` pages of a slot's payload, for the kernel to write.
    ///
    /// If a lying stub changes them meanwhile, that is what the stream gets,
    /// and it is its own guest's memory.
    pub fn payload(&self, slot: usize, pages: usize) -> IoSlice<'_> {
        assert!(slot < SLOTS && (pages * PAGE) as u64 <= SLOT_BYTES);
        let start = (LINK_PAGES as usize + self.bitmap_pages) * PAGE;
        let offset = start + slot * SLOT_BYTES as usize;
        self.shared.io_slice(offset, pages * PAGE)
    }

    /// Machine address of the page-table entry behind a window's page.
    pub fn window_entry(&self, slot: usize, page: usize) -> u64 {
        self.entries[slot * (SLOT_BYTES as usize / PAGE) + page]
    }
}

impl Drop for Stub<'_> {
    fn drop(&mut self) {
        destroy(self.xen, self.domid);
    }
}

/// Puts image, zeroed stack and page tables into the domain, and unmaps them:
/// Xen takes no page as a table while it is mapped writable.
fn fill(
    xen: &Xen,
    domid: DomId,
    image: &Image,
    space: &AddressSpace,
    mfns: &[u64],
    shared_info: u64,
) -> io::Result<()> {
    const _: () = assert!(STACK_END_VA < BITMAP_VA && BITMAP_VA < PAYLOAD_VA);
    let mut private = ForeignPages::map(xen, domid, &mfns[..space.shared_pfn])?;
    private.write(0, &vec![0; space.shared_pfn * PAGE]);
    for segment in &image.segments {
        let offset = space.pfn_at(segment.pages.start) * PAGE;
        private.write(offset, segment.bytes);
    }
    drop(private);

    let mut tables = ForeignPages::map(xen, domid, &mfns[space.table_pfns()])?;
    let contents = space.table_contents(mfns, shared_info);
    let bytes: Vec<u8> = contents
        .iter()
        .flatten()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    tables.write(0, &bytes);
    drop(tables);

    // A new vCPU must start with event upcalls masked; the stub never unmasks
    // them. `evtchn_upcall_mask` is byte 1 of `vcpu_info`.
    let mut info = ForeignPages::map(xen, domid, &[shared_info])?;
    info.write(0, &[0; PAGE]);
    info.write(1, &[1]);
    Ok(())
}

/// The registers the stub starts with.
fn boot_context(image: &Image, root_mfn: u64) -> io::Result<HypercallBuffer<u8>> {
    let mut context = HypercallBuffer::new(vcpu_context::BYTES)?;
    for (place, value) in [
        (vcpu_context::FLAGS, vcpu_context::KERNEL_ONLINE),
        (vcpu_context::RIP, image.entry),
        (vcpu_context::CS, FLAT_KERNEL_CS),
        (vcpu_context::RFLAGS, RFLAGS_IF),
        (vcpu_context::RSP, STACK_END_VA),
        (vcpu_context::SS, FLAT_KERNEL_SS),
        (vcpu_context::KERNEL_SS, FLAT_KERNEL_SS),
        (vcpu_context::KERNEL_SP, STACK_END_VA),
        (vcpu_context::CR3, root_mfn * PAGE as u64),
    ] {
        context[place..][..8].copy_from_slice(&value.to_le_bytes());
    }
    Ok(context)
}

/// A UUID that says whose stub it is.
fn handle(guest: DomId) -> [u8; 16] {
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(MARK);
    handle[8..10].copy_from_slice(&guest.to_le_bytes());
    handle[12..].copy_from_slice(&process::id().to_le_bytes());
    handle
}

/// Gives the domain a name in `xl list`; only a courtesy.
fn name(domid: DomId, guest: DomId) {
    let path = format!("/local/domain/{domid}/name");
    let name = format!("lull-stub-{guest}");
    let _ = Xenstore::open().and_then(|mut store| store.write(&path, &name));
}

/// Destroys the stubs whose process has gone, or which belong to `process`.
/// Returns their numbers.
///
/// # Errors
/// When the domains cannot be listed.
pub fn orphans(xen: &Xen, process: Option<u32>) -> io::Result<Vec<DomId>> {
    let mut found = Vec::new();
    for info in xen.domains()? {
        let owner = u32::from_le_bytes(info.handle[12..].try_into().expect("four bytes"));
        let is_pv = info.flags & dominf::HVM_GUEST == 0;
        let is_a_stub = is_pv && info.handle.starts_with(MARK);
        if is_a_stub && (process == Some(owner) || !processes::is_lulls(owner)) {
            destroy(xen, info.domain);
            found.push(info.domain);
        }
    }
    Ok(found)
}
