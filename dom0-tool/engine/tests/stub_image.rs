//! Checks the stub's image as built into this tool: its layout, and the instructions that
//! its code must not contain.

use std::collections::BTreeSet;

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};
use lull_core::link;
use object::elf::{ET_EXEC, FileHeader64, PF_W, PF_X, PT_DYNAMIC, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, SectionKind};

#[repr(align(16))]
struct Aligned<T: ?Sized>(T);

static ELF: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("LULL_STUB_IMAGE")));

fn header() -> &'static FileHeader64<Endianness> {
    FileHeader64::parse(&ELF.0).expect("an ELF")
}

fn instructions() -> Vec<Instruction> {
    let elf = object::File::parse(&ELF.0).expect("an ELF");
    let code = elf
        .sections()
        .filter(|section| section.kind() == SectionKind::Text);
    let mut found = Vec::new();
    for section in code {
        let bytes = section.data().expect("code");
        let mut decoder = Decoder::with_ip(64, bytes, section.address(), DecoderOptions::NONE);
        found.extend(decoder.iter());
    }
    assert!(
        found.len() > 1_000,
        "the code is not where it is looked for"
    );
    found
}

#[test]
fn it_is_a_small_static_image_of_pages_with_one_right_each() {
    let header = header();
    let endian = header.endian().unwrap();
    assert_eq!(header.e_type(endian), ET_EXEC);
    let programs = header.program_headers(endian, &ELF.0[..]).unwrap();
    let mut loaded = 0;
    for program in programs {
        assert_ne!(program.p_type(endian), PT_DYNAMIC);
        if program.p_type(endian) != PT_LOAD {
            continue;
        }
        let flags = program.p_flags(endian);
        assert!(
            !(flags.contains(PF_W) && flags.contains(PF_X)),
            "writable code"
        );
        assert!(program.p_vaddr(endian).is_multiple_of(4096));
        loaded += program.p_memsz(endian).next_multiple_of(4096);
    }
    assert!(loaded <= link::IMAGE_BYTES_MAX, "{loaded} bytes");
    assert!(
        programs
            .iter()
            .any(|program| program.p_type(endian) == PT_NOTE)
    );
    let first = programs
        .iter()
        .filter(|program| program.p_type(endian) == PT_LOAD);
    let first = first.map(|program| program.p_vaddr(endian)).min();
    assert_eq!(first, Some(link::IMAGE_VA));
}

#[test]
fn nothing_is_left_to_relocate() {
    let elf = object::File::parse(&ELF.0).unwrap();
    for section in elf.sections() {
        assert_eq!(section.relocations().count(), 0, "{:?}", section.name());
    }
    assert!(
        elf.dynamic_relocations()
            .is_none_or(|mut found| found.next().is_none())
    );
}

#[test]
fn no_code_uses_memory_below_the_stack_pointer() {
    // Xen delivers an exception on the current stack, right below rsp.
    for instruction in instructions() {
        let operands = 0..instruction.op_count();
        let memory = operands
            .into_iter()
            .any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let below = instruction.memory_base() == Register::RSP
            && (instruction.memory_displacement64() as i64) < 0
            && instruction.mnemonic() != Mnemonic::Lea;
        assert!(
            !(memory && below),
            "{:#x}: {instruction:?}",
            instruction.ip()
        );
    }
}

#[test]
fn the_code_needs_no_more_of_the_processor_than_sse2() {
    // A fresh PV vCPU from Xen supports these; anything wider must be switched on first.
    let mut used = BTreeSet::new();
    // `tzcnt` is `bsf` with a prefix that older processors pass over; the
    // compiler emits it only where both agree.
    let tzcnt = |instruction: &Instruction| instruction.mnemonic() == Mnemonic::Tzcnt;
    for instruction in instructions().into_iter().filter(|i| !tzcnt(i)) {
        used.extend(
            instruction
                .cpuid_features()
                .iter()
                .map(|feature| format!("{feature:?}")),
        );
        assert!(
            !instruction.cpuid_features().contains(&CpuidFeature::FPU),
            "{:#x}: x87",
            instruction.ip()
        );
    }
    let allowed = [
        "CMOV",
        "CX8",
        "INTEL386",
        "INTEL486",
        "INTEL8086",
        "INTEL186",
        "INTEL286",
        "MULTIBYTENOP",
        "PAUSE",
        "SSE",
        "SSE2",
        "SYSCALL",
        "X64",
    ];
    let beyond: Vec<_> = used
        .iter()
        .filter(|feature| !allowed.contains(&feature.as_str()))
        .collect();
    assert!(beyond.is_empty(), "{beyond:?}");
}

#[test]
fn the_code_does_nothing_a_pv_kernel_may_not() {
    let forbidden = [
        Mnemonic::Cli,
        Mnemonic::Sti,
        Mnemonic::Hlt,
        Mnemonic::In,
        Mnemonic::Out,
        Mnemonic::Wrmsr,
        Mnemonic::Rdmsr,
        Mnemonic::Lidt,
        Mnemonic::Lgdt,
        Mnemonic::Invlpg,
        Mnemonic::Int,
        Mnemonic::Iretq,
        Mnemonic::Sysretq,
        Mnemonic::Ldmxcsr,
        Mnemonic::Fxrstor,
    ];
    let mut hypercalls = 0;
    for instruction in instructions() {
        assert!(
            !forbidden.contains(&instruction.mnemonic()),
            "{:#x}: {:?}",
            instruction.ip(),
            instruction.mnemonic()
        );
        hypercalls += usize::from(instruction.code() == Code::Syscall);
    }
    assert!(hypercalls > 0);
}
