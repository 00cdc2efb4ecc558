//! Access to frames of other domains through /dev/xen/privcmd. This is the only unsafe code
//! of the rig. Layouts are from Xen's public headers (4.17: memory.h, grant_table.h) and
//! Linux's include/uapi/xen/privcmd.h.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use anyhow::{Context, Result, bail, ensure};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The size of a frame in bytes.
pub const FRAME: usize = 4096;

const MEMORY_OP: u64 = 12;
const CURRENT_RESERVATION: u64 = 3;
const MAXIMUM_GPFN: u64 = 14;

/// The hypercall number `__HYPERVISOR_grant_table_op` (grant_table.h).
const GRANT_TABLE_OP: u64 = 20;
const QUERY_SIZE: u64 = 6;

/// The argument of the hypercall: `gnttab_query_size`.
#[repr(C)]
struct GrantTableSize {
    domain: u16,
    frames: u32,
    most_frames: u32,
    status: i16,
}

/// The hypercall number `__HYPERVISOR_domctl`, and some of its commands.
const DOMCTL: u64 = 36;
const SHADOW_OP: u64 = 10;
const PAUSE: u64 = 3;
const UNPAUSE: u64 = 4;
const GETDOMAININFO: u64 = 5;
const MAX_MEM: u64 = 11;
const SETVCPUCONTEXT: u64 = 12;
const GETVCPUCONTEXT: u64 = 13;
const RESUMEDOMAIN: u64 = 27;

/// The offset of a register in `struct vcpu_guest_context`: a member of `user_regs`, or
/// `ctrlreg[3]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Register {
    Rax = 600,
    Rip = 648,
    Cr3 = 5008,
}

/// Returns the `XEN_DOMCTL_INTERFACE_VERSION` of the release that runs; the rig boots
/// several.
fn domctl_version() -> Result<u64> {
    let minor = std::fs::read_to_string("/sys/hypervisor/version/minor")?;
    match minor.trim() {
        "17" => Ok(0x15),
        "20" => Ok(0x17),
        other => bail!("Xen 4.{other} is not one of the rig's"),
    }
}

/// The flags of `struct xen_domctl_getdomaininfo`, which starts at byte 16 of the request,
/// with the reason of a shutdown in the bits above them: `XEN_DOMINF_shutdown`,
/// `SHUTDOWN_suspend`.
const SHUTDOWN: u32 = 1 << 2;
const SUSPENDED: u32 = 2;

/// The argument of the ioctl: `privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arguments: [u64; 5],
}

/// The argument of the ioctl: `privcmd_mmapbatch_v2`.
#[repr(C)]
struct MapBatch {
    count: u32,
    domain: u16,
    pad: u16,
    address: u64,
    frames: *const u64,
    errors: *mut i32,
}

/// Access to other domains' memory.
pub struct Privcmd {
    file: File,
    /// A page that stays at its address while the hypervisor reads it.
    buffer: Mapping,
}

impl Privcmd {
    /// Opens the devices, which only root in dom0 may do.
    pub fn open() -> Result<Self> {
        let file = open("/dev/xen/privcmd")?;
        let buffer = Mapping::new(&open("/dev/xen/hypercall")?, FRAME)?;
        Ok(Self { file, buffer })
    }

    /// # Safety
    /// The memory that the arguments point to must be valid to read and write.
    unsafe fn hypercall(&self, op: u64, arguments: [u64; 5]) -> rustix::io::Result<i32> {
        let mut call = Hypercall { op, arguments };
        let request = Request::<{ opcode::none(b'P', 0).wrapping_add(48 << 16) }, _>(&mut call);
        // SAFETY: the number stands for privcmd's hypercall ioctl, whose argument is this
        // structure; the caller guarantees that its pointers are valid.
        unsafe { ioctl(&self.file, request) }
    }

    /// Returns the highest guest frame number in use.
    pub fn maximum_gpfn(&self, domain: u16) -> Result<u64> {
        self.about_memory(domain, MAXIMUM_GPFN, "maximum_gpfn")
    }

    /// Returns the number of pages that a domain has. Pages of Xen's in its frames, those of
    /// the grant table for one, are not among them.
    pub fn pages(&self, domain: u16) -> Result<u64> {
        self.about_memory(domain, CURRENT_RESERVATION, "current_reservation")
    }

