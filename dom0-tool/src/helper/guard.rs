//! The guard: a second process that undoes what the helper did, should the
//! helper die of something it cannot handle.
//!
//! It holds the reading end of a pipe; the kernel closes the other end
//! whatever the helper dies of. It is in a session of its own, so that a ^C at
//! the terminal does not reach it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::thread;

use crate::control::folder::{self, Folder};
use crate::stub::orphans;
use crate::xen::domain::{Resumed, outlive_suspend};
use crate::xen::domctl::ShadowOp;
use crate::xen::{DomId, Xen};

/// The hidden subcommand that makes this binary a guard.
const SUBCOMMAND: &str = "guard";

/// The guest and the helper's process, when the command line is a guard's.
pub fn orders(args: &[OsString]) -> Option<(DomId, u32)> {
    match args {
        [_, mode, guest, helper] if mode == SUBCOMMAND => Some((
            guest.to_str()?.parse().ok()?,
            helper.to_str()?.parse().ok()?,
        )),
        _ => None,
    }
}

/// What the helper has told the guard, a byte each.
mod word {
    /// The guest is being asked to suspend itself.
    pub const ASKED: u8 = b'a';
    /// The stream is complete: the guest is not to be resumed here.
    pub const COMMITTED: u8 = b'c';
    /// Everything has been undone.
    pub const UNDONE: u8 = b'u';
}

/// The helper's end.
pub struct Guard {
    pipe: ChildStdin,
}

impl Guard {
    /// Starts a guard over `guest`.
    ///
    /// # Errors
    /// When it cannot be started: then the attempt should not be either.
    pub fn start(guest: DomId) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .arg(guest.to_string())
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { pipe })
    }

    /// The guest is about to be asked to suspend itself: it may still do so when
    /// the helper is gone.
    pub fn asked(&mut self) {
        let _ = self.pipe.write_all(&[word::ASKED]);
    }

    /// The stream is complete; stub and dirty log are now the guard's to take
    /// away, while libxl goes on.
    pub fn commit(&mut self) {
        let _ = self.pipe.write_all(&[word::COMMITTED]);
    }

    /// Nothing is left to undo.
    pub fn undone(mut self) {
        let _ = self.pipe.write_all(&[word::UNDONE]);
    }
}

/// The guard's own life: waits for the helper's end, then cleans up.
pub fn main(guest: DomId, helper: u32) -> ExitCode {
    let mut heard = Vec::new();
    // The helper writes at most a few bytes.
    let _ = io::stdin().take(16).read_to_end(&mut heard);
    let code = undo(guest, helper, &heard);
    folder::remove(&Folder::default().socket(guest, helper));
    code
}

fn undo(guest: DomId, helper: u32, heard: &[u8]) -> ExitCode {
    if heard.contains(&word::UNDONE) {
        return ExitCode::SUCCESS;
    }
    let committed = heard.contains(&word::COMMITTED);
    let asked = heard.contains(&word::ASKED) && !committed;
    match take_over(guest, helper, committed, asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lull: cleaning up after domain {guest}'s migration: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The guest first: whoever waits for it waits for this. One that may still
/// stop is watched while a stub is taken down, which can take a while.
fn take_over(guest: DomId, helper: u32, committed: bool, asked: bool) -> io::Result<()> {
    let xen = Xen::open_here()?;
    let resumed = match committed {
        true => Ok(Resumed::WasNotSuspended),
        false => xen.resume_suspended(guest),
    };
    let cleaning = thread::spawn(move || clean_up(guest, helper));
    let resumed = match resumed {
        Ok(Resumed::WasNotSuspended) if asked => outlive_suspend(&xen, guest),
        resumed => resumed,
    };
    let cleaned = cleaning.join();
    resumed?;
    cleaned.unwrap_or_else(|_| Err(io::Error::other("the stub was not taken away")))
}

fn clean_up(guest: DomId, helper: u32) -> io::Result<()> {
    let xen = Xen::open_here()?;
    orphans(&xen, Some(helper))?;
    // A guest that has gone, or whose log is off, is as it should be.
    let _ = xen.shadow_op(guest, ShadowOp::Off);
    Ok(())
}
