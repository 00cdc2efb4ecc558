//! Extracts the kernel proper from a bzImage; Linux's Documentation/arch/x86/boot.rst
//! describes the header.

use std::fs::File;
use std::io::{Seek, Write};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell_out::output_of;

const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// The first bytes of a packed kernel, and the program that unpacks it: Debian 12 uses xz,
/// Debian 13 zstd.
const PACKERS: [(&[u8], &str); 2] = [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];

/// The number of bytes of the unpacked size, which the kernel's build appends.
const SIZE: usize = 4;

/// Returns the uncompressed kernel, an ELF file.
///
/// # Errors
/// When the image does not follow the boot protocol, or is packed in another format.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload_of(image).context("the kernel's header is damaged")?;
    let (_, packer) = PACKERS
        .into_iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .context("the kernel is packed neither with xz nor with zstd")?;
    let mut file: File = tempfile::tempfile()?;
    file.write_all(&payload[..payload.len() - SIZE])?;
    file.rewind()?;
    let kernel = output_of(
        Command::new(packer)
            .args(["--decompress", "--stdout"])
            .stdin(file),
    )?;
    ensure!(kernel.starts_with(b"\x7fELF"), "the kernel is no ELF file");
    Ok(kernel)
}

fn payload_of(image: &[u8]) -> Option<&[u8]> {
    let field = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let protected = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * SECTOR;
    let start = protected.checked_add(field(PAYLOAD_OFFSET)?)?;
    image.get(start..start.checked_add(field(PAYLOAD_LENGTH)?)?)
}
