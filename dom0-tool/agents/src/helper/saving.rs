//! QEMU's state in a fast landing, in which libxl is not asked to save it.
//!
//! libxl sends the file into which it would have had QEMU save its state. Before the stream
//! ends, [`Beginning`] puts the beginning of a state there, for which the copy's QEMU waits.
//! Once the guest has stopped, [`Saving`] has QEMU stop and save.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use lull_engine::SuspendAnswer;
use lull_xen::device_model::STATE_HEADER;

use crate::emulated::Emulated;

/// The beginning of a state, in a file that is removed when this is dropped.
#[derive(Debug)]
pub struct Beginning(PathBuf);

impl Beginning {
    /// Makes the file, in the place of one that an earlier pause may have left.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let beginning = Self(path);
        file.write_all(&STATE_HEADER)?;
        Ok(beginning)
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A QEMU that can be asked to stop and to save its state.
pub trait Saves {
    /// Tells it, and does not wait.
    fn begin_save(&mut self);

    /// Whether it has done so; `None` while it is not known.
    fn is_saved(&mut self) -> Option<bool>;
}

impl Saves for Emulated {
    fn begin_save(&mut self) {
        Self::begin_save(self);
    }

    fn is_saved(&mut self) -> Option<bool> {
        Self::is_saved(self)
    }
}

/// Has QEMU stop and save once the guest has stopped.
#[derive(Debug, Default)]
pub struct Saving {
    under_way: bool,
}

impl Saving {
    /// The answer to the request to suspend: `answer` is the guest's own part of it.
    pub fn after(
        &mut self,
        answer: Option<SuspendAnswer>,
        qemu: &mut dyn Saves,
    ) -> Option<SuspendAnswer> {
        match answer {
            Some(SuspendAnswer::Stopped) => {
                self.under_way = true;
                qemu.begin_save();
            }
            Some(SuspendAnswer::Failed) => return answer,
            None if self.under_way => {}
            None => return None,
        }
        let saved = qemu.is_saved()?;
        self.under_way = false;
        Some(match saved {
            true => SuspendAnswer::Stopped,
            false => SuspendAnswer::Failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        begun: u32,
        saved: Option<bool>,
    }

    impl Saves for Fake {
        fn begin_save(&mut self) {
            self.begun += 1;
        }

        fn is_saved(&mut self) -> Option<bool> {
            self.saved
        }
    }

    #[test]
    fn the_guest_counts_as_stopped_once_its_qemu_is_saved() {
        for (saved, answer) in [
            (true, SuspendAnswer::Stopped),
            (false, SuspendAnswer::Failed),
        ] {
            let (mut saving, mut qemu) = (Saving::default(), Fake::default());
            assert_eq!(saving.after(None, &mut qemu), None);
            assert_eq!(qemu.begun, 0);
            // Another pause may follow.
            for pauses in 1..=2 {
                qemu.saved = None;
                let stopped = Some(SuspendAnswer::Stopped);
                assert_eq!(saving.after(stopped, &mut qemu), None);
                assert_eq!(saving.after(None, &mut qemu), None);
                qemu.saved = Some(saved);
                assert_eq!(saving.after(None, &mut qemu), Some(answer));
                assert_eq!(saving.after(None, &mut qemu), None, "answered once");
                assert_eq!(qemu.begun, pauses);
            }
        }
    }

    #[test]
    fn a_guest_that_does_not_stop_keeps_its_qemu() {
        let (mut saving, mut qemu) = (Saving::default(), Fake::default());
        let failed = Some(SuspendAnswer::Failed);
        assert_eq!(saving.after(failed, &mut qemu), failed);
        assert_eq!(qemu.begun, 0);
    }

    #[test]
    fn the_beginning_of_a_state_takes_the_place_of_an_old_one_and_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qemu-save.7");
        fs::write(&path, "an earlier pause's, which is longer").unwrap();
        let beginning = Beginning::at(path.clone()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), STATE_HEADER);
        drop(beginning);
        assert!(!path.exists());
        assert!(Beginning::at(folder.path().join("nowhere/qemu-save.7")).is_err());
    }
}
