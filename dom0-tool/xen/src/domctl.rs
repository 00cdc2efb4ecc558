//! `HYPERVISOR_domctl`: what only dom0 may ask
//! (`xen/include/public/domctl.h`, 4.17).

use std::io;

use rustix::io::Errno;

use super::buffer::HypercallBuffer;
use super::privcmd::{Xen, number};
use super::{DomId, version::Version};

/// `XEN_DOMCTL_*` command numbers used here.
mod cmd {
    pub const CREATEDOMAIN: u32 = 1;
    pub const DESTROYDOMAIN: u32 = 2;
    pub const UNPAUSEDOMAIN: u32 = 4;
    pub const GETDOMAININFO: u32 = 5;
    pub const SHADOW_OP: u32 = 10;
    pub const MAX_MEM: u32 = 11;
    pub const SETVCPUCONTEXT: u32 = 12;
    pub const GETVCPUCONTEXT: u32 = 13;
    pub const MAX_VCPUS: u32 = 15;
    pub const RESUMEDOMAIN: u32 = 27;
    pub const GETHVMCONTEXT: u32 = 33;
    pub const SETHVMCONTEXT: u32 = 34;
    pub const SETTSCINFO: u32 = 60;
    pub const GETTSCINFO: u32 = 59;
    pub const GETPAGEFRAMEINFO3: u32 = 61;
    pub const GET_CPU_POLICY: u32 = 82;
}

/// `struct xen_domctl`, 144 bytes: the command, the interface version and the
/// domain in a header of 16, then the command's own structure.
type Request = [u64; 18];

/// A command's own structure, as it lies in the request.
type Payload = [u64; 16];

/// The request as Xen reads it, but for where the payload points to.
fn request(version: Version, cmd: u32, domain: DomId, payload: &Payload) -> Request {
    let mut request = [0; 18];
    request[0] = u64::from(cmd) | u64::from(version.domctl) << 32;
    request[1] = u64::from(domain);
    request[2..].copy_from_slice(payload);
    request
}

/// Xen sets it to the number it gave to a new domain, or that of the one it
/// answers for.
fn domain_of(request: &Request) -> DomId {
    request[1] as DomId
}

/// What of `struct xen_domctl_getdomaininfo` is of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DomainInfo {
    /// The domain asked for.
    pub domain: DomId,
    /// `XEN_DOMINF_*`.
    pub flags: u32,
    /// Pages the domain has.
    pub tot_pages: u64,
    /// And may have.
    pub max_pages: u64,
    /// Machine frame of shared_info.
    pub shared_info_frame: u64,
    /// CPU time used, nanoseconds.
    pub cpu_time: u64,
    /// Highest vCPU number.
    pub max_vcpu_id: u32,
    /// The domain's UUID.
    pub handle: [u8; 16],
}

impl DomainInfo {
    /// Length of `struct xen_domctl_getdomaininfo`, 112 bytes, in words.
    pub(super) const WORDS: usize = 14;

    /// As Xen wrote the structure.
    pub(super) fn read(words: &[u64; Self::WORDS]) -> Self {
        let bytes = words.map(u64::to_le_bytes);
        let handle = bytes.as_flattened()[76..92].try_into();
        Self {
            domain: words[0] as DomId,
            flags: (words[0] >> 32) as u32,
            tot_pages: words[1],
            max_pages: words[2],
            shared_info_frame: words[6],
            cpu_time: words[7],
            max_vcpu_id: (words[8] >> 32) as u32,
            handle: handle.expect("sixteen bytes"),
        }
    }
}

/// `XEN_DOMINF_*` flag bits.
pub mod dominf {
    /// Destroyed: `DOMDYING_dead` (`xen/common/domctl.c`, 4.17 to 4.22).
    pub const DYING: u32 = 1 << 0;
    /// HVM or PVH.
    pub const HVM_GUEST: u32 = 1 << 1;
    /// Has shut down; the reason is in bits 16 to 23.
    pub const SHUTDOWN: u32 = 1 << 2;
    /// Paused by the toolstack.
    pub const PAUSED: u32 = 1 << 3;
    /// Waits for an event.
    pub const BLOCKED: u32 = 1 << 4;
    /// Runs.
    pub const RUNNING: u32 = 1 << 5;
    /// `SHUTDOWN_suspend` (`xen/include/public/sched.h`).
    pub const REASON_SUSPEND: u8 = 2;
}

