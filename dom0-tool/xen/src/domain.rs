//! Domains: how they fare, their memory, their parameters, and how a
//! suspended one is made to run on.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use lull_base::file_lock;

use super::buffer::HypercallBuffer;
use super::domctl::{DomainInfo, dominf, vcpu_context};
use super::privcmd::{Xen, number};
use super::{DomId, xenstore::Xenstore};

/// `XENMEM_decrease_reservation`, `XENMEM_populate_physmap` and
/// `XENMEM_maximum_gpfn` (`xen/include/public/memory.h`, 4.17).
mod memory_op {
    pub const DECREASE_RESERVATION: u64 = 1;
    pub const POPULATE_PHYSMAP: u64 = 6;
    pub const MAXIMUM_GPFN: u64 = 14;
}

/// `HVMOP_get_param` (`xen/include/public/hvm/hvm_op.h`, 4.17).
const HVMOP_GET_PARAM: u64 = 1;

/// `HVM_PARAM_CALLBACK_IRQ` (`xen/include/public/hvm/params.h`, 4.17).
const HVM_PARAM_CALLBACK_IRQ: u32 = 0;

/// `struct xen_memory_reservation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryReservation {
    extent_start: u64,
    nr_extents: u64,
    extent_order: u32,
    mem_flags: u32,
    domid: DomId,
    _pad: [u16; 3],
}

const _: () = assert!(size_of::<MemoryReservation>() == 32);

/// `struct xen_hvm_param`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HvmParam {
    domid: DomId,
    _pad: u16,
    index: u32,
    value: u64,
}

/// How a domain fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainState {
    /// On a CPU at this moment.
    pub running: bool,
    /// Waits for an event: alive, with nothing to do.
    pub blocked: bool,
    /// Paused by a toolstack.
    pub paused: bool,
    /// Why it has shut down (`SHUTDOWN_*`), if it has.
    pub shutdown: Option<u8>,
    /// Destroyed, and there only while somebody holds its pages. Before, while Xen
    /// tears it down, it does not show ([`Xen::is_being_destroyed`]).
    pub dying: bool,
    /// HVM or PVH.
    pub hvm: bool,
    /// CPU time used so far, nanoseconds.
    pub cpu_time_ns: u64,
}

impl DomainState {
    /// Suspended by its own hand, as for a migration, and not being destroyed.
    pub fn is_suspended(&self) -> bool {
        self.shutdown == Some(dominf::REASON_SUSPEND) && !self.dying
    }

    /// Why it will never run again, if so: a verb phrase.
    pub fn death(&self) -> Option<String> {
        if self.dying {
            return Some("is being destroyed".to_owned());
        }
        // `SHUTDOWN_*` of `xen/include/public/sched.h`, 4.17.
        match self.shutdown? {
            dominf::REASON_SUSPEND => None,
            0 => Some("has shut down".to_owned()),
            1 => Some("has shut down to reboot".to_owned()),
            3 => Some("has crashed".to_owned()),
            reason => Some(format!("has shut down (reason {reason})")),
        }
    }
}

impl From<DomainInfo> for DomainState {
    fn from(info: DomainInfo) -> Self {
        let has = |flag| info.flags & flag != 0;
        Self {
            running: has(dominf::RUNNING),
            blocked: has(dominf::BLOCKED),
            paused: has(dominf::PAUSED),
            shutdown: has(dominf::SHUTDOWN).then_some((info.flags >> 16) as u8),
            dying: has(dominf::DYING),
            hvm: has(dominf::HVM_GUEST),
            cpu_time_ns: info.cpu_time,
        }
    }
}

/// How `domain` fares, or `None` when there is no such domain.
///
/// # Errors
/// When Xen cannot be asked.
pub fn state(domain: DomId) -> io::Result<Option<DomainState>> {
    Xen::open_here()?.domain_state(domain)
}

impl Xen {
    /// How `domain` fares, or `None` when there is no such domain.
    pub fn domain_state(&self, domain: DomId) -> io::Result<Option<DomainState>> {
        Ok(self.domain_info(domain)?.map(DomainState::from))
    }

    /// Gives `domain` `count` pages at pfn 0 and up; returns their machine
    /// frames.
    ///
    /// # Errors
    /// Xen's errno, or out of memory when it had fewer.
    pub fn populate(&self, domain: DomId, count: usize) -> io::Result<Vec<u64>> {
        let frames: Vec<u64> = (0..count as u64).collect();
        let extents = self.reservation(memory_op::POPULATE_PHYSMAP, domain, &frames)?;
        Ok(extents.to_vec())
    }