    fn about_memory(&self, domain: u16, question: u64, name: &str) -> Result<u64> {
        let place = self.buffer.start.as_ptr().cast::<u16>();
        // SAFETY: the buffer is one page of this process that nothing else uses, and it is
        // aligned for any integer.
        unsafe { place.write(domain) };
        let arguments = [question, place as u64, 0, 0, 0];
        // SAFETY: the hypervisor reads two bytes of the buffer and writes
        // nothing.
        let answer = unsafe { self.hypercall(MEMORY_OP, arguments) };
        let answer = answer.with_context(|| format!("domain {domain}: {name}"))?;
        u64::try_from(answer).with_context(|| format!("{name} is negative"))
    }

    /// Returns the number of frames of a domain's grant table.
    pub fn grant_frames(&self, domain: u16) -> Result<u32> {
        let place = self.buffer.start.as_ptr().cast::<GrantTableSize>();
        let asked = GrantTableSize {
            domain,
            frames: 0,
            most_frames: 0,
            status: 0,
        };
        // SAFETY: as in `about_memory`.
        unsafe { place.write(asked) };
        let arguments = [QUERY_SIZE, place as u64, 1, 0, 0];
        // SAFETY: the hypervisor writes no more than the one structure.
        unsafe { self.hypercall(GRANT_TABLE_OP, arguments) }
            .with_context(|| format!("domain {domain}: grant table"))?;
        // SAFETY: the structure was written above, and by the hypervisor, which is done
        // with it.
        let answer = unsafe { place.read() };
        ensure!(
            answer.status == 0,
            "domain {domain}: grant table: {}",
            answer.status
        );
        Ok(answer.frames)
    }

    /// Sets the instruction pointer of the first vCPU of a PV domain to `address`.
    pub fn set_instruction_pointer(&self, domain: u16, address: u64) -> Result<()> {
        self.exchange(domain, Register::Rip, Some(address))
            .map(drop)
    }

    /// Resumes a PVH guest that has suspended itself, as a toolstack does: its suspend call
    /// returns 1.
    pub fn resume(&self, domain: u16) -> Result<()> {
        self.exchange(domain, Register::Rax, Some(1))?;
        self.domctl(&self.buffer, RESUMEDOMAIN, domain, [0, 0])
    }

    /// Returns a register of the domain's first vCPU, and sets it to `new` if that is given.
    pub fn exchange(&self, domain: u16, register: Register, new: Option<u64>) -> Result<u64> {
        let pages = Mapping::new(&open("/dev/xen/hypercall")?, 3 * FRAME)?;
        let request = pages.start.as_ptr().cast::<u64>();
        let context = request.wrapping_add(FRAME / size_of::<u64>());
        // The words are the vCPU's number and the address of its context, 5,168 bytes, which
        // lies in the other two pages.
        let words = [0, context as u64];
        self.domctl(&pages, GETVCPUCONTEXT, domain, words)?;
        let place = context.wrapping_add(register as usize / size_of::<u64>());
        // SAFETY: the register lies within the context, which nothing else uses.
        let old = unsafe { place.read() };
        if let Some(new) = new {
            // SAFETY: as above.
            unsafe { place.write(new) };
            self.domctl(&pages, SETVCPUCONTEXT, domain, words)?;
        }
        Ok(old)
    }

    /// Checks whether the domain has suspended itself.
    pub fn has_suspended(&self, domain: u16) -> Result<bool> {
        self.domctl(&self.buffer, GETDOMAININFO, domain, [0, 0])?;
        let words = self.buffer.start.as_ptr().cast::<u32>();
        // SAFETY: the flags are the sixth word of the request.
        let flags = unsafe { words.wrapping_add(5).read() };
        Ok(flags & SHUTDOWN != 0 && flags >> 16 == SUSPENDED)
    }

    /// Limits the domain to the memory that it has, plus at most 1 KiB.
    pub fn squeeze(&self, domain: u16) -> Result<()> {
        self.domctl(&self.buffer, MAX_MEM, domain, [1, 0])
    }

    /// Switches the domain's dirty log off and on, as a stock sender does when it begins
    /// (`XEN_DOMCTL_SHADOW_OP_OFF`, `_ENABLE_LOGDIRTY`).
    pub fn reset_log(&self, domain: u16) -> Result<()> {
        for operation in [0, 2] {
            self.domctl(&self.buffer, SHADOW_OP, domain, [operation, 0])?;
        }
        Ok(())
    }

    /// Pauses the domain's processors until [`unpause`](Self::unpause).
    pub fn pause(&self, domain: u16) -> Result<()> {
        self.domctl(&self.buffer, PAUSE, domain, [0, 0])
    }

    /// Lets the domain's processors run again.
    pub fn unpause(&self, domain: u16) -> Result<()> {
        self.domctl(&self.buffer, UNPAUSE, domain, [0, 0])
    }

