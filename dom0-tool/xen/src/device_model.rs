//! The device model of an HVM guest: a QEMU in dom0, which emulates the guest's machine.
//!
//! While QEMU is stopped, Xen answers all ones for every emulated register and drops every
//! write. So QEMU must run before the guest does. libxl stops it once the guest has
//! suspended, and saves its state (`libxl_dom_suspend.c`, 4.17 to 4.22).

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::qmp::{Qmp, QmpError};
use super::xenstore::Xenstore;
use super::{DomId, Xen};

/// The time that QEMU has to run again. It opens its disks in it, which takes milliseconds.
/// The guest waits meanwhile, and a QEMU that hangs must not keep it from running on.
pub const RUNNING: Duration = Duration::from_secs(1);

/// How long to wait for a libxl that has lost its helper to stop QEMU. It does so within
/// milliseconds after the guest's stop, or not at all.
const BEING_STOPPED: Duration = Duration::from_secs(3);

/// Interval between two checks whether it has.
const BEING_STOPPED_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The time that QEMU has to switch its part of the dirty log, as with libxl
/// (`libxl_dom_save.c`, 4.17).
const SWITCHING: Duration = Duration::from_secs(10);

/// The time that QEMU has to stop and to save its state, as with libxl (`libxl_qmp.c`, 4.17).
pub const SAVING: Duration = Duration::from_secs(10);

/// Which device model a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// None: the guest is not HVM.
    None,
    /// QEMU in dom0.
    Qemu,
    /// The QEMU of Xen's own from before 2012, which has no such monitor.
    Traditional,
    /// QEMU in a domain of its own, which dom0 cannot ask.
    StubDomain,
}

impl Model {
    /// Looks up the device model of `domain`.
    ///
    /// # Errors
    /// When xenstore does not answer.
    pub fn of(store: &mut Xenstore, domain: DomId) -> io::Result<Self> {
        Self::by(domain, |path| store.read(&path))
    }

    /// Looks it up with `read`, which reads a node of xenstore.
    fn by(
        domain: DomId,
        mut read: impl FnMut(String) -> io::Result<Option<String>>,
    ) -> io::Result<Self> {
        if read(format!("/libxl/{domain}/type"))?.as_deref() != Some("hvm") {
            return Ok(Self::None);
        }
        // libxl takes a missing entry for the old model (`libxl_internal.c`, 4.17).
        if read(format!("/libxl/{domain}/dm-version"))?.as_deref() != Some("qemu_xen") {
            return Ok(Self::Traditional);
        }
        let path = format!("/local/domain/{domain}/image/device-model-domid");
        // The entry of a QEMU in dom0 says so, or does not exist.
        Ok(match read(path)?.as_deref() {
            None | Some("0") => Self::Qemu,
            Some(_) => Self::StubDomain,
        })
    }
}

/// What a guest's emulated devices do, after an order to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// The guest has none.
    None,
    /// QEMU runs.
    Run,
    /// QEMU did not answer in time.
    Silent,
    /// QEMU does not run any more.
    Gone,
    /// QEMU answered, and did not do it.
    Refused,
}

impl Devices {
    /// What is wrong with them, as a clause; `None` if nothing is. `words` are what QEMU said,
    /// or are empty ([`MakeRun::words`]).
    pub fn complaint(self, words: &str) -> Option<String> {
        Some(match self {
            Self::None | Self::Run => return None,
            Self::Silent => {
                "its QEMU did not answer, so its emulated devices may stand still until it does"
                    .to_owned()
            }
            Self::Gone => {
                "its QEMU does not run any more, so it has no emulated devices: shut it down and \
                 start it again"
                    .to_owned()
            }
            Self::Refused => {
                let said = match words {
                    "" => String::new(),
                    words => format!(" (it {words})"),
                };
                format!(
                    "its QEMU would not run again yet{said}: if its emulated devices do not come \
                     back within a minute, shut it down and start it again"
                )
            }
        })
    }
}

impl From<&QmpError> for Devices {
    fn from(error: &QmpError) -> Self {
        match error {
            QmpError::Gone => Self::Gone,
            QmpError::Silent => Self::Silent,
            QmpError::Refused(_) | QmpError::Garbage | QmpError::Unreachable(_) => Self::Refused,
        }
    }
}

/// The file into which libxl has QEMU save its state. libxl does not shorten one that is
/// there already, and nothing removes it (`libxl_qmp.c`, 4.17).
pub fn saved_state(domain: DomId) -> PathBuf {
    PathBuf::from(format!("/var/lib/xen/qemu-save.{domain}"))
}

/// The file from which libxl has QEMU load its state at a restore, and which it makes if it
/// is not there. libxl opens it without a look at its type, and removes it once QEMU runs
/// (`libxl_stream_read.c`, `libxl_dm.c`, 4.17 to 4.22).
pub fn incoming_state(domain: DomId) -> PathBuf {
    PathBuf::from(format!("/var/lib/xen/qemu-resume.{domain}"))
}

