//! Checks that this host is ready and that the guest can be moved, before anything is
//! touched. Every refusal says what is wrong and what to do.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lull_base::suggest::{did_you_mean, nearest};
use thiserror::Error;

use crate::device_model::Model;
use crate::guest_type::GuestType;
use crate::probe_guest::MARK;
use crate::xenstore::Xenstore;
use crate::{self as xen, DomId, DomainState, version};

/// A guest found on this host; [`guest`] also checks that it is PVH or HVM and runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The domid at the source.
    pub domid: DomId,
    /// The guest's name in xenstore.
    pub name: String,
}

/// Why nothing was begun. The message is shown in full, with exit code 2.
#[derive(Debug, Error)]
pub enum NotReady {
    /// The caller is not root, and hypercalls need root.
    #[error("this needs root: {HYPERCALLS}.\n{UNTOUCHED} Run it again with `sudo`.")]
    NotRoot,
    /// This host does not run on Xen.
    #[error(
        "this host does not run on Xen ({found}).\n{UNTOUCHED} Boot the host with Xen, and run lull in its dom0."
    )]
    NoXen {
        /// What the check found.
        found: String,
    },
    /// This host is an ordinary guest of Xen.
    #[error(
        "this is a guest of Xen, not its control domain.\n{UNTOUCHED} Run lull in dom0, where `xl` runs."
    )]
    NotDom0,
    /// The device for hypercalls is missing.
    #[error(
        "{device} is missing: the kernel module that opens the hypervisor is not loaded.\n{UNTOUCHED} `modprobe xen-privcmd`, then try again."
    )]
    NoPrivcmd {
        /// Path of the device node.
        device: PathBuf,
    },
    /// The Xen version has no entry in the version table.
    #[error("{source}.\n{UNTOUCHED} Its interface may differ: use a lull that knows this Xen.")]
    Version {
        /// The error of the version check.
        source: version::VersionError,
    },
    /// xl is not installed, or not found.
    #[error(
        "`xl` was not found on PATH, nor in /usr/sbin.\n{UNTOUCHED} Install Xen's tools (Debian: xen-utils) or put `xl` on PATH."
    )]
    NoXl,
    /// xenstored does not answer.
    #[error(
        "xenstore does not answer: {source}.\n{UNTOUCHED} Is xenstored running? `xl list` must work first."
    )]
    NoXenstore {
        /// The error from xenstore.
        source: io::Error,
    },
    /// No domain on this host has this name or number.
    #[error(
        "there is no domain `{asked}` on this host{}.\n{UNTOUCHED} `xl list` shows the domains.",
        did_you_mean(nearest)
    )]
    NoSuchDomain {
        /// The name or number as given.
        asked: String,
        /// Names of guests that resemble it.
        nearest: Vec<String>,
    },
    /// The domain is dom0, which cannot be moved.
    #[error("domain 0 is the host itself and cannot be moved.\n{UNTOUCHED} Name a guest.")]
    Dom0,
    /// The guest is a rehearsal's probe guest.
    #[error(
        "{name} is a rehearsal's probe guest.\n{UNTOUCHED} `lull rehearse HOST` moves one of its own; this one destroys itself."
    )]
    ProbeGuest {
        /// The guest's name.
        name: String,
    },
    /// The guest is neither PVH nor HVM.
    #[error(
        "{name} is {} guest, which lull cannot move: only PVH and HVM.{}\n{UNTOUCHED} {}",
        article(kind),
        remark(kind),
        cure(kind)
    )]
    WrongKind {
        /// The guest's name.
        name: String,
        /// The guest's type.
        kind: GuestType,
    },
    /// The guest's device model cannot be asked to run again.
    #[error(
        "{name} {what}, so lull could not make its emulated devices run again should it refuse the pause.\n{UNTOUCHED} Stock `xl migrate` moves it, without limits."
    )]
    DeviceModel {
        /// The guest's name.
        name: String,
        /// What its device model is, as a verb phrase.
        what: &'static str,
    },
    /// The guest has a PCI device passed through.
    #[error(
        "{name} has a PCI device passed through, and what that writes shows in no dirty log: it cannot be moved while it runs.\n{UNTOUCHED} Detach it first: `xl pci-list {name}`, `xl pci-detach`."
    )]
    PassThrough {
        /// The name of the guest.
        name: String,
    },
    /// The guest is not running.
    #[error("{name} {state}.\n{UNTOUCHED} {remedy}")]
    NotRunning {
        /// The name of the guest.
        name: String,
        /// The guest's state, as a verb phrase.
        state: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The guest's kernel cannot suspend itself.
    #[error(
        "{name}'s kernel powers off and reboots when it is asked to, but does not suspend itself, without which no guest moves.\n{UNTOUCHED} Boot a kernel that does (Linux: CONFIG_HIBERNATE_CALLBACKS), or move it switched off."
    )]
    NoSuspend {
        /// The name of the guest.
        name: String,
    },
    /// The hypervisor does not return the guest's state.
    #[error(
        "the hypervisor does not say how {name} is: {source}.\n{UNTOUCHED} `xl list` must work first."
    )]
    NoState {
        /// The name of the guest.
        name: String,
        /// The error from the hypervisor.
        source: io::Error,
    },
}

