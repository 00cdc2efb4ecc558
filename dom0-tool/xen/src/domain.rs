//! Operations on domains: their state, their memory, their parameters, and resuming a
//! suspended one.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use lull_base::file_lock;

use super::buffer::HypercallBuffer;
use super::device_model::{Devices, MakeRun};
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

/// HVM parameters that show how a guest is stopped (`xen/include/public/hvm/params.h`, 4.17).
pub mod hvm_param {
    /// `HVM_PARAM_CALLBACK_IRQ`: set by PV drivers.
    pub const CALLBACK_IRQ: u32 = 0;
    /// `HVM_PARAM_ACPI_S_STATE`: not 0 while the guest sleeps.
    pub const ACPI_S_STATE: u32 = 14;
}

/// Whether a stopped guest waits for the result of a suspend call, given these parameters.
/// libxl stops a guest from outside that has no PV drivers or that sleeps
/// (`libxl_dom_suspend.c`, 4.17): its processors are in the middle of something else.
const fn awaits_result(callback_irq: u64, acpi_s_state: u64) -> bool {
    callback_irq != 0 && acpi_s_state == 0
}

/// `struct xen_memory_reservation` (`xen/include/public/memory.h`).
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

/// `struct xen_hvm_param` (`xen/include/public/hvm/hvm_op.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct HvmParam {
    domid: DomId,
    _pad: u16,
    index: u32,
    value: u64,
}

/// The state of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainState {
    /// The domain is on a CPU at this moment.
    pub running: bool,
    /// The domain waits for an event: it is alive but has nothing to do.
    pub blocked: bool,
    /// A toolstack has paused the domain.
    pub paused: bool,
    /// The reason of the domain's shutdown (`SHUTDOWN_*`), if it has shut down.
    pub shutdown: Option<u8>,
    /// The domain is destroyed, and exists only while another domain still holds its
    /// pages. The flag is not yet set while Xen is tearing the domain down
    /// ([`Xen::is_being_destroyed`]).
    pub dying: bool,
    /// The domain is HVM or PVH.
    pub hvm: bool,
    /// CPU time used so far, in nanoseconds.
    pub cpu_time_ns: u64,
}

impl DomainState {
    /// A guest that runs and has nothing to do. Tests derive from it the states that they need.
    pub const IDLE: Self = Self {
        running: false,
        blocked: true,
        paused: false,
        shutdown: None,
        dying: false,
        hvm: true,
        cpu_time_ns: 0,
    };

    /// Whether the domain has suspended itself, as for a migration, and is not being
    /// destroyed.
    pub fn is_suspended(&self) -> bool {
        self.shutdown == Some(dominf::REASON_SUSPEND) && !self.dying
    }

    /// Why the domain will never run again, as a verb phrase; `None` if it may.
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

/// The state of `domain`, or `None` if there is no such domain.
///
/// # Errors
/// Returns an error if Xen cannot be queried.
pub fn state(domain: DomId) -> io::Result<Option<DomainState>> {
    Xen::open_here()?.domain_state(domain)
}

impl Xen {
    /// The state of `domain`, or `None` if there is no such domain.
    pub fn domain_state(&self, domain: DomId) -> io::Result<Option<DomainState>> {
        Ok(self.domain_info(domain)?.map(DomainState::from))
    }

    /// Populates `domain` with `count` pages from pfn 0 on, and returns their machine
    /// frames.
    ///
    /// # Errors
    /// Returns Xen's errno, or out of memory if Xen could allocate fewer.
    pub fn populate(&self, domain: DomId, count: usize) -> io::Result<Vec<u64>> {
        let frames: Vec<u64> = (0..count as u64).collect();
        let extents = self.reservation(memory_op::POPULATE_PHYSMAP, domain, &frames)?;
        Ok(extents.to_vec())
    }

    /// Populates each of `frames` of `domain` with a page; none of them may have one
    /// yet.
    ///
    /// # Errors
    /// Returns Xen's errno, or out of memory if Xen could allocate fewer.
    pub fn populate_frames(&self, domain: DomId, frames: &[u64]) -> io::Result<()> {
        self.reservation(memory_op::POPULATE_PHYSMAP, domain, frames)
            .map(drop)
    }

