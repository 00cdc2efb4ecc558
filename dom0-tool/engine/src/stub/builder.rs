//! Builds the stub domain and destroys it.
//!
//! No toolstack is involved. The domain appears in no list but Xen's and has no device, no
//! console and no xenstore connection. It exists within a few milliseconds. Its UUID starts
//! with [`MARK`] and names the guest and the process it belongs to, so that an orphan is
//! recognised.

use std::io::{self, IoSlice};
use std::process;

use lull_base::processes;
use lull_core::link::{
    BITMAP_VA, LINK_PAGES, Link, PAYLOAD_VA, SLOT_BYTES, SLOTS, STACK_END_VA, Startup, WINDOW_VA,
};
use lull_core::machine::Config;
use lull_xen::buffer::HypercallBuffer;
use lull_xen::domctl::{DomainInfo, dominf, vcpu_context};
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

/// The interrupt flag. A PV kernel must run with interrupts enabled.
const RFLAGS_IF: u64 = 1 << 9;

/// The domain that this program runs in.
const DOM0: DomId = 0;

/// Why the stub could not be built.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// The embedded image is not usable: see [`ImageError`].
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Xen or the kernel refused a step of the build.
    #[error("the stub domain could not be {step}: {source}")]
    Xen {
        /// The step that failed.
        step: &'static str,
        /// The error of that step.
        source: io::Error,
    },
}

/// Adds the name of the step to an error, as a [`StubError`].
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
    /// The event channel to the stub.
    pub channel: EventChannel,
    shared: ForeignPages,
    bitmap_pages: usize,
    /// Machine addresses of the window's page-table entries.
    entries: Vec<u64>,
    memory_bytes: u64,
    weight: io::Result<Option<u16>>,
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

/// Destroys a stub. An error needs no handling here: the next attempt finds the domain
/// among the [`orphans`].
fn destroy(xen: &Xen, domid: DomId) {
    let _ = xen.destroy_domain(domid);
    let _ = Xenstore::open().and_then(|mut store| store.remove(&format!("/local/domain/{domid}")));
}

/// The memory of a stub for a guest of `guest_pfns` frames, in bytes.
///
/// # Errors
/// When the embedded image is not usable.
pub fn memory_bytes(guest_pfns: u64) -> Result<u64, ImageError> {
    let space = AddressSpace::new(&Image::embedded()?, guest_pfns);
    // Xen needs one more page for itself.
    Ok((space.pages() as u64 + 1) * PAGE as u64)
}

impl<'x> Stub<'x> {
    /// Builds a stub for guest `guest_domid`, with a bitmap of `guest_pfns` bits, and
    /// starts it.
    ///
    /// # Errors
    /// When a step fails. Nothing is left behind then.
    pub fn build(
        xen: &'x Xen,
        guest_domid: DomId,
        guest_pfns: u64,
        config: Config,
    ) -> Result<Self, StubError> {
        let image = Image::embedded()?;
        let space = AddressSpace::new(&image, guest_pfns);

        let domid = xen
            .create_pv_domain(handle(guest_domid))
            .during("created")?;
        let unfinished = Unfinished { xen, domid };
        // One page more than the domain has, because the limit also counts Xen's own.
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
        // The payload needs no zeroes, because dom0 reads only what was written to it.
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
        name(domid, guest_domid);
        // A cap would be safer against a stub that spins, but it would also hold up the
        // copying during the pause. A weight matters only where the processor is scarce.
        let weight = xen.set_half_the_weight_of(domid, DOM0);
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
            weight,
        })
    }

    /// The stub's domain number.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// The stub's memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The stub's share of a processor, for the log.
    pub fn share(&self) -> String {
        match &self.weight {
            Ok(Some(weight)) => format!("its weight is {weight}, half of dom0's"),
            Ok(None) => {
                "the scheduler has no weights, so it has as much of a processor as dom0".into()
            }
            Err(error) => format!("its weight cannot be set: {error}"),
        }
    }

    /// The control pages, which the stub and dom0 share.
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

    /// Sets the bits of `words` in the bitmap too. Returns how many were not set before.
    ///
    /// A stub that lies may change the bits meanwhile. The frames of its round then do not
    /// add up.
    pub fn add_to_bitmap(&self, words: &[u64]) -> u64 {
        let start = LINK_PAGES as usize * PAGE;
        let added = words.iter().enumerate().filter(|(_, word)| **word != 0);
        added
            .map(|(n, word)| u64::from(self.shared.set_bits(start + n * 8, *word)))
            .sum()
    }

    /// The first `pages` pages of a slot's payload, as a slice for the kernel to write out.
    ///
    /// If a stub that lies changes them meanwhile, the change goes into the stream. It
    /// affects only the stub's own guest.
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

