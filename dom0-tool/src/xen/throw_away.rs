//! The code of the throw-away guest that [`crate::rehearse`] moves about: the
//! only guest lull has a driver for, `throw_away.s`.

use std::arch::global_asm;

/// Where the code is to be loaded, and where it is entered.
pub const LOAD: u32 = 0x10_0000;

/// Bytes from there that must be memory.
pub const SIZE: u32 = 0x6000;

global_asm!(
    ".pushsection .rodata.lull_throw_away, \"a\", @progbits",
    ".code32",
    ".globl lull_throw_away",
    ".hidden lull_throw_away",
    "lull_throw_away:",
    include_str!("throw_away.s"),
    ".globl lull_throw_away_end",
    ".hidden lull_throw_away_end",
    "lull_throw_away_end:",
    ".code64",
    ".popsection",
    options(att_syntax, raw)
);

// SAFETY: both are labels around the bytes that are assembled above.
unsafe extern "C" {
    static lull_throw_away: u8;
    static lull_throw_away_end: u8;
}

/// The code and its data, to be loaded at [`LOAD`].
pub fn code() -> &'static [u8] {
    let start = &raw const lull_throw_away;
    let end = &raw const lull_throw_away_end;
    let length = end.addr() - start.addr();
    // SAFETY: the bytes between the two labels are constant data of this
    // program.
    unsafe { std::slice::from_raw_parts(start, length) }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};

    use super::*;

    /// Everything up to the data is code of a 32-bit processor, and nothing in
    /// it stops the processor or lets interrupts in: there is nobody to take
    /// them.
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
