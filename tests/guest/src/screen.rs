//! The screen of an HVM guest. A number is written on it for as long as the guest lives, and
//! read back before the next. Linux keeps the text of the screen in the memory of the
//! emulated graphics card alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::checks::Checks;
use crate::protocol::MachineStatus;

/// The characters on the first virtual console, which is the one on the screen.
const CONSOLE: &str = "/dev/vcs1";

/// The interval between two numbers. Each character passes through emulation.
const NAP: Duration = Duration::from_millis(200);

/// The screen under test and its counters.
pub struct Screen {
    console: File,
    checks: Checks,
}

impl Screen {
    /// Opens the screen.
    ///
    /// # Errors
    /// When the guest's Linux has no virtual console.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            console: OpenOptions::new().read(true).write(true).open(CONSOLE)?,
            checks: Checks::default(),
        })
    }

    /// Returns the counters so far.
    pub fn status(&self) -> MachineStatus {
        self.checks.status()
    }

    /// Writes one number after the other, and reads each back.
    pub fn run(&self) -> ! {
        let mut number = 0;
        loop {
            let written = self.write(number);
            thread::sleep(NAP);
            let is_right = written.and_then(|()| self.shows(number));
            self.checks.count(is_right.unwrap_or(false));
            number += 1;
        }
    }

    fn write(&self, number: u64) -> io::Result<()> {
        self.console.write_all_at(text(number).as_bytes(), 0)
    }

    fn shows(&self, number: u64) -> io::Result<bool> {
        let wanted = text(number);
        let mut shown = vec![0; wanted.len()];
        self.console.read_exact_at(&mut shown, 0)?;
        Ok(shown == wanted.as_bytes())
    }
}

fn text(number: u64) -> String {
    format!("{number:012}")
}
