//! The code of the probe guest that a rehearsal moves, `probe_guest.s`. It is the only
//! guest that lull has a driver for.

use std::arch::global_asm;

/// The prefix of every probe guest's name.
pub const MARK: &str = "lull-rehearsal-of-";

/// Guest-physical address where the code is loaded and entered.
pub const LOAD: u32 = 0x10_0000;

/// Size in bytes of the memory that the guest needs from [`LOAD`] on.
pub const SIZE: u32 = 0x6000;

global_asm!(
    ".pushsection .rodata.lull_probe_guest, \"a\", @progbits",
    ".code32",
    ".globl lull_probe_guest",
    ".hidden lull_probe_guest",
    "lull_probe_guest:",
    include_str!("probe_guest.s"),
    ".globl lull_probe_guest_end",
    ".hidden lull_probe_guest_end",
    "lull_probe_guest_end:",
    ".code64",
    ".popsection",
    options(att_syntax, raw)
);

// SAFETY: both symbols are labels around the bytes assembled above.
unsafe extern "C" {
    static lull_probe_guest: u8;
    static lull_probe_guest_end: u8;
}

/// The code and its data, to be loaded at [`LOAD`].
pub fn code() -> &'static [u8] {
    let start = &raw const lull_probe_guest;
    let end = &raw const lull_probe_guest_end;
    let length = end.addr() - start.addr();
    // SAFETY: the bytes between the two labels are constant data of this
    // program.
    unsafe { std::slice::from_raw_parts(start, length) }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};

    use super::*;

    /// A label that is not local could take the place of a function of the C library.
    #[test]
    fn no_label_is_seen_outside() {
        let lines = include_str!("probe_guest.s").lines();
        let code = lines.filter(|line| !line.starts_with('#'));
        let labels: Vec<_> = code.filter_map(|line| line.split_once(':')).collect();
        assert!(labels.len() > 20);
        for (label, _) in labels {
            let is_local = label.starts_with(".L") || label.parse::<u8>().is_ok();
            assert!(is_local, "{label}");
        }
    }

    /// Everything up to the data is code of a 32-bit processor. No instruction halts
    /// the processor or enables interrupts, because the guest has no handlers for them.
    #[test]
    fn the_code_is_32_bit_code_that_only_xen_puts_to_sleep() {
        let data = [0xf0, 0x7f, 0, 0];
        let until = code().windows(4).position(|word| word == data).unwrap();
        let padded = &code()[..until];
        let end = padded.iter().rposition(|byte| *byte != 0).unwrap();
        let options = DecoderOptions::NONE;
        let decoder = Decoder::with_ip(32, &padded[..=end], u64::from(LOAD), options);
        let instructions: Vec<_> = decoder.into_iter().collect();
        assert!(instructions.len() > 80);
        for instruction in instructions {
            assert_ne!(instruction.code(), Code::INVALID, "{instruction:?}");
            let mnemonic = instruction.mnemonic();
            assert!(!matches!(mnemonic, Mnemonic::Hlt | Mnemonic::Sti));
        }
        assert!(code().len() < 0x2000, "it runs into the hypercall page");
    }
}
