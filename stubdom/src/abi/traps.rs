//! Processor exceptions: every one is fatal and leaves a crash record.

use core::arch::global_asm;

use lull_core::link::{CrashKind, Registers};
use xen_sys::trap_info;

use super::{events, hypercall, memory};

/// `FLAT_KERNEL_CS` (`xen/include/public/arch-x86/xen-x86_64.h`, 4.17).
const FLAT_KERNEL_CS: u16 = 0xe033;

// Xen delivers an exception by pushing, from the top: ss, rsp, rflags, cs, rip,
// the error code where the exception has one, r11, rcx
// (`xen/arch/x86/x86_64/entry.S`, 4.17: create_bounce_frame).
global_asm!(
    ".macro trap_plain vector",
    "trap_\\vector:",
    "    lea rdi, [rsp + 16]",
    "    xor esi, esi",
    "    mov edx, \\vector",
    "    jmp trap_common",
    ".endm",
    ".macro trap_code vector",
    "trap_\\vector:",
    "    lea rdi, [rsp + 24]",
    "    mov rsi, [rsp + 16]",
    "    mov edx, \\vector",
    "    jmp trap_common",
    ".endm",
    ".pushsection .text.traps, \"ax\", @progbits",
    "trap_common:",
    "    cld",
    "    and rsp, -16",
    "    call {fault}",
    "    ud2",
    "trap_plain 0",
    "trap_plain 1",
    "trap_plain 3",
    "trap_plain 6",
    "trap_plain 7",
    "trap_code 10",
    "trap_code 11",
    "trap_code 12",
    "trap_code 13",
    "trap_code 14",
    "trap_plain 16",
    "trap_code 17",
    "trap_plain 19",
    ".popsection",
    fault = sym fault,
);

macro_rules! trap_table {
    ($($vector:literal $handler:ident),* $(,)?) => {
        // SAFETY: the labels defined above; only their addresses are used.
        unsafe extern "C" { $(fn $handler();)* }

        /// Installs the handler of every exception.
        pub fn install() {
            hypercall::set_trap_table(&[
                $(trap_info {
                    vector: $vector,
                    flags: 0,
                    cs: FLAT_KERNEL_CS,
                    address: $handler as *const () as u64,
                },)*
                trap_info { vector: 0, flags: 0, cs: 0, address: 0 },
            ]);
        }
    };
}

trap_table! {
    0 trap_0, 1 trap_1, 3 trap_3, 6 trap_6, 7 trap_7, 10 trap_10, 11 trap_11,
    12 trap_12, 13 trap_13, 14 trap_14, 16 trap_16, 17 trap_17, 19 trap_19,
}

/// The part of the frame above the error code.
#[repr(C)]
struct Frame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// # Safety
/// `frame` must point to the frame of the exception.
unsafe extern "C" fn fault(frame: *const Frame, error: u64, vector: u64) -> ! {
    // SAFETY: the entry code guarantees it.
    let frame = unsafe { &*frame };
    let registers = Registers {
        vector,
        error,
        rip: frame.rip,
        rsp: frame.rsp,
        rflags: frame.rflags,
        address: if vector == 14 {
            events::fault_address()
        } else {
            0
        },
    };
    memory::link().crash.write(CrashKind::Fault, registers, b"");
    hypercall::crash()
}
