//! `HYPERVISOR_domctl`: operations reserved to dom0 (`xen/include/public/domctl.h`,
//! 4.17).

use std::io;

use rustix::io::Errno;

use super::buffer::HypercallBuffer;
use super::privcmd::{Xen, number};
use super::{DomId, version::Version};

/// `XEN_DOMCTL_*` command numbers used here.
mod cmd {
    pub const CREATEDOMAIN: u32 = 1;
    pub const DESTROYDOMAIN: u32 = 2;
    pub const PAUSEDOMAIN: u32 = 3;
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

/// `struct xen_domctl`, 144 bytes: a header of 16 with the command, the interface
/// version and the domain, then the command's own structure.
type Request = [u64; 18];

/// A command's own structure, in the layout of the request.
pub(super) type Payload = [u64; 16];

/// Builds the request as Xen reads it, except for the memory that the payload points
/// to.
fn request(version: Version, cmd: u32, domain: DomId, payload: &Payload) -> Request {
    let mut request = [0; 18];
    request[0] = u64::from(cmd) | u64::from(version.domctl) << 32;
    request[1] = u64::from(domain);
    request[2..].copy_from_slice(payload);
    request
}

/// The domid in the request, which Xen sets to that of a new domain or of the domain it
/// answers for.
fn domain_of(request: &Request) -> DomId {
    request[1] as DomId
}

/// The members of `struct xen_domctl_getdomaininfo` that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DomainInfo {
    /// The domid of the domain described.
    pub domain: DomId,
    /// The domain's state flags (`XEN_DOMINF_*`).
    pub flags: u32,
    /// Number of pages that the domain has.
    pub tot_pages: u64,
    /// Number of pages that the domain may have.
    pub max_pages: u64,
    /// Machine frame number of the shared_info page.
    pub shared_info_frame: u64,
    /// CPU time used, in nanoseconds.
    pub cpu_time: u64,
    /// Highest vCPU id of the domain.
    pub max_vcpu_id: u32,
    /// The domain's UUID, as the toolstack set it.
    pub handle: [u8; 16],
}

impl DomainInfo {
    /// Length of `struct xen_domctl_getdomaininfo`, 112 bytes, in words.
    pub(super) const WORDS: usize = 14;

    /// Decodes the structure as Xen wrote it.
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
    /// The domain is destroyed: `DOMDYING_dead` (`xen/common/domctl.c`, 4.17 to 4.22).
    pub const DYING: u32 = 1 << 0;
    /// The domain is HVM or PVH.
    pub const HVM_GUEST: u32 = 1 << 1;
    /// The domain has shut down; the reason is in bits 16 to 23.
    pub const SHUTDOWN: u32 = 1 << 2;
    /// The toolstack has paused the domain.
    pub const PAUSED: u32 = 1 << 3;
    /// The domain waits for an event.
    pub const BLOCKED: u32 = 1 << 4;
    /// The domain is on a CPU.
    pub const RUNNING: u32 = 1 << 5;
    /// `SHUTDOWN_suspend` (`xen/include/public/sched.h`).
    pub const REASON_SUSPEND: u8 = 2;
}

/// The operations on the dirty log (`XEN_DOMCTL_SHADOW_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ShadowOp {
    /// Leave log-dirty mode; Xen frees the bitmap.
    Off = 0,
    /// Copy the dirty bitmap, then clear it.
    Clean = 11,
    /// Copy the dirty bitmap without clearing it, or only count the dirty pages.
    Peek = 12,
    /// Enter log-dirty mode: Xen records every later write.
    EnableLogDirty = 2,
}

/// `DOMID_ANY` (`xen/include/public/xen.h`, 4.22): any free domid. Up to 4.21, every
/// number from `DOMID_FIRST_RESERVED` on means that.
const DOMID_ANY: DomId = 0x7ff5;

/// `XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL`: also mark the pages that the hypervisor itself
/// writes.
const LOGDIRTY_FINAL: u32 = 1 << 0;

/// `XEN_DOMCTL_PFINFO_XTAB`, the type of a frame without a page. It has all bits of
/// `XEN_DOMCTL_PFINFO_LTAB_MASK` set.
const PFINFO_XTAB: u64 = 0xf << 28;

/// Maximum number of frames in one page-type query (Xen returns -E2BIG beyond that).
pub const PAGE_TYPES_MAX: usize = 1024;

/// A guest's TSC settings (`struct xen_domctl_tsc_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscInfo {
    /// The TSC mode (`TSC_MODE_*`).
    pub mode: u32,
    /// The guest's TSC frequency, in kHz.
    pub khz: u32,
    /// How many times the guest was migrated or saved.
    pub incarnation: u32,
    /// The guest's time, in nanoseconds.
    pub elapsed_ns: u64,
}

/// The purpose of reading the dirty bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clean {
    /// The guest continues to run.
    Live,
    /// The guest has stopped, and this is the last read.
    Final,
}