/// What a shadow operation does (`XEN_DOMCTL_SHADOW_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ShadowOp {
    /// Stop logging.
    Off = 0,
    /// Copy the bitmap and clear it.
    Clean = 11,
    /// Copy the bitmap, or only count.
    Peek = 12,
    /// Start logging: every later write is noted.
    EnableLogDirty = 2,
}

/// `DOMID_ANY` (`xen/include/public/xen.h`, 4.22): any free number. Up to 4.21 every
/// number from `DOMID_FIRST_RESERVED` on means that.
const DOMID_ANY: DomId = 0x7ff5;

/// Errors of `xen/include/public/errno.h`, 4.17.

/// `XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL`: also mark what the hypervisor itself
/// writes.
const LOGDIRTY_FINAL: u32 = 1 << 0;

/// `XEN_DOMCTL_PFINFO_LTAB_MASK` and the type of a frame that is not there.
const PFINFO_XTAB: u64 = 0xf << 28;

/// Frames one page-type query may name (Xen: -E2BIG beyond).
pub const PAGE_TYPES_MAX: usize = 1024;

/// `struct xen_domctl_tsc_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscInfo {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// Guest clock rate.
    pub khz: u32,
    /// How often the guest was moved or saved.
    pub incarnation: u32,
    /// Guest time.
    pub elapsed_ns: u64,
}

/// What the dirty bitmap is to be read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clean {
    /// The guest runs on.
    Live,
    /// The guest has stopped: nothing will follow.
    Final,
}

impl Xen {
    fn domctl(&self, cmd: u32, domain: DomId, payload: &mut Payload) -> io::Result<DomId> {
        let mut request = request(self.version, cmd, domain, payload);
        // SAFETY: a domctl takes one structure; addresses in the payload are
        // those of hypercall buffers, which every caller below sizes for its
        // command.
        let answer = unsafe { self.hypercall_with(number::DOMCTL, [0; 5], 0, &mut request) };
        payload.copy_from_slice(&request[2..]);
        answer.map(|_| domain_of(&request))
    }

    fn simple(&self, cmd: u32, domain: DomId) -> io::Result<()> {
        self.domctl(cmd, domain, &mut [0; 16]).map(|_| ())
    }