impl NotReady {
    /// Splits the message into what was found, as a clause, and what to do about it.
    pub fn found_and_cure(&self) -> (String, String) {
        let text = self.to_string();
        match text.split_once(&format!(".\n{UNTOUCHED} ")) {
            Some((found, cure)) => (found.to_owned(), cure.to_owned()),
            None => (text, String::new()),
        }
    }
}

const UNTOUCHED: &str = "Nothing was done.";
const HYPERCALLS: &str = "only root may ask the hypervisor";

fn article(kind: &GuestType) -> String {
    match kind {
        GuestType::Pvh => "a PVH".to_owned(),
        GuestType::Pv => "a PV".to_owned(),
        GuestType::Hvm => "an HVM".to_owned(),
        GuestType::Unknown(kind) if kind.is_empty() => {
            "not a guest of libxl's, so not such a".to_owned()
        }
        GuestType::Unknown(kind) => format!("a `{kind}`"),
    }
}

/// PV log-dirty works through shadow page tables, which Xen's security releases of July 2026
/// leave out unless asked (XSA-495). The libxl errors that would follow do not mention this.
fn remark(kind: &GuestType) -> &'static str {
    match kind {
        GuestType::Pv => {
            " Tracking what a PV guest writes needs a hypervisor built with shadow paging (CONFIG_SHADOW_PAGING), which recent ones are not: there stock live migration fails too."
        }
        _ => "",
    }
}

/// What can be done for such a guest, as sentences.
fn cure(kind: &GuestType) -> &'static str {
    match kind {
        GuestType::Pv => {
            "Boot it as a PVH guest (`type=\"pvh\"`), or with `pvshim=1`; or move it with stock `xl migrate`, without limits."
        }
        _ => "Stock `xl migrate` moves it, without limits.",
    }
}

/// The root directory for the checks of this host; tests use a directory of their own.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }
}

impl Host {
    /// Checks everything that does not concern a particular guest. Returns the path of
    /// `xl`.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn check(&self) -> Result<PathBuf, NotReady> {
        Self::check_root()?;
        self.check_xen()?;
        version::detect().map_err(|source| NotReady::Version { source })?;
        self.xl()
    }

    /// # Errors
    /// When this is not root.
    pub fn check_root() -> Result<(), NotReady> {
        match rustix::process::geteuid().is_root() {
            true => Ok(()),
            false => Err(NotReady::NotRoot),
        }
    }

    /// Finds the path of `xl`.
    ///
    /// # Errors
    /// When there is none.
    pub fn xl(&self) -> Result<PathBuf, NotReady> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.find_xl(&path).ok_or(NotReady::NoXl)
    }

    /// # Errors
    /// When this is not a dom0 that can be asked.
    pub fn check_xen(&self) -> Result<(), NotReady> {
        let hypervisor = self.root.join("sys/hypervisor/type");
        let found = match fs::read_to_string(&hypervisor) {
            Ok(text) if text.trim() == "xen" => None,
            Ok(text) => Some(format!(
                "{} says `{}`",
                hypervisor.display(),
                text.trim().escape_debug()
            )),
            Err(_) => Some(format!("there is no {}", hypervisor.display())),
        };
        if let Some(found) = found {
            return Err(NotReady::NoXen { found });
        }
        // This file exists only when xenfs is mounted; otherwise the next check reports the
        // problem.
        let capabilities = fs::read_to_string(self.root.join("proc/xen/capabilities"));
        if capabilities.is_ok_and(|text| !text.contains("control_d")) {
            return Err(NotReady::NotDom0);
        }
        let device = self.root.join("dev/xen/privcmd");
        if !device.exists() {
            return Err(NotReady::NoPrivcmd { device });
        }
        Ok(())
    }

    /// Looks for `xl` on PATH, then where distributions install it: a shell of `su` may
    /// lack `/usr/sbin`. The command that `lull enable xl` makes is passed over: lull
    /// starts Xen's own xl.
    fn find_xl(&self, path: &OsStr) -> Option<PathBuf> {
        std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .chain([self.root.join("usr/sbin"), self.root.join("usr/local/sbin")])
            .map(|folder| folder.join("xl"))
            .find(|xl| is_executable(xl) && !is_lulls(xl))
    }
}