    /// Gives `domain` a page at each of `frames`, none of which has one.
    ///
    /// # Errors
    /// Xen's errno, or out of memory when it had fewer.
    pub fn populate_frames(&self, domain: DomId, frames: &[u64]) -> io::Result<()> {
        self.reservation(memory_op::POPULATE_PHYSMAP, domain, frames)
            .map(drop)
    }

    /// Takes the pages at `frames` away from `domain`; each has one.
    ///
    /// # Errors
    /// Xen's errno, or out of memory when it let go of fewer.
    pub fn take_frames(&self, domain: DomId, frames: &[u64]) -> io::Result<()> {
        self.reservation(memory_op::DECREASE_RESERVATION, domain, frames)
            .map(drop)
    }

    /// One of the two operations that take a list of frames, a page each.
    fn reservation(
        &self,
        op: u64,
        domain: DomId,
        frames: &[u64],
    ) -> io::Result<HypercallBuffer<u64>> {
        let mut extents = HypercallBuffer::<u64>::new(frames.len())?;
        extents.copy_from_slice(frames);
        let mut request = MemoryReservation {
            extent_start: extents.address(),
            nr_extents: frames.len() as u64,
            extent_order: 0,
            mem_flags: 0,
            domid: domain,
            _pad: [0; 3],
        };
        let args = [op, 0, 0, 0, 0];
        // SAFETY: both ops take this structure as argument 1; the extents lie
        // in a hypercall buffer of `nr_extents` elements.
        let done = unsafe { self.hypercall_with(number::MEMORY_OP, args, 1, &mut request) }?;
        if (done as usize) < frames.len() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(extents)
    }

    /// The guest's highest frame number.
    pub fn maximum_gpfn(&self, domain: DomId) -> io::Result<u64> {
        let mut domid = domain;
        let args = [memory_op::MAXIMUM_GPFN, 0, 0, 0, 0];
        // SAFETY: the op takes a domid_t as argument 1.
        let answer = unsafe { self.hypercall_with(number::MEMORY_OP, args, 1, &mut domid) };
        answer.map(u64::from)
    }

    /// An HVM parameter of the domain.
    pub fn hvm_param(&self, domain: DomId, index: u32) -> io::Result<u64> {
        let mut param = HvmParam {
            domid: domain,
            _pad: 0,
            index,
            value: 0,
        };
        let args = [HVMOP_GET_PARAM, 0, 0, 0, 0];
        // SAFETY: the op takes this structure as argument 1.
        unsafe { self.hypercall_with(number::HVM_OP, args, 1, &mut param) }?;
        Ok(param.value)
    }

    /// Makes a PVH guest that has suspended itself run on where it was: its
    /// suspend returns 1, "cancelled", so it keeps its devices. Never touches
    /// a domain that is not suspended. Says whether it was.
    pub fn resume_suspended(&self, domain: DomId) -> io::Result<Resumed> {
        let is_suspended = || -> io::Result<bool> {
            let state = self.domain_state(domain)?;
            Ok(state.is_some_and(|state| state.is_suspended()))
        };
        if !is_suspended()? {
            return Ok(Resumed::WasNotSuspended);
        }
        // Reading and writing registers and the resume itself are calls of their own:
        // a second who resumes must not write those of a guest that runs.
        let _alone = alone();
        if !is_suspended()? {
            return Ok(Resumed::WasNotSuspended);
        }
        // Without a callback there is no PV driver that looks at the result.
        if self.hvm_param(domain, HVM_PARAM_CALLBACK_IRQ)? != 0 {
            const CANCELLED: u64 = 1;
            let mut context = HypercallBuffer::new(vcpu_context::BYTES)?;
            self.vcpu_context(domain, 0, &mut context)?;
            // Xen itself crashes on the next call for a domain whose vCPUs have
            // been torn down, and `dying` shows only the end of that.
            if self.is_being_destroyed(domain) {
                return Ok(Resumed::WasNotSuspended);
            }
            context[vcpu_context::RAX..][..8].copy_from_slice(&CANCELLED.to_le_bytes());
            self.set_vcpu_context(domain, 0, &context)?;
        }
        self.resume_domain(domain)?;
        let at = Instant::now();
        // xenstored keeps a note that the domain has shut down; without this
        // it would not tell anybody of the next time.
        Xenstore::open().and_then(|mut store| store.resume(domain))?;
        Ok(Resumed::Yes { at })
    }
}

