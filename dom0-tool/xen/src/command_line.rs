//! Xen's boot command line (`xen/include/public/version.h`, 4.17).

use std::io;

use super::privcmd::{Xen, number};

/// `XENVER_commandline`, and the size of `xen_commandline_t` in bytes.
const COMMANDLINE: u64 = 9;
const COMMANDLINE_BYTES: usize = 1024;

impl Xen {
    /// Reads Xen's command line.
    ///
    /// # Errors
    /// Returns Xen's errno.
    pub fn command_line(&self) -> io::Result<String> {
        let mut text = [0_u8; COMMANDLINE_BYTES];
        let args = [COMMANDLINE, 0, 0, 0, 0];
        // SAFETY: this command writes that many bytes to argument 1.
        unsafe { self.hypercall_with(number::XEN_VERSION, args, 1, &mut text) }?;
        let length = text.iter().position(|byte| *byte == 0);
        Ok(String::from_utf8_lossy(&text[..length.unwrap_or(text.len())]).into_owned())
    }
}
