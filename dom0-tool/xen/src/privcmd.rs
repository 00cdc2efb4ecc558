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

/// `struct privcmd_hypercall`.
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    args: [u64; 5],
}

const _: () = assert!(size_of::<PrivcmdHypercall>() == 48);

/// `IOCTL_PRIVCMD_HYPERCALL`
pub const HYPERCALL: Opcode =
    opcode::from_components(Direction::None, b'P', 0, size_of::<PrivcmdHypercall>());

/// Unlike most ioctls its return value is the answer.
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

/// The hypervisor: an open `/dev/xen/privcmd`, the version to speak, and a
/// page for small arguments.
pub struct Xen {
    device: File,
    /// What Xen this is.
    pub version: Version,
    scratch: RefCell<HypercallBuffer<u8>>,
}

impl Xen {
    /// Opens the device, of the hypervisor that runs here.
    ///
    /// # Errors
    /// An unknown version, or as for [`open`](Self::open).
    pub fn open_here() -> io::Result<Self> {
        Self::open(version::detect().map_err(io::Error::other)?)
    }

    /// Opens the device.
    ///
    /// # Errors
    /// What the kernel says: not a Xen host, no permission, no `xen_privcmd`
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

    /// Makes a hypercall; the answer is not negative. Results beyond 31 bits
    /// are cut by the ioctl: none of the calls made here has them (a gfn count
    /// would need a guest of 8 TiB).
    ///
    /// # Errors
    /// Xen's errno.
    ///
    /// # Safety
    /// The arguments are what the call wants, and every address among them
    /// points to memory that may be read and written as that call does.
    pub(super) unsafe fn hypercall(&self, op: u64, args: [u64; 5]) -> io::Result<u32> {
        let call = Hypercall(PrivcmdHypercall { op, args });
        // SAFETY: the caller's promise; `call` outlives the ioctl.
        let answer = unsafe { ioctl::ioctl(&self.device, call) }?;
        u32::try_from(answer).map_err(io::Error::other)
    }

    /// Makes a hypercall whose one structure is copied to memory Xen may
    /// write, and back. `place` says where among the arguments its address
    /// goes.
    ///
    /// # Safety
    /// As for [`Self::hypercall`], `argument` being the structure the call
    /// wants at `place`; it must be free of padding or its padding zeroed, and
    /// at most a page.
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
        // SAFETY: the scratch page is at least as large as T, page aligned,
        // and borrowed for us alone.
        unsafe { address.write(*argument) };
        // SAFETY: the caller's promise, and the scratch page is for Xen to use.
        let answer = unsafe { self.hypercall(op, args) };
        // SAFETY: written above, perhaps changed by Xen within the structure.
        *argument = unsafe { address.read() };
        answer
    }
}