    /// Removes the pages at `frames` from `domain`; each of them must have one.
    ///
    /// # Errors
    /// Returns Xen's errno, or out of memory if Xen released fewer.
    pub fn take_frames(&self, domain: DomId, frames: &[u64]) -> io::Result<()> {
        self.reservation(memory_op::DECREASE_RESERVATION, domain, frames)
            .map(drop)
    }

    /// Makes one of the two memory operations on a list of frames, one page each.
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
        // SAFETY: both operations take this structure as argument 1; the extents lie in
        // a hypercall buffer of `nr_extents` elements.
        let done = unsafe { self.hypercall_with(number::MEMORY_OP, args, 1, &mut request) }?;
        if (done as usize) < frames.len() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(extents)
    }

    /// The guest's highest frame number (`XENMEM_maximum_gpfn`).
    pub fn maximum_gpfn(&self, domain: DomId) -> io::Result<u64> {
        let mut domid = domain;
        let args = [memory_op::MAXIMUM_GPFN, 0, 0, 0, 0];
        // SAFETY: the op takes a domid_t as argument 1.
        let answer = unsafe { self.hypercall_with(number::MEMORY_OP, args, 1, &mut domid) };
        answer.map(u64::from)
    }

    /// Reads an HVM parameter of the domain.
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

    /// Resumes a guest that has suspended itself. Its suspend call returns 1, "cancelled",
    /// and the guest keeps its devices. Emulated ones are made to run first; the guest runs
    /// on in any case. A domain that is not suspended is never touched. Returns whether the
    /// guest was suspended.
    ///
    /// Not to be called while libxl may still stop QEMU: the guest would run without its
    /// emulated devices.
    pub fn resume_suspended(
        &self,
        domain: DomId,
        emulated: &mut dyn MakeRun,
    ) -> io::Result<Resumed> {
        let is_suspended = || -> io::Result<bool> {
            let state = self.domain_state(domain)?;
            Ok(state.is_some_and(|state| state.is_suspended()))
        };
        // QEMU first. This is harmless where another process resumes the guest meanwhile.
        if !is_suspended()? {
            return Ok(Resumed::WasNotSuspended);
        }
        let devices = emulated.make_run();
        one_at_a_time(Path::new(RESUMING), ANOTHERS_RESUME, is_suspended, || {
            self.rewrite_and_resume(domain, devices)
        })
        .map(|resumed| resumed.unwrap_or(Resumed::WasNotSuspended))
    }

    fn rewrite_and_resume(&self, domain: DomId, devices: Devices) -> io::Result<Resumed> {
        let callback = self.hvm_param(domain, hvm_param::CALLBACK_IRQ)?;
        let sleep = self.hvm_param(domain, hvm_param::ACPI_S_STATE)?;
        if awaits_result(callback, sleep) {
            const CANCELLED: u64 = 1;
            let mut context = HypercallBuffer::new(vcpu_context::BYTES)?;
            self.vcpu_context(domain, 0, &mut context)?;
            // Xen itself crashes on the next call for a domain whose vCPUs have been
            // torn down, and `dying` is set only at the end of that.
            if self.is_being_destroyed(domain) {
                return Ok(Resumed::WasNotSuspended);
            }
            context[vcpu_context::RAX..][..8].copy_from_slice(&CANCELLED.to_le_bytes());
            self.set_vcpu_context(domain, 0, &context)?;
        }
        self.resume_domain(domain)?;
        Ok(resumed(devices, || Xenstore::open()?.resume(domain)))
    }
}

/// The guest runs from now on, even if the call to xenstored fails. xenstored then still has
/// the domain as shut down.
fn resumed(devices: Devices, tell_xenstored: impl FnOnce() -> io::Result<()>) -> Resumed {
    let at = Instant::now();
    let known = tell_xenstored().is_ok();
    Resumed::Yes { at, devices, known }
}

