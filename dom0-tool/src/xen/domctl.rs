//! `HYPERVISOR_domctl`: what only dom0 may ask
//! (`xen/include/public/domctl.h`, 4.17).

use std::io;

use super::buffer::HypercallBuffer;
use super::foreign::ForeignPages;
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

/// `struct xen_domctl`: a header of 16 bytes and the command's own structure,
/// 144 bytes in all.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Domctl {
    cmd: u32,
    interface_version: u32,
    domain: DomId,
    _pad: [u16; 3],
    payload: [u64; 16],
}

const _: () = assert!(size_of::<Domctl>() == 144);

/// `struct xen_domctl_getdomaininfo`, 112 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// `XEN_DOMINF_*` flag bits.
pub mod dominf {
    /// Being destroyed.
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
    fn domctl(&self, cmd: u32, domain: DomId, payload: &mut [u64; 16]) -> io::Result<DomId> {
        let mut request = Domctl {
            cmd,
            interface_version: self.version.domctl,
            domain,
            _pad: [0; 3],
            payload: *payload,
        };
        // SAFETY: a domctl takes one structure; addresses in the payload are
        // those of hypercall buffers, which every caller below sizes for its
        // command.
        let answer = unsafe { self.hypercall_with(number::DOMCTL, [0; 5], 0, &mut request) };
        *payload = request.payload;
        answer.map(|_| request.domain)
    }

    fn simple(&self, cmd: u32, domain: DomId) -> io::Result<()> {
        self.domctl(cmd, domain, &mut [0; 16]).map(|_| ())
    }

    /// State of the domain with exactly this number, or `None`.
    pub fn domain_info(&self, domain: DomId) -> io::Result<Option<DomainInfo>> {
        Ok(self
            .domain_info_from(domain)?
            .filter(|info| info.domain == domain))
    }

    /// State of the first domain with at least this number, or `None`.
    pub fn domain_info_from(&self, domain: DomId) -> io::Result<Option<DomainInfo>> {
        let mut p = [0; 16];
        match self.domctl(cmd::GETDOMAININFO, domain, &mut p) {
            Err(error) if error.raw_os_error() == Some(3) => return Ok(None),
            other => other?,
        };
        let bytes: Vec<u8> = p.iter().flat_map(|word| word.to_le_bytes()).collect();
        let handle = bytes[76..92].try_into().expect("sixteen bytes");
        Ok(Some(DomainInfo {
            domain: p[0] as DomId,
            flags: (p[0] >> 32) as u32,
            tot_pages: p[1],
            max_pages: p[2],
            shared_info_frame: p[6],
            cpu_time: p[7],
            max_vcpu_id: (p[8] >> 32) as u32,
            handle,
        }))
    }

    /// Creates an empty 64-bit PV domain with one vCPU, 31 event channels and
    /// one grant frame. Returns its number.
    pub fn create_pv_domain(&self, handle: [u8; 16]) -> io::Result<DomId> {
        let mut p = createdomain(self.version, handle);
        // Number 0 asks for any free one.
        self.domctl(cmd::CREATEDOMAIN, 0, &mut p)
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
    /// Xen's errno; `NotFound` for a domain that is being destroyed.
    pub fn dirty_count(&self, domain: DomId) -> io::Result<u64> {
        // Of a domain that is being destroyed Xen says nothing, and that all
        // went well (xen/arch/x86/mm/paging.c, 4.17: paging_domctl).
        const UNSAID: u64 = u64::MAX;
        let mut p = [0; 16];
        p[0] = ShadowOp::Peek as u64;
        p[4] = UNSAID;
        self.domctl(cmd::SHADOW_OP, domain, &mut p)?;
        if p[4] == UNSAID {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the domain is being destroyed",
            ));
        }
        Ok(p[4] >> 32)
    }

    /// Copies the dirty bitmap of `pfns` frames to `offset` of `into`, another
    /// domain's pages, and clears the log. Returns how many are dirty.
    ///
    /// # Errors
    /// Xen's errno, or a log that covers fewer frames.
    ///
    /// # Panics
    /// When the bitmap does not fit: a bug of the caller.
    pub fn clean_dirty_log(
        &self,
        domain: DomId,
        (into, offset): (&ForeignPages, usize),
        pfns: u64,
        clean: Clean,
    ) -> io::Result<u64> {
        let bytes = pfns.div_ceil(8) as usize;
        self.clean_dirty_log_to(domain, into.address_of(offset, bytes), pfns, clean)
    }

    /// As [`Self::clean_dirty_log`], into memory of our own.
    ///
    /// # Errors
    /// Xen's errno, or a log that covers fewer frames.
    ///
    /// # Panics
    /// When the bitmap does not fit: a bug of the caller.
    pub fn clean_dirty_log_here(
        &self,
        domain: DomId,
        into: &mut HypercallBuffer<u64>,
        pfns: u64,
    ) -> io::Result<u64> {
        assert!(into.len() as u64 >= pfns.div_ceil(64), "bitmap too small");
        self.clean_dirty_log_to(domain, into.address(), pfns, Clean::Live)
    }

    fn clean_dirty_log_to(
        &self,
        domain: DomId,
        bitmap: u64,
        pfns: u64,
        clean: Clean,
    ) -> io::Result<u64> {
        let mode = match clean {
            Clean::Live => 0,
            Clean::Final => LOGDIRTY_FINAL,
        };
        let mut p = [0; 16];
        p[0] = u64::from(mode) << 32 | ShadowOp::Clean as u64;
        p[2] = bitmap;
        p[3] = pfns;
        self.domctl(cmd::SHADOW_OP, domain, &mut p)?;
        if p[3] != pfns {
            let text = format!("the dirty log covers {} of {pfns} frames", p[3]);
            return Err(io::Error::other(text));
        }
        Ok(p[4] >> 32)
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

/// `struct xen_domctl_createdomain`: ssidref, handle, flags, iommu_opts,
/// max_vcpus, max_evtchn_port, max_grant_frames, max_maptrack_frames,
/// grant_opts, since 4.19 altp2m_opts, vmtrace_size, cpupool_id, arch.
fn createdomain(version: Version, handle: [u8; 16]) -> [u64; 16] {
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
    if version.has_altp2m_opts {
        words.push(0);
    }
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
    use crate::xen::version::KNOWN;

    #[test]
    fn a_domain_is_asked_for_in_the_layout_of_its_xen() {
        let handle = [0xab; 16];
        for version in KNOWN {
            let words = createdomain(version, handle);
            let at = |n: usize| (words[n / 2] >> (32 * (n % 2))) as u32;
            assert_eq!(at(0), 0);
            assert_eq!(at(1), 0xabab_abab);
            assert_eq!([at(5), at(6), at(7), at(8)], [0, 0, 1, 31]);
            assert_eq!([at(9), at(10), at(11)], [1, 0, 1]);
            assert!((12..32).all(|n| at(n) == 0));
        }
    }
}
