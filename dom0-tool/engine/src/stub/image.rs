//! The stub's ELF image, which is embedded in this binary.

use std::ops::Range;
use std::sync::LazyLock;

use lull_core::link::{IMAGE_BYTES_MAX, IMAGE_VA, VERSION};
use lull_xen::PAGE;
use miniz_oxide::inflate::decompress_to_vec;
use object::Endianness;
use object::elf::{FileHeader64, PF_W, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use sha2::{Digest, Sha256};

/// The ELF file, built together with this tool. It is compressed, because most of it names
/// the places in the source that the log's lines come from.
static ELF: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let packed = include_bytes!(env!("LULL_STUB_IMAGE_PACKED"));
    decompress_to_vec(packed).expect("the build has compressed it")
});

/// `XEN_ELFNOTE_ENTRY`, `_XEN_VERSION`, `_GUEST_OS`
/// (`xen/include/public/elfnote.h`, 4.17).
mod note {
    pub const ENTRY: u32 = 1;
    pub const XEN_VERSION: u32 = 5;
    pub const GUEST_OS: u32 = 6;
}

/// The permitted access to a segment's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The pages may be read and executed.
    Code,
    /// The pages may only be read.
    ReadOnly,
    /// The pages may be read and written.
    Data,
}

/// A segment of the image: its addresses and its contents.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The segment's addresses in the stub, in whole pages.
    pub pages: Range<u64>,
    /// The permitted access to the pages.
    pub access: Access,
    /// The first bytes of the segment; the rest is zero.
    pub bytes: &'static [u8],
}

/// An image that has passed all checks.
#[derive(Debug, Clone)]
pub struct Image {
    /// The segments, by ascending address.
    pub segments: Vec<Segment>,
    /// The address of the first instruction.
    pub entry: u64,
}

/// Why an image is not usable. The image is built with the tool, so this is a fault of the
/// build.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is not a 64-bit ELF of the right kind.
    #[error("the stub's image is no 64-bit ELF: {0}")]
    Elf(#[from] object::Error),
    /// A note is missing or has another value.
    #[error("the stub's image has no note {0} as this tool wants it")]
    Note(u32),
    /// A segment lies outside the range for images, or is both writable and executable.
    #[error("a segment of the stub's image at {0:#x} is not allowed")]
    Segment(u64),
}

/// Identifies this build's stub: the start of the SHA-256 of everything that is loaded.
///
/// # Errors
/// When the image does not match the link's layout.
pub fn id() -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    for segment in Image::embedded()?.segments {
        hash.update(segment.pages.start.to_le_bytes());
        hash.update(segment.bytes);
    }
    let digits = hash.finalize().into_iter().take(6);
    Ok(digits.map(|byte| format!("{byte:02x}")).collect())
}

impl Image {
    /// The image inside this binary, checked.
    ///
    /// # Errors
    /// When the image does not match the link's layout.
    pub fn embedded() -> Result<Self, ImageError> {
        Self::parse(&ELF)
    }

    /// The whole ELF file, for the decoder of the stub's log.
    pub fn elf() -> &'static [u8] {
        &ELF
    }

    fn parse(elf: &'static [u8]) -> Result<Self, ImageError> {
        let header = FileHeader64::<Endianness>::parse(elf)?;
        let endian = header.endian()?;
        let mut segments = Vec::new();
        let mut entry = None;
        for program in header.program_headers(endian, elf)? {
            match program.p_type(endian) {
                PT_LOAD => segments.push(segment(program, endian, elf)?),
                PT_NOTE => entry = Some(entry_from_notes(program, endian, elf)?),
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.pages.start);
        let entry = entry.ok_or(ImageError::Note(note::ENTRY))?;
        Ok(Self { segments, entry })
    }
}

type Program = <FileHeader64<Endianness> as FileHeader>::ProgramHeader;

fn segment(
    program: &Program,
    endian: Endianness,
    elf: &'static [u8],
) -> Result<Segment, ImageError> {
    let start = program.p_vaddr(endian);
    let refused = ImageError::Segment(start);
    let end = start
        .checked_add(program.p_memsz(endian))
        .and_then(|end| end.checked_next_multiple_of(PAGE as u64));
    let Some(end) = end else { return Err(refused) };
    let allowed = IMAGE_VA..IMAGE_VA + IMAGE_BYTES_MAX;
    if !start.is_multiple_of(PAGE as u64) || start < allowed.start || end > allowed.end {
        return Err(refused);
    }
    let flags = program.p_flags(endian);
    let access = match (flags.contains(PF_W), flags.contains(PF_X)) {
        (true, true) => return Err(refused),
        (false, true) => Access::Code,
        (false, false) => Access::ReadOnly,
        (true, false) => Access::Data,
    };
    let bytes = program.data(endian, elf).map_err(|()| refused)?;
    Ok(Segment {
        pages: start..end,
        access,
        bytes,
    })
}

/// Checks the notes that identify the image, and returns its entry.
fn entry_from_notes(
    program: &Program,
    endian: Endianness,
    elf: &'static [u8],
) -> Result<u64, ImageError> {
    let mut entry = Err(ImageError::Note(note::ENTRY));
    let (mut for_xen, mut linked) = (false, false);
    let Some(mut notes) = program.notes(endian, elf)? else {
        return entry;
    };
    while let Some(found) = notes.next()? {
        let text = found.desc().split(|byte| *byte == 0).next();
        let text = text.unwrap_or_default();
        match found.n_type(endian).0 {
            note::ENTRY => {
                if let Ok(address) = found.desc().try_into() {
                    entry = Ok(u64::from_le_bytes(address));
                }
            }
            note::XEN_VERSION => for_xen = text == b"xen-3.0",
            note::GUEST_OS => linked = text == format!("lull-{VERSION}").as_bytes(),
            _ => {}
        }
    }
    match (for_xen, linked) {
        (false, _) => Err(ImageError::Note(note::XEN_VERSION)),
        (_, false) => Err(ImageError::Note(note::GUEST_OS)),
        _ => entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_same_wherever_it_is_built() {
        for segment in Image::embedded().unwrap().segments {
            let text = String::from_utf8_lossy(segment.bytes);
            assert!(!text.contains("/registry/src/"), "names a place");
        }
        assert_eq!(id().unwrap().len(), 12);
    }

    #[test]
    fn the_embedded_image_has_the_shape_the_builder_wants() {
        let image = Image::embedded().unwrap();
        let pages = image.segments.iter().map(|s| s.pages.end - s.pages.start);
        assert!(pages.sum::<u64>() <= IMAGE_BYTES_MAX);
        let code = &image.segments[0];
        assert_eq!(code.access, Access::Code);
        assert!(code.pages.contains(&image.entry));
        assert!(image.segments.iter().any(|s| s.access == Access::Data));
    }
}
