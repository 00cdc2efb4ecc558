//! `/dev/xen/privcmd`: hypercalls from user space (`linux/include/uapi/xen/privcmd.h`).

use std::cell::RefCell;
use std::ffi::c_void;
use std::fs::File;
use std::io;

use rustix::ioctl::{self, Direction, Ioctl, IoctlOutput, Opcode, opcode};

use super::buffer::HypercallBuffer;
use super::version::{self, Version};

/// Hypercall numbers (`xen/include/public/xen.h`, 4.17).
pub mod number {
    /// `__HYPERVISOR_mmu_update`
    pub const MMU_UPDATE: u64 = 1;
    /// `__HYPERVISOR_memory_op`
    pub const MEMORY_OP: u64 = 12;
    /// `__HYPERVISOR_xen_version`
    pub const XEN_VERSION: u64 = 17;
    /// `__HYPERVISOR_event_channel_op`
    pub const EVENT_CHANNEL_OP: u64 = 32;
    /// `__HYPERVISOR_hvm_op`
    pub const HVM_OP: u64 = 34;
    /// `__HYPERVISOR_sysctl`
    pub const SYSCTL: u64 = 35;
    /// `__HYPERVISOR_domctl`
    pub const DOMCTL: u64 = 36;
}

/// `struct privcmd_hypercall`: a hypercall number and its arguments.
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    args: [u64; 5],
}

const _: () = assert!(size_of::<PrivcmdHypercall>() == 48);

/// `IOCTL_PRIVCMD_HYPERCALL`
pub const HYPERCALL: Opcode =
    opcode::from_components(Direction::None, b'P', 0, size_of::<PrivcmdHypercall>());

/// The hypercall ioctl. Unlike for most ioctls, its return value is the result.
struct Hypercall(PrivcmdHypercall);

// SAFETY: the opcode belongs to the structure that `as_ptr` points to; the
// output is the return value alone.
unsafe impl Ioctl for Hypercall {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        HYPERCALL
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// A handle for the hypervisor: an open `/dev/xen/privcmd`, the interface version to
/// use, and a page for small arguments.
pub struct Xen {
    device: File,
    /// The version of the running Xen.
    pub version: Version,
    scratch: RefCell<HypercallBuffer<u8>>,
}

impl Xen {
    /// Opens the device and detects the version of the running hypervisor.
    ///
    /// # Errors
    /// Returns an error for an unknown version, and as for [`open`](Self::open).
    pub fn open_here() -> io::Result<Self> {
        Self::open(version::detect().map_err(io::Error::other)?)
    }

    /// Opens the device, for a known version of Xen.
    ///
    /// # Errors
    /// Returns the kernel's error: not a Xen host, no permission, no `xen_privcmd`
    /// module.
    pub fn open(version: Version) -> io::Result<Self> {
        Ok(Self {
            device: File::options()
                .read(true)
                .write(true)
                .open("/dev/xen/privcmd")?,
            version,
            scratch: RefCell::new(HypercallBuffer::new(super::PAGE)?),
        })
    }

    /// The device, for its other ioctls.
    pub(super) fn device(&self) -> &File {
        &self.device
    }

    /// Makes a hypercall and returns its non-negative result. The ioctl truncates
    /// results beyond 31 bits, which none of the calls made here returns (a gfn count
    /// would need a guest of 8 TiB).
    ///
    /// # Errors
    /// Returns Xen's errno.
    ///
    /// # Safety
    /// The arguments must be valid for the call. Every address among them must point to
    /// memory that may be read and written in the way that the call does.
    pub(super) unsafe fn hypercall(&self, op: u64, args: [u64; 5]) -> io::Result<u32> {
        let call = Hypercall(PrivcmdHypercall { op, args });
        // SAFETY: the caller upholds the contract; `call` outlives the ioctl.
        let answer = unsafe { ioctl::ioctl(&self.device, call) }?;
        u32::try_from(answer).map_err(io::Error::other)
    }

    /// Makes a hypercall with one structure, which is copied to memory that Xen may
    /// write, and back afterwards. `place` is the index of the argument that takes its
    /// address.
    ///
    /// # Safety
    /// As for [`Self::hypercall`]. `argument` must be the structure that the call
    /// expects at `place`. It must have no padding, or zeroed padding, and be at most a
    /// page.
    pub(super) unsafe fn hypercall_with<T: Copy>(
        &self,
        op: u64,
        mut args: [u64; 5],
        place: usize,
        argument: &mut T,
    ) -> io::Result<u32> {
        const { assert!(size_of::<T>() <= super::PAGE) };
        let scratch = self.scratch.borrow_mut();
        let address = scratch.address() as *mut T;
        args[place] = scratch.address();
        // SAFETY: the scratch page is at least as large as T and page aligned, and
        // nothing else uses it while it is borrowed.
        unsafe { address.write(*argument) };
        // SAFETY: the caller upholds the contract, and Xen may use the scratch page.
        let answer = unsafe { self.hypercall(op, args) };
        // SAFETY: the structure was written above; Xen may have changed it, but only
        // within its bounds.
        *argument = unsafe { address.read() };
        answer
    }
}
