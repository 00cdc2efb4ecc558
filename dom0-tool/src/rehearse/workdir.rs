//! The folder of a rehearsal. There is one rehearsal at a time on a host, under a record
//! that outlives its process.
//!
//! The record lists what to remove, and where, if the process dies. Its
//! [`guard`](mod@super::guard) then does so, or, if that died too, the next rehearsal.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use lull_base::file_lock::{self, lock};
use lull_base::spawn::ignoring_tty_signals;
use lull_xen::host::Guest;

use super::interfaces::Interface;
use super::kernel;
use super::probe_guest::{DESTROYS_ITSELF, ProbeGuest};
use super::remote_shell::RemoteShell;

const FOLDER: &str = "/run/lull-rehearsal";
const KERNEL: &str = "kernel";
const CONFIG: &str = "config";

/// How long to wait for another rehearsal.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The folder, held for the duration of a rehearsal.
pub struct Workdir {
    folder: PathBuf,
    record: File,
    probe_guest: ProbeGuest,
}

impl Workdir {
    /// Takes the folder and removes what an earlier rehearsal left behind.
    ///
    /// # Errors
    /// If another rehearsal does not end in time, or what an earlier one left on this host
    /// cannot be removed.
    pub fn take(xl: &Path, remote: RemoteShell, note: &dyn Fn(&str)) -> anyhow::Result<Self> {
        Self::take_in(Path::new(FOLDER), xl, remote, TIMEOUT, note)
    }

    fn take_in(
        folder: &Path,
        xl: &Path,
        remote: RemoteShell,
        patience: Duration,
        note: &dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let probe_guest = ProbeGuest::new(remote).context("no name for a probe guest")?;
        let record = open_record(folder)
            .with_context(|| format!("{} cannot be written", folder.display()))?;
        if !lock(&record, Duration::ZERO)? {
            note("another rehearsal is under way on this host; waiting for its end");
            anyhow::ensure!(
                lock(&record, patience)?,
                "another rehearsal holds {}.\nNothing was done. Try again when it has ended.",
                folder.display()
            );
        }
        let workdir = Self {
            folder: folder.to_owned(),
            record,
            probe_guest,
        };
        workdir.clear_earlier(xl, note)?;
        write(&workdir.record, Some(&workdir.probe_guest))?;
        Ok(workdir)
    }

    /// The guest of this rehearsal.
    pub const fn probe_guest(&self) -> &ProbeGuest {
        &self.probe_guest
    }

    /// Creates the guest with these interfaces.
    ///
    /// # Errors
    /// If xl cannot create it; the error contains xl's message.
    pub fn create(&self, xl: &Path, interfaces: &[Interface]) -> anyhow::Result<Guest> {
        let kernel = self.folder.join(KERNEL);
        let config = self.folder.join(CONFIG);
        let made = self.create_from(xl, &kernel, &config, interfaces);
        // xl has read the files by now.
        let _ = fs::remove_file(&kernel);
        let _ = fs::remove_file(&config);
        made
    }