    /// State of the domain with exactly this number, or `None`.
    ///
    /// # Errors
    /// Xen's errno.
    pub fn domain_info(&self, domain: DomId) -> io::Result<Option<DomainInfo>> {
        let mut p = [0; 16];
        match self.domctl(cmd::GETDOMAININFO, domain, &mut p) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(None),
            other => other?,
        };
        let words = p.first_chunk().expect("fourteen of sixteen");
        // Up to 4.17 Xen goes on to the next domain when there is no such one.
        Ok(Some(DomainInfo::read(words)).filter(|info| info.domain == domain))
    }

    /// Creates an empty 64-bit PV domain with one vCPU, 31 event channels and
    /// one grant frame. Returns its number.
    pub fn create_pv_domain(&self, handle: [u8; 16]) -> io::Result<DomId> {
        let mut p = createdomain(handle);
        self.domctl(cmd::CREATEDOMAIN, DOMID_ANY, &mut p)
    }

    /// Lets the domain have this many vCPUs; needed once for a new domain.
    pub fn set_max_vcpus(&self, domain: DomId, count: u32) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = u64::from(count);
        self.domctl(cmd::MAX_VCPUS, domain, &mut p).map(|_| ())
    }

    /// Limits the domain's memory.
    pub fn set_max_memory(&self, domain: DomId, kib: u64) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = kib;
        self.domctl(cmd::MAX_MEM, domain, &mut p).map(|_| ())
    }

    /// Destroys the domain. Xen does it in steps and asks to be called again.
    pub fn destroy_domain(&self, domain: DomId) -> io::Result<()> {
        // Bounded: a domain of a few MiB takes one or two steps.
        for _ in 0..10_000 {
            match self.simple(cmd::DESTROYDOMAIN, domain) {
                // ERESTART, which Xen gives to be asked again.
                Err(error) if matches!(error.raw_os_error(), Some(85 | 11)) => {}
                other => return other,
            }
        }
        Err(io::Error::other("the domain does not die"))
    }

    /// Undoes one pause; a new domain has one.
    pub fn unpause_domain(&self, domain: DomId) -> io::Result<()> {
        self.simple(cmd::UNPAUSEDOMAIN, domain)
    }

    /// Lets a domain that has suspended itself go on.
    pub fn resume_domain(&self, domain: DomId) -> io::Result<()> {
        self.simple(cmd::RESUMEDOMAIN, domain)
    }

    /// Reads a vCPU's registers (`vcpu_guest_context`) into `context`.
    pub fn vcpu_context(
        &self,
        domain: DomId,
        vcpu: u32,
        context: &mut HypercallBuffer<u8>,
    ) -> io::Result<()> {
        self.context_op(cmd::GETVCPUCONTEXT, domain, vcpu, context)
    }

    /// Writes a vCPU's registers.
    pub fn set_vcpu_context(
        &self,
        domain: DomId,
        vcpu: u32,
        context: &HypercallBuffer<u8>,
    ) -> io::Result<()> {
        self.context_op(cmd::SETVCPUCONTEXT, domain, vcpu, context)
    }

    fn context_op(
        &self,
        cmd: u32,
        domain: DomId,
        vcpu: u32,
        context: &HypercallBuffer<u8>,
    ) -> io::Result<()> {
        assert!(context.len() >= vcpu_context::BYTES, "context too small");
        let mut p = [0; 16];
        p[0] = u64::from(vcpu);
        p[1] = context.address();
        self.domctl(cmd, domain, &mut p).map(|_| ())
    }

    /// Switches the dirty log on or off.
    pub fn shadow_op(&self, domain: DomId, op: ShadowOp) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = op as u64;
        self.domctl(cmd::SHADOW_OP, domain, &mut p).map(|_| ())
    }

    /// How many pages are dirty, without touching the log.
    ///
    /// # Errors
    /// Xen's errno; `NotFound` for a domain that has gone or is being destroyed.
    pub fn dirty_count(&self, domain: DomId) -> io::Result<u64> {
        let mut p = peek();
        let answer = self.domctl(cmd::SHADOW_OP, domain, &mut p);
        peeked(answer.map(drop), &p)
    }

    /// Whether somebody has begun to destroy it, also where its flags do not show
    /// that yet: those tell only of a domain that has been torn down
    /// (`xen/common/domctl.c`, 4.17 to 4.22).
    pub fn is_being_destroyed(&self, domain: DomId) -> bool {
        let count = self.dirty_count(domain);
        count.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Copies the dirty bitmap of `pfns` frames to `into`, and clears the log. Returns
    /// how many of them are dirty, the bits that are set; and Xen's own count.
    ///
    /// Xen's own count (`stats.dirty_count`) is not that number. Xen lets others run
    /// in the middle of a CLEAN, and what they mark then is counted, but may be
    /// logged behind the place that was copied already
    /// (`xen/arch/x86/mm/paging.c`, 4.17 to 4.22). Seen with a dom0 of two vCPUs.
    ///
    /// # Errors
    /// Xen's errno, or a log that covers fewer frames.
    ///
    /// # Panics
    /// When the bitmap does not fit: a bug of the caller.
    pub fn clean_dirty_log(
        &self,
        domain: DomId,
        into: &mut HypercallBuffer<u64>,
        pfns: u64,
        clean: Clean,
    ) -> io::Result<(u64, u64)> {
        let words = pfns.div_ceil(64) as usize;
        assert!(into.len() >= words, "bitmap too small");
        let mode = match clean {
            Clean::Live => 0,
            Clean::Final => LOGDIRTY_FINAL,
        };
        let mut p = [0; 16];
        p[0] = u64::from(mode) << 32 | ShadowOp::Clean as u64;
        p[2] = into.address();
        p[3] = pfns;
        self.domctl(cmd::SHADOW_OP, domain, &mut p)?;
        if p[3] != pfns {
            let text = format!("the dirty log covers {} of {pfns} frames", p[3]);
            return Err(io::Error::other(text));
        }
        // Bits of frames that are not there mean nothing.
        if let (Some(last), used @ 1..) = (into[..words].last_mut(), pfns % 64) {
            *last &= (1 << used) - 1;
        }
        let bits = into[..words]
            .iter()
            .map(|word| u64::from(word.count_ones()));
        Ok((bits.sum(), dirty_count_of(&p)))
    }

    /// Says for the first `count` frame numbers in `frames` whether there is
    /// a page behind them; the numbers are overwritten.
    pub fn page_types(
        &self,
        domain: DomId,
        frames: &mut HypercallBuffer<u64>,
        count: usize,
    ) -> io::Result<()> {
        assert!(count <= frames.len().min(PAGE_TYPES_MAX), "too many frames");
        let mut p = [0; 16];
        p[0] = count as u64;
        p[1] = frames.address();
        self.domctl(cmd::GETPAGEFRAMEINFO3, domain, &mut p)
            .map(|_| ())
    }

    /// The guest's TSC settings.
    pub fn tsc_info(&self, domain: DomId) -> io::Result<TscInfo> {
        let mut p = [0; 16];
        self.domctl(cmd::GETTSCINFO, domain, &mut p)?;
        Ok(TscInfo {
            mode: p[0] as u32,
            khz: (p[0] >> 32) as u32,
            incarnation: p[1] as u32,
            elapsed_ns: p[2],
        })
    }

    /// The state of the guest's vCPUs and platform as one blob
    /// (`XEN_DOMCTL_gethvmcontext`).
    pub fn hvm_context(&self, domain: DomId) -> io::Result<Vec<u8>> {
        let mut p = [0; 16];
        self.domctl(cmd::GETHVMCONTEXT, domain, &mut p)?;
        let size = p[0] as u32 as usize;
        let buffer = HypercallBuffer::<u8>::new(size)?;
        p[0] = size as u64;
        p[1] = buffer.address();
        self.domctl(cmd::GETHVMCONTEXT, domain, &mut p)?;
        let used = (p[0] as u32 as usize).min(size);
        Ok(buffer[..used].to_vec())
    }

    /// Sets the guest's clock as [`tsc_info`](Self::tsc_info) read it elsewhere.
    pub fn set_tsc_info(&self, domain: DomId, tsc: &TscInfo) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = u64::from(tsc.mode) | u64::from(tsc.khz) << 32;
        p[1] = u64::from(tsc.incarnation);
        p[2] = tsc.elapsed_ns;
        self.domctl(cmd::SETTSCINFO, domain, &mut p).map(|_| ())
    }

    /// Replaces the state of the guest's vCPUs and platform by a blob that
    /// [`hvm_context`](Self::hvm_context) read elsewhere. Where Xen refuses it, some
    /// of it may be set.
    pub fn set_hvm_context(&self, domain: DomId, context: &[u8]) -> io::Result<()> {
        let mut buffer = HypercallBuffer::<u8>::new(context.len())?;
        buffer.copy_from_slice(context);
        let mut p = [0; 16];
        p[0] = context.len() as u64;
        p[1] = buffer.address();
        self.domctl(cmd::SETHVMCONTEXT, domain, &mut p).map(|_| ())
    }

    /// The CPUID leaves and MSRs the guest sees, as Xen's own arrays
    /// (24 and 16 bytes an entry).
    pub fn cpu_policy(&self, domain: DomId) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut p = [0; 16];
        self.domctl(cmd::GET_CPU_POLICY, domain, &mut p)?;
        let (leaves, msrs) = (p[0] as u32 as usize, (p[0] >> 32) as usize);
        let leaf_bytes = HypercallBuffer::<u8>::new(leaves * CPUID_LEAF_BYTES)?;
        let msr_bytes = HypercallBuffer::<u8>::new(msrs * MSR_ENTRY_BYTES)?;
        p[1] = leaf_bytes.address();
        p[2] = msr_bytes.address();
        self.domctl(cmd::GET_CPU_POLICY, domain, &mut p)?;
        let used_leaves = (p[0] as u32 as usize).min(leaves);
        let used_msrs = ((p[0] >> 32) as usize).min(msrs);
        Ok((
            leaf_bytes[..used_leaves * CPUID_LEAF_BYTES].to_vec(),
            msr_bytes[..used_msrs * MSR_ENTRY_BYTES].to_vec(),
        ))
    }
}

