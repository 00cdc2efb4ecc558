//! The claim on a guest's dirty log: one lull process has it at a time.
//!
//! The claim is a lock on a file in `/run/lull`. A process and its guard hold it together,
//! and the guard removes the file when nothing is left to undo. A migration that finds the
//! lock taken writes a byte into the file. A process that only samples the log sees the
//! byte and gives way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lull_base::file_lock;
use lull_base::inherited_fd;
use lull_xen::DomId;

use super::folder::{self, Folder};

/// How long a migration waits for the claim. A process that samples checks ten times a
/// second whether it has to give way. The guard of a dead attempt may wait ten seconds for
/// a guest that is about to stop.
const INSIST: Duration = Duration::from_secs(15);

/// The interval between two checks whether to go on waiting.
const MOMENT: Duration = Duration::from_millis(100);

/// How long a sampling process waits for the claim. This covers a guard that is about to
/// end.
const ASK: Duration = Duration::from_secs(1);

/// How long a process that resumes a suspended guest waits for the claim. The guard of a
/// finished attempt checks for twenty seconds whether the guest still lands.
const OUTWAIT: Duration = Duration::from_secs(30);

/// The environment variable with the claim's descriptor number. `lull migrate` takes the
/// claim before it starts xl; the helper, or the engine, inherits the claim by this
/// descriptor.
pub const CLAIM_FD: &str = "LULL_CLAIM_FD";

/// A lock on a guest's dirty log.
#[derive(Debug)]
pub struct Claim {
    file: File,
}

/// The result of asking for a claim.
#[derive(Debug)]
pub enum LockResult {
    /// The claim is ours until the guard has finished.
    Acquired(Claim),
    /// Another process has the claim.
    Busy,
}

impl Claim {
    /// Takes the claim for a migration. A process that samples the log is asked to give
    /// way.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn preempt(folder: &Folder, domid: DomId) -> io::Result<LockResult> {
        take(folder, domid, INSIST, true)
    }

    /// Like [`Self::preempt`], while `go_on` returns true. It is called ten times a second.
    ///
    /// # Errors
    /// When the file cannot be created, or `go_on` fails.
    pub fn preempt_while<E: From<io::Error>>(
        folder: &Folder,
        domid: DomId,
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<LockResult, E> {
        let until = Instant::now() + INSIST;
        loop {
            go_on()?;
            match take(folder, domid, MOMENT, true)? {
                LockResult::Busy if Instant::now() < until => {}
                taken => return Ok(taken),
            }
        }
    }

    /// The claim that this process inherited, if it still belongs to this guest.
    pub fn inherited(folder: &Folder, domid: DomId) -> Option<Self> {
        let file = inherited_fd::named(CLAIM_FD).map(File::from)?;
        is_at(&file, &folder.claim(domid)).then_some(Self { file })
    }

    /// Takes the claim for a process that only samples the log.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn ask(folder: &Folder, domid: DomId) -> io::Result<LockResult> {
        take(folder, domid, ASK, false)
    }

    /// Takes the claim for a process that must be sure that no migration is under way.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn wait_idle(folder: &Folder, domid: DomId) -> io::Result<LockResult> {
        take(folder, domid, OUTWAIT, false)
    }

    /// Whether a migration waits for this claim.
    pub fn is_wanted(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() > 0)
    }

    /// Removes the file, and releases the lock with it.
    pub fn give_up(self, folder: &Folder, domid: DomId) {
        give_up(&self.file, folder, domid);
    }

    /// Releases the claim. The file is removed unless another process still holds the lock,
    /// as a guard does while it has something to undo.
    pub fn let_go(self, folder: &Folder, domid: DomId) {
        drop(self);
        // A second open gives an independent lock, which fails while another process holds
        // the first.
        if let Ok(LockResult::Acquired(claim)) = take(folder, domid, Duration::ZERO, false) {
            claim.give_up(folder, domid);
        }
    }

    /// A copy of the descriptor for a guard, which then holds the lock too.
    ///
    /// # Errors
    /// When too many files are open.
    pub fn share(&self) -> io::Result<Stdio> {
        self.for_child().map(Stdio::from)
    }

    /// A copy of the descriptor for a child process, which then holds the lock too.
    ///
    /// # Errors
    /// When too many files are open.
    pub fn for_child(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }
}

