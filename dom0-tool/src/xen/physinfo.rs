//! What Xen says of the host: its free memory, and its own command line
//! (`xen/include/public/sysctl.h` and `version.h`, 4.17).

use std::io;

use super::PAGE;
use super::privcmd::Xen;
use super::version::Version;

/// `__HYPERVISOR_xen_version` and `__HYPERVISOR_sysctl` (`xen/include/public/xen.h`).
const XEN_VERSION: u64 = 17;
const SYSCTL: u64 = 35;

/// `XENVER_commandline`, and the bytes of `xen_commandline_t`.
const COMMANDLINE: u64 = 9;
const COMMANDLINE_BYTES: usize = 1024;

/// `XEN_SYSCTL_physinfo`, and where two of its members are, in words of 8 bytes.
const PHYSINFO: u32 = 3;
const FREE_PAGES: usize = 6;
const OUTSTANDING_PAGES: usize = 8;

/// `struct xen_sysctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sysctl {
    cmd: u32,
    interface_version: u32,
    u: [u64; 16],
}

const _: () = assert!(size_of::<Sysctl>() == 136);

/// `XEN_SYSCTL_INTERFACE_VERSION`; `struct xen_sysctl_physinfo` is the same in all.
const fn interface_version(version: Version) -> u32 {
    match version.minor {
        ..=20 => 0x15,
        _ => 0x16,
    }
}

impl Xen {
    /// Memory that no domain has and none has claimed, bytes: `free_memory` of
    /// `xl info`.
    ///
    /// # Errors
    /// Xen's errno.
    pub fn free_memory(&self) -> io::Result<u64> {
        let mut request = Sysctl {
            cmd: PHYSINFO,
            interface_version: interface_version(self.version),
            u: [0; 16],
        };
        // SAFETY: the call takes this structure as argument 0 and fills it in.
        unsafe { self.hypercall_with(SYSCTL, [0; 5], 0, &mut request) }?;
        let pages = request.u[FREE_PAGES].saturating_sub(request.u[OUTSTANDING_PAGES]);
        Ok(pages.saturating_mul(PAGE as u64))
    }

    /// What Xen was booted with.
    ///
    /// # Errors
    /// Xen's errno.
    pub fn command_line(&self) -> io::Result<String> {
        let mut text = [0_u8; COMMANDLINE_BYTES];
        // SAFETY: this question wants that many bytes to write to as argument 1.
        unsafe { self.hypercall_with(XEN_VERSION, [COMMANDLINE, 0, 0, 0, 0], 1, &mut text) }?;
        let length = text.iter().position(|byte| *byte == 0);
        Ok(String::from_utf8_lossy(&text[..length.unwrap_or(text.len())]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::version::KNOWN;
    use super::*;

    #[test]
    fn the_interface_changed_once_since_4_17() {
        let versions = KNOWN.map(|version| (version.minor, interface_version(version)));
        let expected = [17, 18, 19, 20, 21, 22].map(|minor| {
            let changed = minor >= 21;
            (minor, if changed { 0x16 } else { 0x15 })
        });
        assert_eq!(versions, expected);
    }
}