/// `sizeof(xen_cpuid_leaf_t)` (`xen/include/public/arch-x86/xen.h`).
const CPUID_LEAF_BYTES: usize = 24;
/// `sizeof(xen_msr_entry_t)`.
const MSR_ENTRY_BYTES: usize = 16;

/// Whether a type that [`Xen::page_types`] returned is that of a frame with a
/// page behind it.
pub fn is_populated(page_type: u64) -> bool {
    page_type & PFINFO_XTAB != PFINFO_XTAB
}

/// The payload of a look at the dirty log that asks for no bitmap.
fn peek() -> Payload {
    let mut p = [0; 16];
    p[0] = ShadowOp::Peek as u64;
    p[4] = UNSAID;
    p
}

/// What Xen is not going to say of fault and dirty counts: both of them full.
const UNSAID: u64 = u64::MAX;

/// `stats.dirty_count` of `struct xen_domctl_shadow_op`.
const fn dirty_count_of(p: &Payload) -> u64 {
    p[4] >> 32
}

/// The dirty count, from Xen's answer to [`peek`].
///
/// Of a domain that is being destroyed Xen says that all went well, and no count, up
/// to 4.17, and EINVAL since 4.18. It comes to that before anything else: before
/// EBUSY (another operation has not ended) and ENOMEM (the log lost something), which
/// are of living ones. A log that is off is no error; EINVAL is else only of a domain
/// without vCPUs, of which ours has none (`xen/arch/x86/mm/paging.c`, 4.17 to 4.22:
/// `paging_domctl`, `paging_log_dirty_op`).
fn peeked(answer: io::Result<()>, p: &Payload) -> io::Result<u64> {
    match answer.map_err(|error| (Errno::from_io_error(&error), error)) {
        Ok(()) if p[4] != UNSAID => Ok(dirty_count_of(p)),
        Ok(()) | Err((Some(Errno::SRCH | Errno::INVAL), _)) => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the domain is being destroyed",
        )),
        Err((_, error)) => Err(error),
    }
}