/// The second line of the `xl` that `lull enable xl` makes.
pub const XL_OF_LULL: &str = "# Made by `lull enable xl`; `lull disable xl` takes it away.";

/// The largest `xl` in bytes that can be lull's.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The text of an `xl` that `lull enable xl` made, of this lull or another. `None` if the
/// file is another program.
///
/// # Errors
/// When there is no such file, or it cannot be read.
pub fn xl_of_lull(xl: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = fs::symlink_metadata(xl)?;
    if !file.is_file() || file.len() > MAX_FILE_BYTES {
        return Ok(None);
    }
    let content = fs::read(xl)?;
    let line = content.split(|byte| *byte == b'\n').nth(1);
    Ok((line == Some(XL_OF_LULL.as_bytes())).then_some(content))
}

fn is_lulls(xl: &Path) -> bool {
    matches!(xl_of_lull(xl), Ok(Some(_)))
}

/// Whether the path is a file that this user may execute.
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Finds the guest by name or number, and checks that it can be moved.
///
/// # Errors
/// When there is no such guest, when it is of another type, or when it does not run.
pub fn guest(asked: &str) -> Result<Guest, NotReady> {
    let (guest, mut store) = named(asked)?;
    check_guest(&mut store, &guest, || xen::state(guest.domid))?;
    Ok(guest)
}

/// Checks that a guest can be moved; `state` asks Xen for its state.
///
/// # Errors
/// When it is of another type, or when it does not run.
pub fn check_guest(
    store: &mut Xenstore,
    guest: &Guest,
    state: impl FnOnce() -> io::Result<Option<DomainState>>,
) -> Result<(), NotReady> {
    check_type(store, guest)?;
    let name = || guest.name.clone();
    match state() {
        Ok(state) => check_runs(&guest.name, state)?,
        Err(source) => {
            return Err(NotReady::NoState {
                name: name(),
                source,
            });
        }
    }
    match cannot_suspend(store, guest.domid) {
        Ok(false) => Ok(()),
        Ok(true) => Err(NotReady::NoSuspend { name: name() }),
        Err(source) => Err(NotReady::NoXenstore { source }),
    }
}

/// Whether the guest lists what it does on request and suspending is not in the list. Linux
/// writes its list to xenstore (`setup_shutdown_watcher` in drivers/xen/manage.c, 6.1). A
/// guest without a list may or may not be able to suspend, so the result is false.
fn cannot_suspend(store: &mut Xenstore, domain: DomId) -> io::Result<bool> {
    let mut does = |what: &str| {
        let path = format!("/local/domain/{domain}/control/feature-{what}");
        store.read(&path).map(|value| value.as_deref() == Some("1"))
    };
    Ok(does("poweroff")? && !does("suspend")?)
}

/// Finds the guest by name or number.
///
/// # Errors
/// When there is no such guest, or when it is of another type.
pub fn guest_in_any_state(asked: &str) -> Result<Guest, NotReady> {
    let (guest, mut store) = named(asked)?;
    check_type(&mut store, &guest)?;
    Ok(guest)
}