/// Writes the image, a zeroed stack and the page tables into the domain, and unmaps them.
/// Xen accepts no page as a page table while it is mapped writable.
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

/// The stub's UUID, which names its guest and its process.
fn handle(guest_domid: DomId) -> [u8; 16] {
    let mut handle = [0; 16];
    handle[..8].copy_from_slice(MARK);
    handle[8..10].copy_from_slice(&guest_domid.to_le_bytes());
    handle[12..].copy_from_slice(&process::id().to_le_bytes());
    handle
}

/// Gives the domain a name in `xl list`. The name is a convenience, so errors are ignored.
fn name(domid: DomId, guest_domid: DomId) {
    let path = format!("/local/domain/{domid}/name");
    let name = format!("lull-stub-{guest_domid}");
    let _ = Xenstore::open().and_then(|mut store| store.write(&path, &name));
}

/// Destroys the stubs whose process has gone and those that belong to `process`. Returns
/// their domain numbers.
///
/// # Errors
/// When the domains cannot be listed.
pub fn orphans(xen: &Xen, process: Option<u32>) -> io::Result<Vec<DomId>> {
    let mut found = Vec::new();
    for info in xen.domains()? {
        if is_orphan(&info, process, processes::is_lulls) {
            destroy(xen, info.domain);
            found.push(info.domain);
        }
    }
    Ok(found)
}

/// Whether the domain is a stub that belongs to `process`, or to a process that is no live
/// lull. The UUID alone does not make a domain a stub, because a guest's owner may be free
/// to choose it.
fn is_orphan(info: &DomainInfo, process: Option<u32>, is_lulls: impl Fn(u32) -> bool) -> bool {
    let owner = u32::from_le_bytes(info.handle[12..].try_into().expect("four bytes"));
    let is_pv = info.flags & dominf::HVM_GUEST == 0;
    let is_a_stub = is_pv && info.handle.starts_with(MARK);
    is_a_stub && (process == Some(owner) || !is_lulls(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stub_of_a_dead_process_is_an_orphan() {
        const DEAD: u32 = 41;
        const ALIVE: u32 = 42;
        let is_lulls = |process| process == ALIVE;
        let stub = |owner: u32| {
            let mut handle = handle(7);
            handle[12..].copy_from_slice(&owner.to_le_bytes());
            DomainInfo {
                domain: 9,
                handle,
                ..DomainInfo::default()
            }
        };
        assert!(is_orphan(&stub(DEAD), None, is_lulls));
        assert!(!is_orphan(&stub(ALIVE), None, is_lulls));
        assert!(is_orphan(&stub(ALIVE), Some(ALIVE), is_lulls));
        // A guest whose owner has chosen such a UUID.
        let guest = DomainInfo {
            flags: dominf::HVM_GUEST,
            ..stub(DEAD)
        };
        assert!(!is_orphan(&guest, None, is_lulls));
        let other = DomainInfo {
            handle: [7; 16],
            ..stub(DEAD)
        };
        assert!(!is_orphan(&other, None, is_lulls));
    }
}