impl Xen {
    pub(super) fn domctl(
        &self,
        cmd: u32,
        domain: DomId,
        payload: &mut Payload,
    ) -> io::Result<DomId> {
        let mut request = request(self.version, cmd, domain, payload);
        // SAFETY: a domctl takes one structure; addresses in the payload are those of
        // hypercall buffers, which every caller below sizes for its command.
        let answer = unsafe { self.hypercall_with(number::DOMCTL, [0; 5], 0, &mut request) };
        payload.copy_from_slice(&request[2..]);
        answer.map(|_| domain_of(&request))
    }

    fn simple(&self, cmd: u32, domain: DomId) -> io::Result<()> {
        self.domctl(cmd, domain, &mut [0; 16]).map(|_| ())
    }

    /// The state of the domain with exactly this domid, or `None` if there is none.
    ///
    /// # Errors
    /// Returns Xen's errno.
    pub fn domain_info(&self, domain: DomId) -> io::Result<Option<DomainInfo>> {
        let mut p = [0; 16];
        match self.domctl(cmd::GETDOMAININFO, domain, &mut p) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(None),
            other => other?,
        };
        let words = p.first_chunk().expect("fourteen of sixteen");
        // Up to 4.17, Xen continues with the next domain if this one does not exist.
        Ok(Some(DomainInfo::read(words)).filter(|info| info.domain == domain))
    }

    /// Creates an empty 64-bit PV domain with one vCPU, 31 event channels and one grant
    /// frame. Returns its domid.
    pub fn create_pv_domain(&self, handle: [u8; 16]) -> io::Result<DomId> {
        let mut p = createdomain(handle);
        self.domctl(cmd::CREATEDOMAIN, DOMID_ANY, &mut p)
    }

    /// Sets the domain's maximum number of vCPUs; a new domain needs this once.
    pub fn set_max_vcpus(&self, domain: DomId, count: u32) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = u64::from(count);
        self.domctl(cmd::MAX_VCPUS, domain, &mut p).map(|_| ())
    }

    /// Limits the domain's memory to `kib` KiB.
    pub fn set_max_memory(&self, domain: DomId, kib: u64) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = kib;
        self.domctl(cmd::MAX_MEM, domain, &mut p).map(|_| ())
    }

    /// Destroys the domain. Xen does this in steps and has to be called again until it
    /// is done.
    pub fn destroy_domain(&self, domain: DomId) -> io::Result<()> {
        // Bounded: a domain of a few MiB takes one or two steps.
        for _ in 0..10_000 {
            match self.simple(cmd::DESTROYDOMAIN, domain) {
                // Xen returns ERESTART when it has to be called again
                // (`xen/include/public/errno.h`, 4.17).
                Err(error) if matches!(error.raw_os_error(), Some(85 | 11)) => {}
                other => return other,
            }
        }
        Err(io::Error::other("the domain does not die"))
    }

    /// Pauses the domain once more. Xen counts the pauses, and each has to be undone
    /// (`controller_pause_count` in `xen/common/domain.c`, 4.17 to 4.20).
    pub fn pause_domain(&self, domain: DomId) -> io::Result<()> {
        self.simple(cmd::PAUSEDOMAIN, domain)
    }

    /// Undoes one pause; a new domain is paused once.
    pub fn unpause_domain(&self, domain: DomId) -> io::Result<()> {
        self.simple(cmd::UNPAUSEDOMAIN, domain)
    }

    /// Resumes a domain that has suspended itself.
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

    /// Writes a vCPU's registers (`vcpu_guest_context`) from `context`.
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

    /// Enters or leaves log-dirty mode.
    pub fn shadow_op(&self, domain: DomId, op: ShadowOp) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = op as u64;
        self.domctl(cmd::SHADOW_OP, domain, &mut p).map(|_| ())
    }

    /// The number of dirty pages. The dirty log stays unchanged.
    ///
    /// # Errors
    /// Returns Xen's errno, or `NotFound` for a domain that is gone or being destroyed.
    pub fn dirty_count(&self, domain: DomId) -> io::Result<u64> {
        let mut p = peek();
        let answer = self.domctl(cmd::SHADOW_OP, domain, &mut p);
        peeked(answer.map(drop), &p)
    }

    /// Whether the domain is being destroyed, even if its flags do not show that yet:
    /// they show only a domain that has been torn down completely
    /// (`xen/common/domctl.c`, 4.17 to 4.22).
    pub fn is_being_destroyed(&self, domain: DomId) -> bool {
        let count = self.dirty_count(domain);
        count.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Copies the dirty bitmap of `pfns` frames to `into` and clears the log. Returns
    /// the number of dirty frames, which is the number of bits set, and Xen's own
    /// count.
    ///
    /// Xen's own count (`stats.dirty_count`) can differ. A CLEAN can be preempted. A
    /// page that is marked meanwhile is counted, but may be logged behind the position
    /// that has already been copied (`xen/arch/x86/mm/paging.c`, 4.17 to 4.22). This
    /// was observed with a dom0 of two vCPUs.
    ///
    /// # Errors
    /// Returns Xen's errno, or an error if the log covers fewer frames.
    ///
    /// # Panics
    /// Panics if the bitmap does not fit, which is a bug of the caller.
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
        // Bits beyond the last frame are meaningless.
        if let (Some(last), used @ 1..) = (into[..words].last_mut(), pfns % 64) {
            *last &= (1 << used) - 1;
        }
        let bits = into[..words]
            .iter()
            .map(|word| u64::from(word.count_ones()));
        Ok((bits.sum(), dirty_count_of(&p)))
    }

    /// Queries, for the first `count` frame numbers in `frames`, whether there is a
    /// page behind them. The types overwrite the numbers.
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

    /// Reads the guest's TSC settings.
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

    /// Reads the state of the guest's vCPUs and platform as one blob
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

    /// Applies TSC settings that [`tsc_info`](Self::tsc_info) read from another domain.
    pub fn set_tsc_info(&self, domain: DomId, tsc: &TscInfo) -> io::Result<()> {
        let mut p = [0; 16];
        p[0] = u64::from(tsc.mode) | u64::from(tsc.khz) << 32;
        p[1] = u64::from(tsc.incarnation);
        p[2] = tsc.elapsed_ns;
        self.domctl(cmd::SETTSCINFO, domain, &mut p).map(|_| ())
    }

    /// Replaces the state of the guest's vCPUs and platform by a blob that
    /// [`hvm_context`](Self::hvm_context) read from another domain. If Xen refuses the
    /// blob, a part of it may already be loaded.
    pub fn set_hvm_context(&self, domain: DomId, context: &[u8]) -> io::Result<()> {
        let mut buffer = HypercallBuffer::<u8>::new(context.len())?;
        buffer.copy_from_slice(context);
        let mut p = [0; 16];
        p[0] = context.len() as u64;
        p[1] = buffer.address();
        self.domctl(cmd::SETHVMCONTEXT, domain, &mut p).map(|_| ())
    }

    /// Reads the CPUID leaves and MSRs that the guest sees, as Xen's own arrays (24 and
    /// 16 bytes per entry).
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

