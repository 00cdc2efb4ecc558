//! Network interfaces and bridges, controlled by ioctl
//! (`linux/include/uapi/linux/if.h`, `sockios.h`). These ioctls are as old as what `ip`
//! and `brctl` use, and have the same effect. And a socket that sends Ethernet frames.

use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;

use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, netdevice, sendto, socket_with,
};

/// Size of an interface name in bytes, including the terminating NUL (`IFNAMSIZ`).
pub const NAME_ROOM: usize = 16;

/// Request numbers from `sockios.h`.
mod request {
    pub const SIOCGIFFLAGS: u32 = 0x8913;
    pub const SIOCSIFFLAGS: u32 = 0x8914;
    pub const SIOCSIFMTU: u32 = 0x8922;
    pub const SIOCSIFNAME: u32 = 0x8923;
    pub const SIOCSIFHWADDR: u32 = 0x8924;
    pub const SIOCBRADDIF: u32 = 0x89a2;
    pub const SIOCBRDELIF: u32 = 0x89a3;
}

/// `IFF_UP`.
const UP: u16 = 1;

/// `ARPHRD_ETHER` (`if_arp.h`).
const ETHERNET: u16 = 1;

/// `struct ifreq`: a name, and a union of which each request uses its own member.
#[repr(C)]
struct Request {
    name: [u8; NAME_ROOM],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == 40);

/// One request of [`request`] with its structure.
struct Asked(u32, Request);

// SAFETY: all of `request` take a `struct ifreq` of this size, read it, and
// write at most within it; none holds an address.
unsafe impl Ioctl for Asked {
    type Output = Request;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        Opcode::from(self.0)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.1).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, place: *mut c_void) -> rustix::io::Result<Request> {
        // SAFETY: `place` is what `as_ptr` gave, a request of plain bytes.
        Ok(unsafe { place.cast::<Request>().read() })
    }
}

/// The interfaces of this network namespace. Every name is checked: it has at most 15
/// bytes and no NUL.
pub struct Links {
    socket: OwnedFd,
}

impl Links {
    /// # Errors
    /// Returns the kernel's error.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self { socket })
    }

    /// Brings an interface up or down.
    ///
    /// # Errors
    /// This function and those below return the kernel's error.
    pub fn set_up(&self, name: &str, up: bool) -> io::Result<()> {
        let now = self.ask(request::SIOCGIFFLAGS, name, &[])?;
        let now = u16::from_ne_bytes([now.value[0], now.value[1]]);
        let flags = if up { now | UP } else { now & !UP };
        self.ask(request::SIOCSIFFLAGS, name, &flags.to_ne_bytes())?;
        Ok(())
    }

    /// Gives an interface another name; it must be down.
    pub fn rename(&self, name: &str, new: &str) -> io::Result<()> {
        check(new)?;
        self.ask(request::SIOCSIFNAME, name, new.as_bytes())?;
        Ok(())
    }

    /// Sets an interface's own MAC address.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let mut address = ETHERNET.to_ne_bytes().to_vec();
        address.extend(mac);
        self.ask(request::SIOCSIFHWADDR, name, &address)?;
        Ok(())
    }

    /// Sets an interface's MTU, in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        self.ask(request::SIOCSIFMTU, name, &mtu.to_ne_bytes())?;
        Ok(())
    }

    /// Makes an interface a port of a bridge.
    pub fn add_to_bridge(&self, bridge: &str, port: &str) -> io::Result<()> {
        self.change_bridge(request::SIOCBRADDIF, bridge, port)
    }

    /// Removes a port from a bridge.
    pub fn remove_from_bridge(&self, bridge: &str, port: &str) -> io::Result<()> {
        self.change_bridge(request::SIOCBRDELIF, bridge, port)
    }

    fn change_bridge(&self, request: u32, bridge: &str, port: &str) -> io::Result<()> {
        let index = netdevice::name_to_index(&self.socket, port)?;
        self.ask(request, bridge, &index.to_ne_bytes())?;
        Ok(())
    }

    fn ask(&self, request: u32, name: &str, value: &[u8]) -> io::Result<Request> {
        check(name)?;
        let mut asked = Request {
            name: [0; NAME_ROOM],
            value: [0; 24],
        };
        asked.name[..name.len()].copy_from_slice(name.as_bytes());
        asked.value[..value.len()].copy_from_slice(value);
        // SAFETY: opcode and structure belong together; names end in NUL.
        let answer = unsafe { ioctl::ioctl(&self.socket, Asked(request, asked)) }?;
        Ok(answer)
    }
}

/// `struct sockaddr_ll` (`linux/include/uapi/linux/if_packet.h`).
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: u16,
    interface: i32,
    hardware: u16,
    packet: u8,
    length: u8,
    address: [u8; 8],
}

const _: () = assert!(size_of::<LinkAddress>() == 20);

// SAFETY: the pointer is to the whole structure, which is a valid address of AF_PACKET.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(
            (&raw const *self).cast(),
            size_of::<Self>() as SocketAddrLen,
        )
    }
}

/// A socket that sends whole Ethernet frames, and receives none.
pub struct Frames {
    socket: OwnedFd,
}

impl Frames {
    /// # Errors
    /// Returns the kernel's error; this needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 receives nothing.
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self { socket })
    }

    /// Sends a frame through an interface; through a bridge it goes to all its ports.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn send(&self, interface: &str, frame: &[u8]) -> io::Result<()> {
        check(interface)?;
        let index = netdevice::name_to_index(&self.socket, interface)?;
        let address = LinkAddress {
            family: AddressFamily::PACKET.as_raw(),
            protocol: 0,
            interface: i32::try_from(index).map_err(io::Error::other)?,
            hardware: 0,
            packet: 0,
            length: 0,
            address: [0; 8],
        };
        sendto(&self.socket, frame, SendFlags::DONTWAIT, &address)?;
        Ok(())
    }
}

fn check(name: &str) -> io::Result<()> {
    match name.len() < NAME_ROOM && !name.contains('\0') {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let links = Links::open().unwrap();
        let no_device = Some(rustix::io::Errno::NODEV.raw_os_error());
        let error = links.set_up("lull-none", true).unwrap_err();
        assert_eq!(error.raw_os_error(), no_device);
        let error = links.add_to_bridge("lull-none", "lo").unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    #[test]
    fn a_name_that_does_not_fit_never_gets_to_the_kernel() {
        let links = Links::open().unwrap();
        for name in ["sixteen-is-over!", "a\0b"] {
            let error = links.set_up(name, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            let error = links.rename("lo", name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