fn check_type(store: &mut Xenstore, guest: &Guest) -> Result<(), NotReady> {
    let no_xenstore = |source| NotReady::NoXenstore { source };
    let name = || guest.name.clone();
    if guest.name.starts_with(MARK) {
        return Err(NotReady::ProbeGuest { name: name() });
    }
    let devices = store.list(&format!("/libxl/{}/device/pci", guest.domid));
    check_pci(&guest.name, &devices.map_err(no_xenstore)?)?;
    match GuestType::of(store, guest.domid).map_err(no_xenstore)? {
        GuestType::Pvh => Ok(()),
        GuestType::Hvm => {
            let model = Model::of(store, guest.domid).map_err(no_xenstore)?;
            match unusable(model) {
                None => Ok(()),
                Some(what) => Err(NotReady::DeviceModel { name: name(), what }),
            }
        }
        kind => Err(NotReady::WrongKind { name: name(), kind }),
    }
}

/// `devices` are the guest's devices of the kind `pci`.
fn check_pci(name: &str, devices: &[String]) -> Result<(), NotReady> {
    match devices.is_empty() {
        true => Ok(()),
        false => Err(NotReady::PassThrough {
            name: name.to_owned(),
        }),
    }
}

/// Why an HVM guest with that device model cannot be moved, as a verb phrase; `None` if it
/// can.
pub const fn unusable(model: Model) -> Option<&'static str> {
    match model {
        Model::None | Model::Qemu => None,
        Model::Traditional => Some("has the device model qemu-xen-traditional"),
        Model::StubDomain => Some("has its device model in a domain of its own"),
    }
}

/// Finds a guest by name or number, of any type and in any state.
///
/// # Errors
/// When there is no such guest.
pub fn domain(asked: &str) -> Result<Guest, NotReady> {
    named(asked).map(|(guest, _)| guest)
}

fn named(asked: &str) -> Result<(Guest, Xenstore), NotReady> {
    let no_xenstore = |source| NotReady::NoXenstore { source };
    let mut store = Xenstore::open().map_err(no_xenstore)?;
    let guest = find(asked, domains(&mut store).map_err(no_xenstore)?)?;
    Ok((guest, store))
}

/// Lists every domain in xenstore with its number and name.
///
/// # Errors
/// When xenstore does not answer.
pub fn domains(store: &mut Xenstore) -> io::Result<Vec<Guest>> {
    let mut domains = Vec::new();
    for entry in store.list("/local/domain")? {
        let Ok(domid) = entry.parse() else { continue };
        // A domain without a name is being built or torn down.
        if let Some(name) = store.read(&format!("/local/domain/{domid}/name"))? {
            domains.push(Guest { domid, name });
        }
    }
    Ok(domains)
}

/// The UUID of a domain, in lower case.
///
/// # Errors
/// When xenstore does not answer, or has no UUID for the domain.
pub fn uuid(domid: DomId) -> io::Result<String> {
    uuid_in(&mut Xenstore::open()?, domid)
}

/// The domain with that UUID, if it is on this host.
///
/// # Errors
/// When xenstore does not answer.
pub fn by_uuid(uuid: &str) -> io::Result<Option<Guest>> {
    let mut store = Xenstore::open()?;
    let mut domains = domains(&mut store)?.into_iter();
    Ok(domains.find(|guest| {
        let own = uuid_in(&mut store, guest.domid);
        own.is_ok_and(|own| own.eq_ignore_ascii_case(uuid))
    }))
}

fn uuid_in(store: &mut Xenstore, domid: DomId) -> io::Result<String> {
    let node = store.read(&format!("/local/domain/{domid}/vm"))?;
    let uuid = node.as_deref().and_then(|node| node.strip_prefix("/vm/"));
    let uuid =
        uuid.ok_or_else(|| io::Error::other(format!("it knows no UUID of domain {domid}")))?;
    Ok(uuid.to_ascii_lowercase())
}

/// The names of the domains, without dom0's.
pub fn guests(domains: &[Guest]) -> impl Iterator<Item = &str> {
    let guests = domains.iter().filter(|domain| domain.domid != 0);
    guests.map(|guest| guest.name.as_str())
}