/// Locked by whoever of lull's resumes a guest: a folder that only root can open.
const RESUMING: &str = "/run/lull";

/// A resume is a few calls. One that was stopped in the middle holds nobody up for
/// longer.
const ANOTHERS_RESUME: Duration = Duration::from_millis(100);

/// A lock, while it is held; none where there is no such folder, and then nobody else
/// of lull's either.
fn alone() -> Option<File> {
    let file = File::open(RESUMING).ok()?;
    file_lock::lock(&file, ANOTHERS_RESUME)
        .ok()?
        .then_some(file)
}

/// How long a guest may take from its acknowledgement of a request to suspend
/// until it has stopped, or given up: Linux tries for 20 s to freeze its processes,
/// as long again to freeze its own threads, and may be set to try for longer
/// (`freeze_timeout_msecs` in kernel/power/process.c, 6.1).
pub const LAST_STEPS: Duration = Duration::from_secs(120);

/// Whoever has something else to do leaves the rest of that to a guard after so long.
pub const FIRST_STEPS: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// What became of a request to suspend that is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlived {
    /// The guest followed it, and was made to run again.
    Resumed {
        /// Since then.
        at: Instant,
    },
    /// It will not: the request is taken back, or the guest is gone.
    Over,
    /// The guest has acknowledged it, and may still stop.
    MayStillStop,
}

/// Makes sure for so long that `domain`, which somebody who is gone has asked to
/// suspend, does not stop for ever: the request is taken back, or the guest resumed
/// once it has followed it. Says what was found.
///
/// # Errors
/// When Xen or xenstore cannot be asked.
pub fn outlive_suspend(xen: &Xen, domain: DomId, longest: Duration) -> io::Result<Outlived> {
    let begun = Instant::now();
    loop {
        if let Resumed::Yes { at } = xen.resume_suspended(domain)? {
            return Ok(Outlived::Resumed { at });
        }
        // The order may still be on its way to xenstore, so nothing found there
        // says nothing.
        if withdraw_suspend(domain)? {
            return Ok(Outlived::Over);
        }
        if xen.domain_state(domain)?.is_none_or(|state| state.dying) {
            return Ok(Outlived::Over);
        }
        let waited = begun.elapsed();
        if waited >= longest {
            return Ok(Outlived::MayStillStop);
        }
        // Soon after the request it stops soon.
        std::thread::sleep((waited / 20).clamp(LOOK, LOOK_MAX));
    }
}

/// Asks a PVH guest to suspend itself, as libxl does (`libxl_dom_suspend.c`, 4.17).
/// Never stops it as it stands, as libxl does an HVM guest without PV drivers: what
/// connects again after its suspend would wait for ever.
///
/// # Errors
/// When xenstore does not answer.
pub fn ask_to_suspend(domain: DomId) -> io::Result<()> {
    Xenstore::open()?.write(&shutdown_request(domain), "suspend")
}

/// Takes back a request to suspend that `domain` has not acknowledged; says
/// whether it did. One that was acknowledged will be followed.
///
/// # Errors
/// When xenstore does not answer.
pub fn withdraw_suspend(domain: DomId) -> io::Result<bool> {
    Xenstore::open()?.replace(&shutdown_request(domain), "suspend", "")
}

/// Acknowledges whatever `domain`, which has no driver that would, is told in the way of
/// shutting down; says whether it was.
///
/// # Errors
/// When xenstore does not answer.
pub fn acknowledge_shutdown(domain: DomId) -> io::Result<bool> {
    let mut store = Xenstore::open()?;
    let path = shutdown_request(domain);
    match store.read(&path)? {
        Some(request) if !request.is_empty() => store.write(&path, "").map(|()| true),
        _ => Ok(false),
    }
}

fn shutdown_request(domain: DomId) -> String {
    format!("/local/domain/{domain}/control/shutdown")
}

/// What [`Xen::resume_suspended`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// The guest was suspended and runs.
    Yes {
        /// Since then.
        at: Instant,
    },
    /// It had nothing to be resumed from.
    WasNotSuspended,
}