/// What is wrong with a guest that was resumed without xenstored's knowledge, as a clause.
pub const UNKNOWN: &str =
    "xenstored could not be told, and will not report its next reboot or shutdown to xl or libvirt";

/// The folder that a lull process locks while it resumes a guest. Only root can open
/// it.
const RESUMING: &str = "/run/lull";

/// How long to wait for another process's resume, which is only a few calls. A process
/// that hangs in the middle of one delays others no longer than this.
const ANOTHERS_RESUME: Duration = Duration::from_millis(100);

/// Runs `resume` if the guest is suspended, while no other process does the same. Reading
/// the registers, writing them and resuming are separate calls: a second process must not
/// write the registers of a guest that already runs. `None` if the guest was not suspended.
fn one_at_a_time<T>(
    folder: &Path,
    patience: Duration,
    is_suspended: impl Fn() -> io::Result<bool>,
    resume: impl FnOnce() -> io::Result<T>,
) -> io::Result<Option<T>> {
    if !is_suspended()? {
        return Ok(None);
    }
    let _alone = alone(folder, patience);
    // Another process may have resumed the guest while this one waited for the lock.
    if !is_suspended()? {
        return Ok(None);
    }
    resume().map(Some)
}

/// Locks the folder and returns the lock; it is held until dropped. `None` if the folder
/// does not exist (then no other lull process can hold the lock either), or if another
/// process holds the lock for too long.
fn alone(folder: &Path, patience: Duration) -> Option<File> {
    let file = File::open(folder).ok()?;
    file_lock::lock(&file, patience).ok()?.then_some(file)
}

/// How long a guest may take from acknowledging a suspend request until it has stopped
/// or given up. Linux tries for 20 s to freeze its processes and for another 20 s to
/// freeze its own threads, and may be configured to try for longer
/// (`freeze_timeout_msecs` in kernel/power/process.c, 6.1).
pub const LAST_STEPS: Duration = Duration::from_secs(120);

/// How long a process that has other work waits for the guest to stop or give up, before
/// it leaves the rest to a guard.
pub const FIRST_STEPS: Duration = Duration::from_secs(10);

/// Shortest and longest interval between two checks whether the guest has stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// What became of a suspend request that is no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlived {
    /// The guest followed the request and was resumed.
    Resumed {
        /// When the guest was resumed.
        at: Instant,
        /// What its emulated devices do.
        devices: Devices,
        /// Whether xenstored knows that it runs; see [`UNKNOWN`].
        known: bool,
    },
    /// The guest will not suspend: the request was withdrawn, or the guest is gone.
    Over,
    /// The guest has acknowledged the request and may still stop.
    MayStillStop,
}

/// Ensures that `domain`, which a process that is now gone has asked to suspend, does
/// not stay suspended. For at most `longest`, either withdraws the request, or resumes
/// the guest once it has followed it. Returns what happened.
///
/// # Errors
/// Returns an error if Xen or xenstore cannot be queried.
pub fn wait_out_suspend(
    xen: &Xen,
    domain: DomId,
    emulated: &mut dyn MakeRun,
    longest: Duration,
) -> io::Result<Outlived> {
    let begun = Instant::now();
    loop {
        if let Resumed::Yes { at, devices, known } = xen.resume_suspended(domain, emulated)? {
            return Ok(Outlived::Resumed { at, devices, known });
        }
        // The request may still be on its way to xenstore, so finding none proves
        // nothing.
        if cancel_suspend_request(domain)? {
            return Ok(Outlived::Over);
        }
        if xen.domain_state(domain)?.is_none_or(|state| state.dying) {
            return Ok(Outlived::Over);
        }
        let waited = begun.elapsed();
        if waited >= longest {
            return Ok(Outlived::MayStillStop);
        }
        // Poll often at first, because a guest usually stops soon after the request.
        std::thread::sleep((waited / 20).clamp(POLL_INTERVAL, POLL_INTERVAL_MAX));
    }
}