/// Finds the guest as xl does: all digits stand for a domid, anything else for a name.
fn find(asked: &str, domains: Vec<Guest>) -> Result<Guest, NotReady> {
    let number = asked.parse::<u64>().ok();
    let is_it = |guest: &Guest| match number {
        Some(number) => u64::from(guest.domid) == number,
        None => guest.name == asked,
    };
    let found = domains.iter().find(|guest| is_it(guest)).cloned();
    match found {
        Some(guest) if guest.domid == 0 => Err(NotReady::Dom0),
        Some(guest) => Ok(guest),
        None => Err(NotReady::NoSuchDomain {
            asked: asked.to_owned(),
            nearest: nearest(asked, guests(&domains)),
        }),
    }
}

fn check_runs(name: &str, state: Option<DomainState>) -> Result<(), NotReady> {
    let not_running = |state: &str, remedy| {
        Err(NotReady::NotRunning {
            name: name.to_owned(),
            state: state.to_owned(),
            remedy,
        })
    };
    let Some(state) = state else {
        return not_running("has just gone", "`xl list` shows the domains.");
    };
    if state.dying {
        return not_running("is being destroyed", "There is nothing left to move.");
    }
    match state.shutdown {
        // `SHUTDOWN_*` of `xen/include/public/sched.h`.
        Some(2) => {
            return not_running(
                "is suspended, perhaps by another migration or an earlier one that failed",
                "If nothing is moving it, and it certainly runs nowhere else, `lull resume` makes it run on here.",
            );
        }
        Some(3) => return not_running("has crashed", "Start it again first."),
        Some(_) => return not_running("has shut down", "Start it again first."),
        None => {}
    }
    if state.paused {
        return not_running(
            "is paused: it could not be asked to suspend",
            "`xl unpause` it first.",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = folder.path().to_owned();
        (folder, Host { root })
    }

    fn running() -> DomainState {
        DomainState {
            running: true,
            blocked: false,
            ..DomainState::IDLE
        }
    }

    fn listed() -> Vec<Guest> {
        [(0, "Domain-0"), (3, "web1"), (4, "web2"), (9, "7")]
            .map(|(domid, name)| Guest {
                domid,
                name: name.to_owned(),
            })
            .to_vec()
    }

    #[test]
    fn without_xen_it_says_so() {
        let (_folder, host) = host(&[]);
        let said = host.check_xen().unwrap_err().to_string();
        assert!(said.contains("does not run on Xen"), "{said}");
        assert!(said.contains("Nothing was done."), "{said}");
    }

    #[test]
    fn under_another_hypervisor_it_names_it() {
        let (_folder, host) = host(&[("sys/hypervisor/type", "s390\n")]);
        let said = host.check_xen().unwrap_err().to_string();
        assert!(said.contains("`s390`"), "{said}");
    }

    #[test]
    fn a_guest_of_xen_is_not_dom0() {
        let (_folder, host) = host(&[
            ("sys/hypervisor/type", "xen\n"),
            ("proc/xen/capabilities", ""),
            ("dev/xen/privcmd", ""),
        ]);
        assert!(matches!(host.check_xen(), Err(NotReady::NotDom0)));
        let (found, cure) = NotReady::NotDom0.found_and_cure();
        assert_eq!(found, "this is a guest of Xen, not its control domain");
        assert_eq!(cure, "Run lull in dom0, where `xl` runs.");
    }

    #[test]
    fn without_privcmd_it_names_the_module() {
        let (_folder, host) = host(&[("sys/hypervisor/type", "xen\n")]);
        let said = host.check_xen().unwrap_err().to_string();
        assert!(said.contains("modprobe xen-privcmd"), "{said}");
    }

    #[test]
    fn xl_is_found_on_path_and_only_if_it_can_be_run() {
        let (folder, host) = host(&[("bin/xl", ""), ("usr/sbin/xl", "")]);
        let bin = folder.path().join("bin");
        assert_eq!(host.find_xl(bin.as_os_str()), None);
        let runnable = folder.path().join("usr/sbin/xl");
        fs::set_permissions(&runnable, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(host.find_xl(bin.as_os_str()), Some(runnable));
    }

    /// It would start lull again.
    #[test]
    fn the_xl_of_lull_enable_is_passed_over() {
        let wrapper = "#!/bin/sh\n# Made by `lull enable xl`; `lull disable xl` takes it away.\n";
        let (folder, host) = host(&[("usr/local/sbin/xl", wrapper), ("usr/sbin/xl", "")]);
        let [ours, stock] = ["usr/local/sbin/xl", "usr/sbin/xl"].map(|xl| folder.path().join(xl));
        for xl in [&ours, &stock] {
            fs::set_permissions(xl, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path =
            std::env::join_paths([ours.parent(), stock.parent()].map(Option::unwrap)).unwrap();
        assert_eq!(host.find_xl(&path), Some(stock.clone()));
        fs::remove_file(&stock).unwrap();
        assert_eq!(host.find_xl(&path), None);
    }

    #[test]
    fn a_guest_is_found_by_name_and_by_number() {
        assert_eq!(find("web2", listed()).unwrap().domid, 4);
        assert_eq!(find("3", listed()).unwrap().name, "web1");
        // All digits are a domid, as in xl, although a guest has that name.
        assert!(matches!(
            find("7", listed()),
            Err(NotReady::NoSuchDomain { .. })
        ));
    }

    #[test]
    fn an_unknown_guest_brings_the_nearest_names() {
        let said = find("wbe1", listed()).unwrap_err().to_string();
        assert!(said.contains("did you mean `web1`"), "{said}");
        let said = find("postgres", listed()).unwrap_err().to_string();
        assert!(!said.contains("did you mean"), "{said}");
        assert!(said.contains("xl list"), "{said}");
    }

    #[test]
    fn dom0_stays() {
        for asked in ["0", "Domain-0"] {
            assert!(matches!(find(asked, listed()), Err(NotReady::Dom0)));
        }
    }

    #[test]
    fn a_pv_guest_is_told_about_shadow_paging() {
        let name = "old1".to_owned();
        let said = NotReady::WrongKind {
            name,
            kind: GuestType::Pv,
        }
        .to_string();
        assert!(said.contains("old1 is a PV guest"), "{said}");
        assert!(said.contains("shadow paging"), "{said}");
        assert!(said.contains("pvshim=1"), "{said}");
    }

    #[test]
    fn a_device_model_that_cannot_be_asked_is_refused_in_words() {
        assert_eq!(unusable(Model::None), None);
        assert_eq!(unusable(Model::Qemu), None);
        for (model, which) in [
            (Model::Traditional, "qemu-xen-traditional"),
            (Model::StubDomain, "in a domain of its own"),
        ] {
            let what = unusable(model).unwrap();
            let name = "win1".to_owned();
            let said = NotReady::DeviceModel { name, what }.to_string();
            for words in ["win1 has", which, "Nothing was done.", "`xl migrate`"] {
                assert!(said.contains(words), "{words}: {said}");
            }
        }
    }

    #[test]
    fn a_pci_device_that_is_passed_through_is_refused_in_words() {
        assert!(check_pci("win1", &[]).is_ok());
        let said = check_pci("win1", &["0".to_owned()]).unwrap_err();
        let said = said.to_string();
        for words in ["win1 has a PCI device", "Nothing was done.", "pci-detach"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn only_a_running_guest_passes() {
        check_runs("web1", Some(running())).unwrap();
        check_runs("web1", Some(DomainState::IDLE)).unwrap();
        let cases = [
            (None, "has just gone"),
            (
                Some(DomainState {
                    dying: true,
                    ..running()
                }),
                "being destroyed",
            ),
            (
                Some(DomainState {
                    paused: true,
                    ..running()
                }),
                "is paused",
            ),
            (
                Some(DomainState {
                    shutdown: Some(2),
                    ..running()
                }),
                "is suspended",
            ),
            (
                Some(DomainState {
                    shutdown: Some(3),
                    ..running()
                }),
                "has crashed",
            ),
            (
                Some(DomainState {
                    shutdown: Some(0),
                    ..running()
                }),
                "has shut down",
            ),
        ];
        for (state, expected) in cases {
            let said = check_runs("web1", state).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
