//! Disks that are written and read back for as long as the guest lives. The version last
//! written to each block is kept in memory, so a lost write, or one that is repeated late,
//! is detected.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::page::{BYTES, Block, Page};
use crate::protocol::DiskStatus;

/// How a disk is used.
struct Use {
    /// The number of blocks that are used, from the start of the disk.
    blocks: u64,
    /// The interval from one write to the next.
    nap: Duration,
}

impl Use {
    /// A paravirtual disk, which costs little.
    const PARAVIRTUAL: Self = Self {
        blocks: 256,
        nap: Duration::from_millis(5),
    };

    /// A disk whose every register passes through the device model. At the other pace the
    /// guest would do nothing else, and a sweep would take minutes.
    const EMULATED: Self = Self {
        blocks: 16,
        nap: Duration::from_millis(250),
    };

    fn of(device: &str) -> Self {
        match device.starts_with("/dev/xvd") {
            true => Self::PARAVIRTUAL,
            false => Self::EMULATED,
        }
    }
}

/// The disk under test and its counters.
pub struct Disk {
    file: File,
    usage: Use,
    /// The version last written to each block; 0 if there is none.
    versions: Mutex<Vec<u64>>,
    written: AtomicU64,
    checked: AtomicU64,
    errors: AtomicU64,
}

impl Disk {
    /// Opens the disk at that path, past the guest's own page cache.
    ///
    /// # Errors
    /// When the guest has no such disk.
    pub fn open(device: &str) -> io::Result<Self> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(device)
            .map_err(|error| io::Error::new(error.kind(), format!("{device}: {error}")))?;
        let usage = Use::of(device);
        Ok(Self {
            file,
            versions: Mutex::new(vec![0; usage.blocks as usize]),
            usage,
            written: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// Returns the counters of all disks together so far; `None` if there is no disk.
    pub fn status_of(disks: &[Self]) -> Option<DiskStatus> {
        let sum = |counter: fn(&Self) -> &AtomicU64| {
            let counters = disks.iter().map(counter);
            counters
                .map(|counter| counter.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        (!disks.is_empty()).then(|| DiskStatus {
            written: sum(|disk| &disk.written),
            checked: sum(|disk| &disk.checked),
            errors: sum(|disk| &disk.errors),
        })
    }

    /// Writes one block after the other, and checks another block each time.
    pub fn run(&self) -> ! {
        loop {
            for index in 0..self.usage.blocks {
                self.note(index, self.write(index));
                // The step is odd, so that each block has its turn.
                let other = (index * 89 + 1) % self.usage.blocks;
                self.note(other, self.check(other));
                thread::sleep(self.usage.nap);
            }
        }
    }

    /// Checks every block that was written.
    pub fn sweep(&self) {
        for index in 0..self.usage.blocks {
            self.note(index, self.check(index));
        }
    }

    fn write(&self, index: u64) -> io::Result<()> {
        // The lock is held until the write completes, so that no block is checked while it
        // is being written.
        let mut versions = self.versions.lock().map_err(|_| io::ErrorKind::Other)?;
        let version = &mut versions[index as usize];
        *version += 1;
        let mut page = Page::new(index);
        page.write(*version);
        self.file.write_all_at(&page.to_block().0, place(index))?;
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn check(&self, index: u64) -> io::Result<()> {
        let versions = self.versions.lock().map_err(|_| io::ErrorKind::Other)?;
        let version = versions[index as usize];
        if version == 0 {
            return Ok(());
        }
        let mut block = Block([0; BYTES]);
        self.file.read_exact_at(&mut block.0, place(index))?;
        self.checked.fetch_add(1, Ordering::Relaxed);
        Page::from_block(&block)
            .check(index, version)
            .map_err(|damage| io::Error::other(format!("{damage:?}")))
    }

    fn note(&self, index: u64, result: io::Result<()>) {
        if let Err(error) = result {
            self.errors.fetch_add(1, Ordering::Relaxed);
            eprintln!("lull-guest: block {index} of the disk: {error}");
        }
    }
}

fn place(index: u64) -> u64 {
    index * BYTES as u64
}