/// Whether a type that [`Xen::page_types`] returned means that the frame has a page.
pub fn is_populated(page_type: u64) -> bool {
    page_type & PFINFO_XTAB != PFINFO_XTAB
}

/// The payload of a PEEK at the dirty log that requests no bitmap.
fn peek() -> Payload {
    let mut p = [0; 16];
    p[0] = ShadowOp::Peek as u64;
    p[4] = UNSAID;
    p
}

/// A value that Xen never returns for the fault and dirty counts: both at their
/// maximum.
const UNSAID: u64 = u64::MAX;

/// `stats.dirty_count` of `struct xen_domctl_shadow_op`, in pages.
const fn dirty_count_of(p: &Payload) -> u64 {
    p[4] >> 32
}

/// The dirty count, from Xen's answer to [`peek`].
///
/// For a domain that is being destroyed, Xen reports success without a count up to
/// 4.17, and EINVAL since 4.18. It checks this before anything else, in particular
/// before EBUSY (another operation has not ended) and ENOMEM (the log lost something),
/// which apply to living domains. It is no error if the log is off. The only other
/// cause of EINVAL is a domain without vCPUs, and every domain that is queried here has
/// some (`xen/arch/x86/mm/paging.c`, 4.17 to 4.22: `paging_domctl`,
/// `paging_log_dirty_op`).
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

/// `struct xen_domctl_createdomain`: ssidref, handle, flags, iommu_opts, max_vcpus,
/// max_evtchn_port, max_grant_frames, max_maptrack_frames, grant_opts, since 4.19
/// altp2m, vmtrace_size, cpupool_id, arch. Everything from altp2m on is zero, so its
/// position does not matter.
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

/// Offsets of members of `struct vcpu_guest_context`, 64-bit, in bytes
/// (`xen/include/public/arch-x86/xen.h`, 4.17).
pub mod vcpu_context {
    /// The size of the structure.
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
        // The expected request: command 1, the interface version, DOMID_ANY; ssidref
        // and the handle; flags, iommu_opts, max_vcpus, max_evtchn_port,
        // max_grant_frames, max_maptrack_frames, grant_opts; then zeros, including
        // altp2m.
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
        // The expected request: command 10; op 12 and mode; mb; no bitmap; no pages;
        // the counts.
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
        // No page is dirty, as when the log is off.
        counted[4] = 0;
        assert_eq!(peeked(Ok(()), &counted).unwrap(), 0);
        assert!(destroyed(Ok(()), &peek()));
        for gone in [Errno::INVAL, Errno::SRCH] {
            assert!(destroyed(errno(gone), &peek()));
        }
        // The domain is alive and can be resumed.
        for other in [Errno::PERM, Errno::NOMEM, Errno::BUSY, Errno::OPNOTSUPP] {
            let error = peeked(errno(other), &peek()).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(other));
            assert!(!destroyed(errno(other), &peek()));
        }
    }
}