    /// Runs one domctl on a domain. The command's own part of the request begins with
    /// `words`; the answer is in `pages`.
    fn domctl(&self, pages: &Mapping, command: u64, domain: u16, words: [u64; 2]) -> Result<()> {
        let request = pages.start.as_ptr().cast::<u64>();
        // The request is a struct xen_domctl: command and version, domain, then the
        // command's part.
        let head = [domctl_version()? << 32 | command, u64::from(domain)];
        for (place, word) in head.into_iter().chain(words).enumerate() {
            // SAFETY: the word lies within the first page, which nothing else uses.
            unsafe { request.wrapping_add(place).write(word) };
        }
        // SAFETY: the hypervisor reads and writes the request, less than a
        // page, and what the caller's words point to.
        unsafe { self.hypercall(DOMCTL, [request as u64, 0, 0, 0, 0]) }
            .with_context(|| format!("domain {domain}: domctl {command}"))?;
        Ok(())
    }

    /// Maps frames of a domain for reading. A frame that the domain does not have gives an
    /// error for this frame, and not for the call.
    pub fn map(&self, domain: u16, frames: &[u64]) -> Result<Frames> {
        self.map_for(ProtFlags::READ, domain, frames)
    }

    /// Replaces the beginning of a frame, which must be neither a page table nor missing.
    pub fn overwrite(&self, domain: u16, frame: u64, bytes: &[u8]) -> Result<()> {
        ensure!(bytes.len() <= FRAME, "more than a frame");
        let frames = self.map_for(ProtFlags::READ | ProtFlags::WRITE, domain, &[frame])?;
        ensure!(frames.get(0).is_some(), "domain {domain} has no {frame:#x}");
        let start = frames.mapping.start.as_ptr().cast::<u8>();
        // SAFETY: the frame is mapped for writing, and the bytes fit.
        unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn map_for(&self, protection: ProtFlags, domain: u16, frames: &[u64]) -> Result<Frames> {
        let mapping = Mapping::with(protection, &self.file, frames.len() * FRAME)?;
        let mut errors = vec![0_i32; frames.len()];
        let mut batch = MapBatch {
            count: u32::try_from(frames.len())?,
            domain,
            pad: 0,
            address: mapping.start.as_ptr() as u64,
            frames: frames.as_ptr(),
            errors: errors.as_mut_ptr(),
        };
        let request = Request::<{ opcode::none(b'P', 4).wrapping_add(32 << 16) }, _>(&mut batch);
        // SAFETY: the number stands for privcmd's mmapbatch_v2, whose argument
        // is this structure; both arrays hold `count` entries and the mapping
        // is as many frames long.
        match unsafe { ioctl(&self.file, request) } {
            // ENOENT only means that at least one entry of `errors` is ENOENT.
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => bail!("domain {domain}: cannot map frames: {error}"),
        }
        Ok(Frames { mapping, errors })
    }
}

/// Mapped frames, in the order in which they were requested.
pub struct Frames {
    mapping: Mapping,
    errors: Vec<i32>,
}

impl Frames {
    /// Returns the bytes of one frame; `None` if the domain does not have it.
    ///
    /// The domain must not run while the bytes are read.
    pub fn get(&self, position: usize) -> Option<&[u8]> {
        if *self.errors.get(position)? != 0 {
            return None;
        }
        // SAFETY: position < errors.len(), and the mapping has one frame for
        // each entry of it.
        let start = unsafe {
            self.mapping
                .start
                .as_ptr()
                .cast::<u8>()
                .add(position * FRAME)
        };
        // SAFETY: the frame is mapped (its error is zero) for as long as the
        // mapping lives, which outlives the slice.
        Some(unsafe { std::slice::from_raw_parts(start, FRAME) })
    }
}

/// A mapped range, unmapped when dropped.
struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

impl Mapping {
    fn new(file: &File, length: usize) -> Result<Self> {
        Self::with(ProtFlags::READ | ProtFlags::WRITE, file, length)
    }

    fn with(protection: ProtFlags, file: &File, length: usize) -> Result<Self> {
        // SAFETY: the kernel chooses the address; no existing mapping is replaced.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        let start = start.with_context(|| format!("mmap of fd {}", file.as_raw_fd()))?;
        let start = NonNull::new(start).context("mmap at zero")?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new`, and every slice into it
        // borrows its owner.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {path}"))
}

/// An ioctl of privcmd, which returns the result of the call.
struct Request<'a, const NUMBER: Opcode, T>(&'a mut T);

// SAFETY: every use pairs the number with the structure that belongs to it, and privcmd's
// result is that of the system call.
unsafe impl<const NUMBER: Opcode, T> Ioctl for Request<'_, NUMBER, T> {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        NUMBER
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(output)
    }
}