/// The node of xenstore in which libxl waits for "running" once it has started the QEMU of
/// `domain` (`libxl_dm.c`, 4.17 to 4.22).
pub fn state_node(domain: DomId) -> String {
    format!("/local/domain/0/device-model/{domain}/state")
}

/// The beginning of each state that QEMU saves: `QEVM` and the format's version
/// (`migration/savevm.c`, QEMU 7.2 and 10.0). A QEMU that has read this waits for the rest.
pub const STATE_HEADER: [u8; 8] = *b"QEVM\0\0\0\x03";

/// The largest state of a QEMU that is accepted, in bytes. Some kilobytes are usual.
pub const STATE_MAX: usize = 16 << 20;

/// Makes a guest's emulated devices run, before the guest does.
pub trait MakeRun {
    /// Returns within a second or so, whatever QEMU does.
    fn make_run(&mut self) -> Devices;

    /// Why QEMU did not do what it was asked last, as a clause with QEMU as its subject. Empty
    /// if it did, or said nothing.
    fn words(&self) -> &str {
        ""
    }
}

/// What a QEMU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits for its state, or loads it.
    Waits,
    /// It runs.
    Runs,
    /// Anything else.
    Other,
}

/// A guest's QEMU, asked over its second monitor, which only xentop uses besides. libxl has
/// the first, with a lock.
#[derive(Debug)]
pub struct Qemu {
    socket: PathBuf,
}

impl Qemu {
    /// The QEMU of `domain`; asks nothing yet.
    pub fn of(domain: DomId) -> Self {
        Self {
            // `libxl_dm.c`, 4.17 to 4.22.
            socket: PathBuf::from(format!("/var/run/xen/qmp-libxenstat-{domain}")),
        }
    }

    /// Whether QEMU answers. Changes nothing.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn answers(&self) -> Result<(), QmpError> {
        let mut qmp = Qmp::connect(&self.socket, RUNNING)?;
        qmp.execute("query-status", None).map(drop)
    }

    /// Switches QEMU's part of the dirty log off, wherever the switch is. QEMU aborts when
    /// it is to switch off what is not on; to switch on twice is harmless.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn end_dirty_log(&self) -> Result<(), QmpError> {
        let mut qmp = Qmp::connect(&self.socket, SWITCHING)?;
        for on in [true, false] {
            qmp.execute("xen-set-global-dirty-log", Some(json!({ "enable": on })))?;
        }
        Ok(())
    }

    /// Switches QEMU's part of the dirty log on.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn begin_dirty_log(&self) -> Result<(), QmpError> {
        let mut qmp = Qmp::connect(&self.socket, SWITCHING)?;
        let on = json!({ "enable": true });
        qmp.execute("xen-set-global-dirty-log", Some(on)).map(drop)
    }

    /// What QEMU does now. Changes nothing.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn status(&self) -> Result<Status, QmpError> {
        let mut qmp = Qmp::connect(&self.socket, RUNNING)?;
        let status = qmp.execute("query-status", None)?;
        Ok(match status.get("status").and_then(|it| it.as_str()) {
            Some("inmigrate") => Status::Waits,
            Some("running") => Status::Runs,
            _ => Status::Other,
        })
    }

    /// Stops QEMU and has it write its state to `file`, which must be open for writing only.
    /// It writes back its disks first and lets go of them, so that another QEMU may open
    /// them. It stays stopped whether or not this works.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn stop_and_save(&self, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        let mut qmp = Qmp::connect(&self.socket, SAVING)?;
        qmp.execute("stop", None)?;
        let name = qmp.add_file(file)?;
        let arguments = json!({ "filename": name, "live": true });
        qmp.execute("xen-save-devices-state", Some(arguments))
            .map(drop)
    }

    /// Makes QEMU run as soon as it is stopped, or after a few seconds, for a guest that has
    /// suspended itself for a libxl which is not known to have stopped QEMU already. A QEMU
    /// that libxl stopped after that would leave a running guest without its devices.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn run_once_stopped(&self) -> Result<(), QmpError> {
        let until = Instant::now() + BEING_STOPPED;
        loop {
            let mut qmp = Qmp::connect(&self.socket, RUNNING)?;
            if is_stopped(&mut qmp)? || Instant::now() >= until {
                return qmp.execute("cont", None).map(drop);
            }
            // The monitor has one client at a time.
            drop(qmp);
            std::thread::sleep(BEING_STOPPED_POLL_INTERVAL);
        }
    }

    /// The longest time that [`Self::run_once_stopped`] takes.
    pub const RUN_ONCE_STOPPED_MAX: Duration = BEING_STOPPED.saturating_add(RUNNING);

    /// Makes QEMU run if it is stopped although `domain`, its guest, runs. A libxl that has
    /// lost its helper may have stopped it late.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn follow(&self, xen: &Xen, domain: DomId) -> Result<(), QmpError> {
        let mut qmp = Qmp::connect(&self.socket, RUNNING)?;
        let is_stopped = is_stopped(&mut qmp)?;
        // A guest that is suspended now is another's to resume, with its QEMU.
        let runs = matches!(xen.domain_state(domain), Ok(Some(state)) if state.shutdown.is_none() && !state.dying);
        if is_stopped && runs {
            qmp.execute("cont", None)?;
        }
        Ok(())
    }

    /// Makes QEMU run, before its guest does.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn run(&self) -> Result<(), QmpError> {
        let mut qmp = Qmp::connect(&self.socket, RUNNING)?;
        qmp.execute("cont", None).map(drop)
    }
}