fn take(
    folder: &Folder,
    domid: DomId,
    patience: Duration,
    preempts: bool,
) -> io::Result<LockResult> {
    let until = Instant::now() + patience;
    folder.prepare(domid)?;
    let path = folder.claim(domid);
    loop {
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        if !file_lock::lock(&file, Duration::ZERO)? {
            if preempts {
                file.write_all(b"!")?;
            }
            if !file_lock::lock(&file, until.saturating_duration_since(Instant::now()))? {
                return Ok(LockResult::Busy);
            }
        }
        // Otherwise its last owner has removed the file, and this lock protects nothing.
        if is_at(&file, &path) {
            file.set_len(0)?;
            return Ok(LockResult::Acquired(Claim { file }));
        }
        if Instant::now() >= until {
            return Ok(LockResult::Busy);
        }
    }
}

/// Removes the file if `held` refers to it. The lock is released when the process ends.
pub fn give_up(held: &impl AsFd, folder: &Folder, domid: DomId) {
    let path = folder.claim(domid);
    let held = held.as_fd().try_clone_to_owned().map(File::from);
    if held.is_ok_and(|held| is_at(&held, &path)) {
        folder::remove(&path);
    }
}

/// Removes the claim at `path` if no process holds it: one whose owners were killed. A
/// process that waits for the lock sees that the file is gone, and takes a new one.
pub(super) fn remove_if_free(path: &Path) {
    let Ok(file) = File::options().append(true).open(path) else {
        return;
    };
    if file_lock::lock(&file, Duration::ZERO).unwrap_or(false) && is_at(&file, path) {
        folder::remove(path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |(one, other): (fs::Metadata, fs::Metadata)| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    let both = file.metadata().ok().zip(fs::symlink_metadata(path).ok());
    both.is_some_and(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        (root, folder)
    }

    fn try_for(folder: &Folder, preempts: bool) -> Option<Claim> {
        match take(folder, 7, Duration::from_millis(10), preempts).unwrap() {
            LockResult::Acquired(claim) => Some(claim),
            LockResult::Busy => None,
        }
    }

    #[test]
    fn one_has_it_and_sees_that_a_migration_wants_it() {
        let (_root, folder) = folder();
        let mine = try_for(&folder, false).unwrap();
        assert!(try_for(&folder, false).is_none());
        assert!(!mine.is_wanted());
        assert!(try_for(&folder, true).is_none());
        assert!(mine.is_wanted());
        // The guard holds the lock too.
        let guards = mine.file.try_clone().unwrap();
        drop(mine);
        assert!(try_for(&folder, true).is_none());
        give_up(&guards, &folder, 7);
        drop(guards);
        let next = try_for(&folder, false).unwrap();
        assert!(!next.is_wanted());
        // A file left behind by a guard that was killed.
        drop(next);
        assert!(folder.claim(7).exists());
        assert!(!try_for(&folder, true).unwrap().is_wanted());
    }

    #[test]
    fn a_file_stays_while_a_guard_holds_it_too() {
        let (_root, folder) = folder();
        let mine = try_for(&folder, false).unwrap();
        let guards = mine.file.try_clone().unwrap();
        mine.let_go(&folder, 7);
        assert!(folder.claim(7).exists());
        assert!(try_for(&folder, false).is_none());
        drop(guards);
        try_for(&folder, false).unwrap().let_go(&folder, 7);
        assert!(!folder.claim(7).exists());
    }

    #[test]
    fn a_claim_whose_owners_were_killed_is_cleared_away() {
        let (_root, folder) = folder();
        let mine = try_for(&folder, false).unwrap();
        folder.clear_away().unwrap();
        assert!(folder.claim(7).exists());
        drop(mine);
        folder.clear_away().unwrap();
        assert!(!folder.claim(7).exists());
    }

    #[test]
    fn nobody_takes_anothers_away() {
        let (_root, folder) = folder();
        let mine = try_for(&folder, false).unwrap();
        give_up(&io::stdin(), &folder, 7);
        assert!(folder.claim(7).exists());
        fs::remove_file(folder.claim(7)).unwrap();
        let theirs = try_for(&folder, false).unwrap();
        give_up(&mine.file, &folder, 7);
        assert!(folder.claim(7).exists());
        drop(theirs);
    }
}
