//! Writes initramfs archives ("newc" cpio), the format that Linux's
//! Documentation/driver-api/early-userspace/buffer-format.rst defines. Every entry belongs
//! to root, regardless of the user who builds the image.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Returns the paths of an archive's entries.
///
/// # Errors
/// When the archive cannot be read, or was not written by this module.
pub fn names(archive: &Path) -> io::Result<Vec<String>> {
    let mut archive = BufReader::new(File::open(archive)?);
    let mut names = Vec::new();
    loop {
        let mut header = [0; HEADER];
        archive.read_exact(&mut header)?;
        let size = field(&header, CONTENT_SIZE)?;
        let mut name = vec![0; field(&header, NAME_SIZE)? as usize];
        archive.read_exact(&mut name)?;
        name.pop();
        if name == TRAILER {
            return Ok(names);
        }
        names.push(String::from_utf8(name).map_err(io::Error::other)?);
        // All padding is to multiples of four, counted from the archive's start.
        let content = archive.stream_position()?.next_multiple_of(4);
        let next = (content + size).next_multiple_of(4);
        archive.seek(SeekFrom::Start(next))?;
    }
}

/// The length of a header in bytes: a magic number and thirteen fields.
const HEADER: usize = 6 + 13 * 8;

/// The position of a field among the thirteen.
const CONTENT_SIZE: usize = 6;
const NAME_SIZE: usize = 11;

/// The name of the entry that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";

fn field(header: &[u8; HEADER], number: usize) -> io::Result<u64> {
    let digits = str::from_utf8(&header[6 + 8 * number..][..8]).map_err(io::Error::other)?;
    u64::from_str_radix(digits, 16).map_err(io::Error::other)
}

/// An archive that is being written.
pub struct Archive<W: Write> {
    out: W,
    next_inode: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    /// Starts an archive at the writer's position.
    pub fn new(out: W) -> Self {
        Self {
            out,
            next_inode: 1,
            written: 0,
        }
    }

    /// Adds a regular file. Its folders must have been added before it.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path.as_bytes(), REGULAR | permissions, (0, 0), content)
    }

    /// Adds a folder.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path.as_bytes(), DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path.as_bytes(), SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(
            path.as_bytes(),
            CHARACTER_DEVICE | 0o600,
            (major, minor),
            &[],
        )
    }

    /// Adds everything under `root`, by its path below it, except for sockets and device
    /// files.
    pub fn tree(&mut self, root: &Path) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(root)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.subtree(root, &entry.path())?;
        }
        Ok(())
    }

    /// Ends the archive and returns the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn subtree(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let below = path.strip_prefix(root).map_err(io::Error::other)?;
        let name = below.as_os_str().as_bytes();
        let metadata = path.symlink_metadata()?;
        let kind = metadata.file_type();
        let permissions = metadata.mode() & 0o7777;
        if kind.is_dir() {
            self.entry(name, DIRECTORY | permissions, (0, 0), &[])?;
            let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.subtree(root, &entry.path())?;
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(path)?;
            self.entry(name, SYMLINK | 0o777, (0, 0), target.as_os_str().as_bytes())?;
        } else if kind.is_file() {
            self.entry(name, REGULAR | permissions, (0, 0), &fs::read(path)?)?;
        } else {
            debug_assert!(kind.is_char_device() || kind.is_block_device() || kind.is_socket());
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &[u8],
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let inode = self.next_inode;
        self.next_inode += 1;
        let (major, minor) = device;
        // The fields are inode, mode, uid, gid, links, mtime, size, device of the file
        // system, device of the node, name size, and checksum (unused).
        let fields = [
            inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name)?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Adds padding, because headers and contents start at multiples of four.
    fn pad(&mut self) -> io::Result<()> {
        let over = (self.written % 4) as usize;
        if over == 0 {
            return Ok(());
        }
        self.put(&[0; 4][over..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_listed() -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let mut archive = Archive::new(file.reopen()?);
        archive.directory("etc")?;
        archive.file("etc/odd", 0o644, b"12345")?;
        archive.symlink("etc/link", "odd")?;
        archive.finish()?;
        assert_eq!(names(file.path())?, ["etc", "etc/odd", "etc/link"]);
        Ok(())
    }
}