fn is_stopped(qmp: &mut Qmp) -> Result<bool, QmpError> {
    let status = qmp.execute("query-status", None)?;
    Ok(status.get("status").and_then(|it| it.as_str()) == Some("paused"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_that_stand_still_are_complained_of() {
        assert_eq!(Devices::None.complaint(""), None);
        assert_eq!(Devices::Run.complaint(""), None);
        for (error, devices) in [
            (QmpError::Gone, Devices::Gone),
            (QmpError::Silent, Devices::Silent),
            (QmpError::Refused(String::new()), Devices::Refused),
            (QmpError::Garbage, Devices::Refused),
        ] {
            assert_eq!(Devices::from(&error), devices);
            let complaint = devices.complaint("").unwrap();
            assert!(complaint.contains("QEMU"), "{complaint}");
            assert!(!complaint.contains("()"), "{complaint}");
        }
        let said = Devices::Refused.complaint("refuses: no lock").unwrap();
        assert!(said.contains("(it refuses: no lock)"), "{said}");
    }

    #[test]
    fn a_device_model_is_known_by_what_libxl_wrote() {
        let of = |nodes: &[(&str, &str)]| {
            let read = |path: String| {
                let node = nodes.iter().find(|(node, _)| *node == path);
                Ok(node.map(|(_, value)| (*value).to_owned()))
            };
            Model::by(7, read).unwrap()
        };
        let hvm = ("/libxl/7/type", "hvm");
        let qemu = ("/libxl/7/dm-version", "qemu_xen");
        let domid = "/local/domain/7/image/device-model-domid";
        assert_eq!(of(&[("/libxl/7/type", "pvh")]), Model::None);
        assert_eq!(of(&[]), Model::None);
        assert_eq!(of(&[hvm, qemu]), Model::Qemu);
        assert_eq!(of(&[hvm, qemu, (domid, "0")]), Model::Qemu);
        assert_eq!(of(&[hvm, qemu, (domid, "8")]), Model::StubDomain);
        // libxl takes a missing version for the old one, too.
        let old = ("/libxl/7/dm-version", "qemu_xen_traditional");
        for version in [&[hvm][..], &[hvm, old]] {
            assert_eq!(of(version), Model::Traditional);
        }
    }

    /// A QEMU that stops and saves, behind a socket in `folder`.
    fn fake(folder: &std::path::Path, answers: &'static [&'static str]) -> Qemu {
        use std::io::{BufRead, BufReader, Write};
        let socket = folder.join("qmp");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut to, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(to.try_clone().unwrap()).lines();
            writeln!(to, r#"{{"QMP": {{}}}}"#).unwrap();
            for answer in [r#"{"return": {}}"#].iter().chain(answers) {
                lines.next();
                writeln!(to, "{answer}").unwrap();
            }
            lines.next();
        });
        Qemu { socket }
    }

    #[test]
    fn what_a_qemu_does_is_known_by_its_words() {
        for (said, status) in [
            (r#"{"return": {"status": "inmigrate"}}"#, Status::Waits),
            (r#"{"return": {"status": "running"}}"#, Status::Runs),
            (r#"{"return": {"status": "paused"}}"#, Status::Other),
            (r#"{"return": []}"#, Status::Other),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let answers: &'static [&'static str] = Box::leak(Box::new([said]));
            assert_eq!(fake(folder.path(), answers).status().unwrap(), status);
        }
    }

    #[test]
    fn a_qemu_is_stopped_before_it_saves_and_a_refusal_is_told() {
        use std::os::fd::AsFd;
        const DONE: &str = r#"{"return": {}}"#;
        const SET: &str = r#"{"return": {"fdset-id": 1}}"#;
        const NO: &str = r#"{"error": {"desc": "no"}}"#;
        let file = tempfile::tempfile().unwrap();
        for (answers, saved) in [
            (&[DONE, SET, DONE][..], true),
            (&[NO], false),
            (&[DONE, DONE], false),
            (&[DONE, SET, NO], false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let done = fake(folder.path(), answers).stop_and_save(file.as_fd());
            assert_eq!(done.is_ok(), saved, "{answers:?}: {done:?}");
        }
    }

    #[test]
    fn a_guest_whose_qemu_is_gone_waits_for_nothing() {
        // No domain has this number.
        assert!(matches!(Qemu::of(0x7ff1).run(), Err(QmpError::Gone)));
    }
}
