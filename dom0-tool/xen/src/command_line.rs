//! What Xen was booted with (`xen/include/public/version.h`, 4.17).

use std::io;

use super::privcmd::{Xen, number};

/// `XENVER_commandline`, and the bytes of `xen_commandline_t`.
const COMMANDLINE: u64 = 9;
const COMMANDLINE_BYTES: usize = 1024;

impl Xen {
    /// Xen's command line.
    ///
    /// # Errors
    /// Xen's errno.
    pub fn command_line(&self) -> io::Result<String> {
        let mut text = [0_u8; COMMANDLINE_BYTES];
        let args = [COMMANDLINE, 0, 0, 0, 0];
        // SAFETY: this question wants that many bytes to write to as argument 1.
        unsafe { self.hypercall_with(number::XEN_VERSION, args, 1, &mut text) }?;
        let length = text.iter().position(|byte| *byte == 0);
        Ok(String::from_utf8_lossy(&text[..length.unwrap_or(text.len())]).into_owned())
    }
}