/// Asks a guest with PV drivers to suspend itself, as libxl does (`libxl_dom_suspend.c`, 4.17).
/// Unlike libxl with an HVM guest without PV drivers, it never stops the guest from
/// outside: drivers that reconnect after the suspend would wait for ever.
///
/// # Errors
/// Returns an error if xenstore does not answer.
pub fn ask_to_suspend(domain: DomId) -> io::Result<()> {
    Xenstore::open()?.write(&shutdown_request(domain), "suspend")
}

/// Withdraws a suspend request that `domain` has not acknowledged, and returns whether
/// it did. The guest will follow a request that it has acknowledged.
///
/// # Errors
/// Returns an error if xenstore does not answer.
pub fn cancel_suspend_request(domain: DomId) -> io::Result<bool> {
    Xenstore::open()?.replace(&shutdown_request(domain), "suspend", "")
}

/// Acknowledges any shutdown request to `domain`, on behalf of a guest without a driver
/// that would do so. Returns whether there was one.
///
/// # Errors
/// Returns an error if xenstore does not answer.
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
    /// The guest was suspended and now runs.
    Yes {
        /// When the guest was resumed.
        at: Instant,
        /// What its emulated devices do.
        devices: Devices,
        /// Whether xenstored knows that it runs; see [`UNKNOWN`].
        known: bool,
    },
    /// The guest was not suspended.
    WasNotSuspended,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::thread;

    use super::*;

    /// A register of another guest's would be overwritten.
    #[test]
    fn only_a_guest_that_has_suspended_itself_gets_a_result() {
        assert!(awaits_result(1 << 56, 0));
        assert!(!awaits_result(0, 0), "no PV drivers");
        assert!(!awaits_result(1 << 56, 3), "it sleeps");
    }

    /// The guest must not be said to be suspended, nor its pause go unreported.
    #[test]
    fn a_guest_that_runs_is_resumed_whatever_xenstored_says() {
        for answers in [true, false] {
            let tell = || match answers {
                true => Ok(()),
                false => Err(io::ErrorKind::TimedOut.into()),
            };
            let Resumed::Yes { devices, known, .. } = resumed(Devices::Run, tell) else {
                panic!("it was resumed");
            };
            assert_eq!((devices, known), (Devices::Run, answers));
        }
    }

    /// Engine, transport, guard and front end may all find the guest suspended at the same
    /// moment.
    #[test]
    fn of_several_that_resume_a_guest_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let suspended = AtomicBool::new(true);
        let (looking, rewritten) = (AtomicU32::new(0), AtomicU32::new(0));
        let resume = || {
            one_at_a_time(
                folder.path(),
                Duration::from_secs(60),
                || {
                    looking.fetch_add(1, Ordering::SeqCst);
                    Ok(suspended.load(Ordering::SeqCst))
                },
                || {
                    // All of them have seen the suspended guest by now.
                    while looking.load(Ordering::SeqCst) < 4 {
                        thread::yield_now();
                    }
                    rewritten.fetch_add(1, Ordering::SeqCst);
                    suspended.store(false, Ordering::SeqCst);
                    Ok(())
                },
            )
        };
        let resumed = thread::scope(|scope| {
            let all = [(); 3].map(|()| scope.spawn(resume));
            all.map(|one| one.join().unwrap().unwrap())
        });
        assert_eq!(rewritten.into_inner(), 1);
        assert_eq!(resumed.iter().flatten().count(), 1);
    }

    /// A process that hangs in the middle of its resume must not keep the guest stopped.
    #[test]
    fn a_resume_that_hangs_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let hung = alone(folder.path(), Duration::ZERO);
        assert!(hung.is_some());
        let brief = Duration::from_millis(10);
        let resumed = one_at_a_time(folder.path(), brief, || Ok(true), || Ok(()));
        assert!(resumed.unwrap().is_some());
        let nowhere = folder.path().join("nowhere");
        let resumed = one_at_a_time(&nowhere, brief, || Ok(true), || Ok(()));
        assert!(resumed.unwrap().is_some());
    }
}
