//! The end of a stub that cannot go on.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use lull_core::link::{CrashKind, Registers};

use crate::abi::{hypercall, memory};

/// The text of a crash, cut where the record ends.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
            self.len += 1;
        }
        Ok(())
    }
}

/// Writes a crash record and ends the domain.
pub fn die(kind: CrashKind, why: fmt::Arguments<'_>) -> ! {
    let mut text = Text {
        bytes: [0; 512],
        len: 0,
    };
    // This never fails, because text that does not fit is cut.
    let _ = text.write_fmt(why);
    let written = text.bytes.get(..text.len).unwrap_or_default();
    memory::link()
        .crash
        .write(kind, Registers::default(), written);
    hypercall::crash()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    die(CrashKind::Panic, format_args!("{info}"))
}
