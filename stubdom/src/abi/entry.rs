//! The image's ELF notes and its first instructions.
//!
//! dom0's domain builder enters `_start` on an empty stack, with event upcalls masked and
//! every page of the link's layout mapped. Registers carry no arguments: the addresses are
//! constants of [`lull_core::link`].

use core::arch::global_asm;

use lull_core::link;
use xen_sys::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_PADDR_OFFSET,
    XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_XEN_VERSION,
};

// A note consists of name size, description size, type, name and description; the last two
// are padded to four bytes (`xen/include/public/elfnote.h`, 4.17). GUEST_OS carries the
// name and the link's version, which dom0 checks.
global_asm!(
    ".macro xen_note_text type, text",
    "    .long 4, 2f - 1f, \\type",
    "    .asciz \"Xen\"",
    "1:  .asciz \"\\text\"",
    "2:  .balign 4",
    ".endm",
    ".macro xen_note_quad type, value",
    "    .long 4, 8, \\type",
    "    .asciz \"Xen\"",
    "    .quad \\value",
    ".endm",
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    "    xen_note_text {guest_os}, \"lull-{version}\"",
    "    xen_note_text {xen_version}, \"xen-3.0\"",
    "    xen_note_text {loader}, \"generic\"",
    "    xen_note_quad {virt_base}, 0",
    "    xen_note_quad {paddr_offset}, 0",
    "    xen_note_quad {entry}, _start",
    ".popsection",
    guest_os = const XEN_ELFNOTE_GUEST_OS,
    xen_version = const XEN_ELFNOTE_XEN_VERSION,
    loader = const XEN_ELFNOTE_LOADER,
    virt_base = const XEN_ELFNOTE_VIRT_BASE,
    paddr_offset = const XEN_ELFNOTE_PADDR_OFFSET,
    entry = const XEN_ELFNOTE_ENTRY,
    version = const link::VERSION,
);

global_asm!(
    ".pushsection .text.entry, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "    cld",
    "    xor ebp, ebp",
    "    and rsp, -16",
    "    call {main}",
    "    ud2",
    ".popsection",
    main = sym crate::main,
);