    fn create_from(
        &self,
        xl: &Path,
        kernel: &Path,
        config: &Path,
        interfaces: &[Interface],
    ) -> anyhow::Result<Guest> {
        write_anew(kernel, &kernel::file())?;
        write_anew(
            config,
            self.probe_guest.config(kernel, interfaces).as_bytes(),
        )?;
        let output = ignoring_tty_signals(xl)
            .args(["create", "-q"])
            .arg(config)
            .stdin(Stdio::null())
            .output()
            .context("xl could not be started")?;
        let guest = self
            .probe_guest
            .guest_here()
            .context("xenstore does not answer")?;
        match guest {
            Some(guest) if output.status.success() => Ok(guest),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                let first = said.lines().next().unwrap_or("no word").trim();
                anyhow::bail!("xl could not create it: {}", first.escape_debug())
            }
        }
    }

    /// Removes the guest and gives the folder up.
    ///
    /// # Errors
    /// What could not be removed on this host. The record stays too, so that the next
    /// rehearsal tries again.
    pub fn clean_up(self, xl: &Path, done_there: bool) -> anyhow::Result<usize> {
        let cleared = self.probe_guest.clear_here(xl)?;
        if done_there {
            write(&self.record, None)?;
        }
        Ok(cleared)
    }

    /// Removes what a dead rehearsal left on this host and returns the number of guests
    /// removed; `None` if there is no such rehearsal: nothing was left, or the folder is in use.
    ///
    /// # Errors
    /// If something could not be removed.
    pub fn clear_left(xl: &Path) -> anyhow::Result<Option<usize>> {
        match Self::left()? {
            None => Ok(None),
            Some((_, probe_guest)) => probe_guest.clear_here(xl).map(Some),
        }
    }

    /// Removes what a dead rehearsal left at the destination; nothing is left then.
    ///
    /// # Errors
    /// If the guest cannot be confirmed to be gone.
    pub fn clear_left_there() -> anyhow::Result<()> {
        let Some((record, probe_guest)) = Self::left()? else {
            return Ok(());
        };
        for file in [KERNEL, CONFIG] {
            let _ = fs::remove_file(Path::new(FOLDER).join(file));
        }
        if probe_guest.remote.takes_commands() {
            probe_guest.clear_there()?;
        }
        write(&record, None)
    }

    /// The record of a dead rehearsal, locked.
    fn left() -> anyhow::Result<Option<(File, ProbeGuest)>> {
        let folder = Path::new(FOLDER);
        if !folder.exists() {
            return Ok(None);
        }
        let record = open_record(folder)?;
        if !lock(&record, Duration::ZERO)? {
            return Ok(None);
        }
        Ok(read(&record).map(|probe_guest| (record, probe_guest)))
    }

    /// Removes what the record lists.
    fn clear_earlier(&self, xl: &Path, note: &dyn Fn(&str)) -> anyhow::Result<()> {
        let Some(earlier) = read(&self.record) else {
            return Ok(());
        };
        let here = earlier.clear_here(xl)?;
        if here > 0 {
            note("removed a probe guest that an earlier rehearsal left here");
        }
        match earlier.clear_there() {
            Ok(()) => {}
            // The command led back to this host.
            Err(_) if here > 0 && !earlier.remote.takes_commands() => {}
            Err(error) => note(&format!(
                "an earlier rehearsal may have left its guest at {}, and that cannot be looked at ({error:#}); it destroys itself within {} s",
                earlier.remote.host(),
                DESTROYS_ITSELF.as_secs(),
            )),
        }
        write(&self.record, None)
    }
}

/// An incomplete record means that nothing had been started.
fn read(mut record: &File) -> Option<ProbeGuest> {
    let mut text = String::new();
    record.rewind().ok()?;
    record.take(1 << 16).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write(mut record: &File, probe_guest: Option<&ProbeGuest>) -> anyhow::Result<()> {
    let text = serde_json::to_string(&probe_guest).context("a record")?;
    record.set_len(0)?;
    record.rewind()?;
    record
        .write_all(text.as_bytes())
        .context("the record cannot be written")
}

/// Opens the record, readable by root only.
fn open_record(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    file_lock::file(&folder.join("record"))
}

fn write_anew(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workdir_is_for_one_and_its_record_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("workdir");
        let take = || {
            let remote = RemoteShell::new(Some(""), "true");
            let none = Path::new("/nonexistent/xl");
            Workdir::take_in(&folder, none, remote, Duration::ZERO, &|_| {})
        };
        // Without a record nothing is asked of Xen.
        let workdir = take().unwrap();
        let error = take().err().unwrap().to_string();
        assert!(error.contains("another rehearsal"), "{error}");
        let written = fs::read_to_string(folder.join("record")).unwrap();
        let record: ProbeGuest = serde_json::from_str(&written).unwrap();
        assert_eq!(&record, workdir.probe_guest());
    }
}
