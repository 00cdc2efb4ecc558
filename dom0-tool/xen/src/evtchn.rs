//! Event channels: `/dev/xen/evtchn` (`linux/include/uapi/xen/evtchn.h`).

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;
use rustix::ioctl::{self, Direction, Ioctl, IoctlOutput, Opcode, opcode};

use super::DomId;
use super::privcmd::{Xen, number};

/// `EVTCHNOP_alloc_unbound` (`xen/include/public/event_channel.h`, 4.17).
const ALLOC_UNBOUND: u64 = 6;

/// `struct evtchn_alloc_unbound`: the argument of `EVTCHNOP_alloc_unbound`.
#[repr(C)]
#[derive(Clone, Copy)]
struct AllocUnbound {
    dom: DomId,
    remote: DomId,
    port: u32,
}

/// `struct ioctl_evtchn_bind_interdomain`: the remote domain and its port.
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

/// `IOCTL_EVTCHN_BIND_INTERDOMAIN`: the return value is the local port.
struct Bind(BindInterdomain);

// SAFETY: the opcode belongs to the structure that `as_ptr` points to; the
// output is the return value alone.
unsafe impl Ioctl for Bind {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::from_components(Direction::None, b'E', 1, size_of::<BindInterdomain>())
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// `IOCTL_EVTCHN_NOTIFY`: signals a local port.
struct Notify(u32);

// SAFETY: the opcode belongs to `struct ioctl_evtchn_notify`, one u32.
unsafe impl Ioctl for Notify {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::from_components(Direction::None, b'E', 4, size_of::<u32>())
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

impl Xen {
    /// Allocates an unbound port in `dom` that dom0 may bind to.
    pub fn alloc_unbound_port(&self, dom: DomId) -> io::Result<u32> {
        let mut request = AllocUnbound {
            dom,
            remote: 0,
            port: 0,
        };
        let args = [ALLOC_UNBOUND, 0, 0, 0, 0];
        // SAFETY: EVTCHNOP_alloc_unbound takes this structure as argument 1.
        unsafe { self.hypercall_with(number::EVENT_CHANNEL_OP, args, 1, &mut request) }?;
        Ok(request.port)
    }
}

/// A bound event channel.
pub struct EventChannel {
    device: File,
    port: u32,
}

impl EventChannel {
    /// Binds to `port` of `dom`. Reading from the channel never blocks.
    pub fn bind(dom: DomId, port: u32) -> io::Result<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/xen/evtchn")?;
        rustix::fs::fcntl_setfl(&device, OFlags::NONBLOCK)?;
        let request = Bind(BindInterdomain {
            remote_domain: u32::from(dom),
            remote_port: port,
        });
        // SAFETY: the ioctl is the one the device has for this structure.
        let local = unsafe { ioctl::ioctl(&device, request) }?;
        Ok(Self {
            device,
            port: u32::try_from(local).map_err(io::Error::other)?,
        })
    }

    /// Signals the remote domain.
    pub fn notify(&self) -> io::Result<()> {
        // SAFETY: the ioctl is the one the device has for a port number.
        Ok(unsafe { ioctl::ioctl(&self.device, Notify(self.port)) }?)
    }

    /// Consumes a pending signal, if there is one, and unmasks the port for the next.
    pub fn take(&self) -> io::Result<()> {
        let mut port = [0; 4];
        let mut device = &self.device;
        match device.read(&mut port) {
            Ok(4) => device.write_all(&port),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