/// `struct xen_domctl_createdomain`: ssidref, handle, flags, iommu_opts,
/// max_vcpus, max_evtchn_port, max_grant_frames, max_maptrack_frames,
/// grant_opts, since 4.19 altp2m, vmtrace_size, cpupool_id, arch. From altp2m on
/// all of it is zero, so it does not matter where it lies.
fn createdomain(handle: [u8; 16]) -> Payload {
    const MAX_VCPUS: u32 = 1;
    const MAX_EVTCHN_PORT: u32 = 31;
    const MAX_GRANT_FRAMES: u32 = 1;
    const GRANT_VERSION: u32 = 1;
    let mut words = vec![0_u32];
    words.extend(
        handle
            .chunks(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("chunks of four"))),
    );
    words.extend([
        0,
        0,
        MAX_VCPUS,
        MAX_EVTCHN_PORT,
        MAX_GRANT_FRAMES,
        0,
        GRANT_VERSION,
    ]);
    let mut payload = [0; 16];
    for (to, from) in payload.iter_mut().zip(words.chunks(2)) {
        *to = u64::from(from[0]) | u64::from(*from.get(1).unwrap_or(&0)) << 32;
    }
    payload
}

/// Places in `struct vcpu_guest_context`, 64-bit
/// (`xen/include/public/arch-x86/xen.h`, 4.17).
pub mod vcpu_context {
    /// Its size.
    pub const BYTES: usize = 5168;
    /// `flags`.
    pub const FLAGS: usize = 512;
    /// `user_regs.rax`.
    pub const RAX: usize = 600;
    /// `user_regs.rip`.
    pub const RIP: usize = 648;
    /// `user_regs.cs`.
    pub const CS: usize = 656;
    /// `user_regs.rflags`.
    pub const RFLAGS: usize = 664;
    /// `user_regs.rsp`.
    pub const RSP: usize = 672;
    /// `user_regs.ss`.
    pub const SS: usize = 680;
    /// `kernel_ss`.
    pub const KERNEL_SS: usize = 4968;
    /// `kernel_sp`.
    pub const KERNEL_SP: usize = 4976;
    /// `ctrlreg[3]`.
    pub const CR3: usize = 5008;
    /// `VGCF_in_kernel | VGCF_online`.
    pub const KERNEL_ONLINE: u64 = 1 << 2 | 1 << 5;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::KNOWN;

