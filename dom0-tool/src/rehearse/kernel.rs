//! The probe guest's kernel: an ELF file around [`probe_guest::code`].

use lull_xen::probe_guest::{self, LOAD, SIZE};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (`xen/include/public/elfnote.h`, 4.17): the entry point of a
/// PVH guest.
const PHYS32_ENTRY: u32 = 18;

const HEADER: u32 = 52;
const PROGRAM_HEADER: u32 = 32;
const NOTE: u32 = 20;

/// Builds the file's bytes.
pub fn file() -> Vec<u8> {
    let code = probe_guest::code();
    let length = code.len() as u32;
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let code_at = note_at + NOTE;

    // ELF header: 32 bits, little endian, ELF version 1, no particular system.
    let mut bytes = b"\x7fELF\x01\x01\x01".to_vec();
    bytes.resize(16, 0);
    // ELF header: an executable for the 386.
    halves(&mut bytes, &[2, 3]);
    // ELF header: version, entry point; the program headers follow, no sections, no flags.
    words(&mut bytes, &[1, LOAD, HEADER, 0, 0]);
    let sizes = [HEADER, PROGRAM_HEADER, 2, 0, 0, 0];
    halves(&mut bytes, &sizes.map(|size| size as u16));

    const PT_LOAD: u32 = 1;
    const PT_NOTE: u32 = 4;
    const READ_WRITE_EXECUTE: u32 = 7;
    const READ: u32 = 4;
    // Program header: type, offset, virtual and physical address, size in the file and in
    // memory, flags, alignment.
    let load = [
        PT_LOAD,
        code_at,
        LOAD,
        LOAD,
        length,
        SIZE,
        READ_WRITE_EXECUTE,
        4,
    ];
    words(&mut bytes, &load);
    words(&mut bytes, &[PT_NOTE, note_at, 0, 0, NOTE, NOTE, READ, 4]);

    // The note: size of the name, size of the content, type, name, content.
    words(&mut bytes, &[4, 4, PHYS32_ENTRY]);
    bytes.extend(b"Xen\0");
    words(&mut bytes, &[LOAD]);

    bytes.extend(code);
    bytes
}

fn words(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn halves(bytes: &mut Vec<u8>, halves: &[u16]) {
    bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use object::elf::FileHeader32;
    use object::read::elf::{FileHeader, ProgramHeader};
    use object::{Endianness, elf};

    use super::*;

    #[test]
    fn it_is_read_as_the_elf_file_of_a_pvh_kernel() {
        let bytes = file();
        let header = FileHeader32::<Endianness>::parse(&*bytes).unwrap();
        let endian = header.endian().unwrap();
        assert_eq!(header.e_machine(endian), elf::EM_386);
        let segments = header.program_headers(endian, &*bytes).unwrap();
        let [load, note] = segments else {
            panic!("two segments")
        };
        assert_eq!(load.p_paddr(endian), LOAD);
        assert_eq!(load.data(endian, &*bytes).unwrap(), probe_guest::code());
        let mut notes = note.notes(endian, &*bytes).unwrap().unwrap();
        let entry = notes.next().unwrap().unwrap();
        assert_eq!(entry.name(), b"Xen");
        assert_eq!(entry.n_type(endian), elf::NoteType(PHYS32_ENTRY));
        assert_eq!(entry.desc(), LOAD.to_le_bytes());
    }
}