    /// `XEN_DOMCTL_INTERFACE_VERSION` of 4.17 to 4.22.
    const VERSIONS: [u8; 6] = [0x15, 0x16, 0x17, 0x17, 0x17, 0x18];

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_domain_is_asked_for_with_the_bytes_each_xen_reads() {
        let handle = *b"lullstub\x07\0\0\0\xd2\x04\0\0";
        // Command 1, the interface version, DOMID_ANY; ssidref and the handle; flags,
        // iommu_opts, max_vcpus, max_evtchn_port, max_grant_frames,
        // max_maptrack_frames, grant_opts; and what is zero, altp2m among it.
        let expected = |version: u8| {
            let mut bytes = vec![1, 0, 0, 0, version, 0, 0, 0];
            bytes.extend([0xf5, 0x7f, 0, 0, 0, 0, 0, 0]);
            bytes.extend([0, 0, 0, 0]);
            bytes.extend(b"lullstub\x07\0\0\0\xd2\x04\0\0");
            bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 31, 0, 0, 0]);
            bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
            bytes.resize(144, 0);
            bytes
        };
        for (known, version) in KNOWN.into_iter().zip(VERSIONS) {
            let payload = createdomain(handle);
            let request = request(known, cmd::CREATEDOMAIN, DOMID_ANY, &payload);
            assert_eq!(bytes(&request), expected(version), "Xen {known}");
        }
    }

    #[test]
    fn a_domain_is_looked_at_with_the_bytes_each_xen_reads() {
        let expected = |version: u8| {
            let mut bytes = vec![5, 0, 0, 0, version, 0, 0, 0, 0x34, 0x12];
            bytes.resize(144, 0);
            bytes
        };
        for (known, version) in KNOWN.into_iter().zip(VERSIONS) {
            let request = request(known, cmd::GETDOMAININFO, 0x1234, &[0; 16]);
            assert_eq!(bytes(&request), expected(version), "Xen {known}");
        }
    }

    #[test]
    fn the_dirty_log_is_looked_at_with_the_bytes_each_xen_reads() {
        // Command 10; op 12 and mode; mb; no bitmap; no pages; the counts.
        let expected = |version: u8| {
            let mut bytes = vec![10, 0, 0, 0, version, 0, 0, 0];
            bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend([12, 0, 0, 0, 0, 0, 0, 0]);
            bytes.resize(48, 0);
            bytes.extend([0xff; 8]);
            bytes.resize(144, 0);
            bytes
        };
        for (known, version) in KNOWN.into_iter().zip(VERSIONS) {
            let request = request(known, cmd::SHADOW_OP, 7, &peek());
            assert_eq!(bytes(&request), expected(version), "Xen {known}");
        }
    }

    #[test]
    fn a_domain_is_read_from_where_xen_writes_it() {
        let mut words = [0; DomainInfo::WORDS];
        words[0] = 0x2_0000 << 32 | 0x5555 << 16 | 9;
        for (place, word) in words.iter_mut().enumerate().take(9).skip(1) {
            *word = (place as u64) << 40 | 0x11;
        }
        words[9] = 0x0403_0201_7777_7777;
        words[10] = 0x0c0b_0a09_0807_0605;
        words[11] = 0x7777_7777_100f_0e0d;
        let info = DomainInfo {
            domain: 9,
            flags: 0x2_0000,
            tot_pages: 1 << 40 | 0x11,
            max_pages: 2 << 40 | 0x11,
            shared_info_frame: 6 << 40 | 0x11,
            cpu_time: 7 << 40 | 0x11,
            max_vcpu_id: 8 << 8,
            handle: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        };
        assert_eq!(DomainInfo::read(&words), info);
    }

    #[test]
    fn only_a_domain_that_is_being_destroyed_counts_as_such() {
        let errno = |errno: Errno| Err(errno.into());
        let destroyed = |answer, p: &Payload| {
            peeked(answer, p).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let mut counted = peek();
        counted[4] = 7 << 32 | 9;
        assert_eq!(peeked(Ok(()), &counted).unwrap(), 7);
        // Not a single page dirty, as where the log is off.
        counted[4] = 0;
        assert_eq!(peeked(Ok(()), &counted).unwrap(), 0);
        assert!(destroyed(Ok(()), &peek()));
        for gone in [Errno::INVAL, Errno::SRCH] {
            assert!(destroyed(errno(gone), &peek()));
        }
        // It lives, and is to be resumed.
        for other in [Errno::PERM, Errno::NOMEM, Errno::BUSY, Errno::OPNOTSUPP] {
            let error = peeked(errno(other), &peek()).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(other));
            assert!(!destroyed(errno(other), &peek()));
        }
    }
}
