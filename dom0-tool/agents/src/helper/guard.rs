//! The guard: a second process that undoes what the helper did, should the
//! helper die of something it cannot handle.
//!
//! The guard holds the reading end of a pipe; the kernel closes the other end whatever the
//! helper dies of. The guard has a session of its own and ignores every signal that can be
//! ignored, so it survives what ends the other processes. A helper that finds its guard
//! dead does not ask the guest to suspend.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use lull_base::{confine, hygiene, inherited_fd, processes};
use lull_engine::stub::{orphans, room};
use lull_store::running::claim::{self, Claim};
use lull_store::running::folder::{self, Folder};
use lull_xen::device_model::{self, Devices, MakeRun};
use lull_xen::domain::{LAST_STEPS, Resumed, wait_out_suspend};
use lull_xen::domctl::ShadowOp;
use lull_xen::{DomId, Xen};
use rustix::process::Pid;
use rustix::stdio::dup2_stdout;

use super::args::LiveSave;
use super::front_end::FrontEnd;
use crate::emulated::Emulated;
use crate::monitor::Monitor;
use crate::name::{self, Name};
use crate::urgency::Urgency;

/// The hidden subcommand that makes this binary a guard.
const SUBCOMMAND: &str = "guard";

/// The kind of work that the guard undoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// A migration.
    Move,
    /// The sampling of a guest's dirty log, and nothing else: the guest may be
    /// suspended by another program.
    Sampling,
}

impl Over {
    const fn word(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Sampling => "sampling",
        }
    }
}

/// Parses a guard's command line: what it guards, the guest, and the process id to watch.
/// `None` if the command line is not a guard's.
pub(super) fn parse_args(args: &[OsString]) -> Option<(Over, DomId, u32)> {
    match args {
        [_, mode, over, domid, helper] if mode == SUBCOMMAND => Some((
            [Over::Move, Over::Sampling]
                .into_iter()
                .find(|one| *over == *one.word())?,
            domid.to_str()?.parse().ok()?,
            helper.to_str()?.parse().ok()?,
        )),
        _ => None,
    }
}

/// The reports that the helper sends to the guard, one byte each.
mod word {
    /// The helper is about to ask the guest to suspend.
    pub const ASKED: u8 = b'a';
    /// The request is answered, so QEMU is not stopped for it any more.
    pub const ANSWERED: u8 = b's';
    /// The guest has run on since, and is copied further.
    pub const RAN_ON: u8 = b'r';
    /// xl is about to rename the guest, which runs on.
    pub const HANDING_OVER: u8 = b'n';
    /// The stream is complete, or the copy may be started at any moment; the guest must not
    /// be resumed here.
    pub const COMMITTED: u8 = b'c';
    /// libxl has acknowledged the end, so the helper now ends as intended.
    pub const HANDED_OVER: u8 = b'h';
    /// The helper has undone everything.
    pub const UNDONE: u8 = b'u';
    /// No libxl is there to stop the guest's QEMU: the helper says when it has it stopped.
    pub const STOPS_ITSELF: u8 = b'i';
    /// The helper is about to have QEMU stopped.
    pub const STOPS_DEVICES: u8 = b'q';
    /// The guest's QEMU is about to log what it writes.
    pub const DEVICES_LOG: u8 = b'l';
    /// QEMU no longer does.
    pub const DEVICES_DO_NOT_LOG: u8 = b'o';
}

/// The helper's end of the pipe to the guard.
pub struct Guard {
    pipe: ChildStdin,
    /// Both the helper and the guard hold the claim, so the dirty log stays locked until
    /// the guard is done.
    claim: Option<Claim>,
}

impl Guard {
    /// Starts a guard over domain `domid`.
    ///
    /// # Errors
    /// When it cannot be started; the attempt should not start then either.
    pub fn start(domid: DomId, over: Over, claim: Option<Claim>) -> io::Result<Self> {
        // A guard writes nothing to its standard output, so the claim is passed to it
        // there.
        let held = claim.as_ref().map_or(Ok(Stdio::null()), Claim::share)?;
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .arg(over.word())
            .arg(domid.to_string())
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(held)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { pipe, claim })
    }

    /// Whether a migration is waiting for the guest's dirty log.
    pub fn is_wanted(&self) -> bool {
        self.claim.as_ref().is_some_and(Claim::is_wanted)
    }

    /// Reports that the guest is about to be asked to suspend. It may still do so after the
    /// helper has died.
    ///
    /// # Errors
    /// When the guard is dead: nothing would resume the guest if the helper died too.
    pub(super) fn asked(&mut self) -> io::Result<()> {
        self.say(word::ASKED)
    }

    /// Reports that xl is about to rename the guest for the handshake.
    ///
    /// # Errors
    /// When the guard is dead: nothing would give the guest its name back if xl and the
    /// helper died too.
    pub(super) fn handing_over(&mut self) -> io::Result<()> {
        self.say(word::HANDING_OVER)
    }

    fn say(&mut self, word: u8) -> io::Result<()> {
        self.pipe.write_all(&[word]).map_err(|error| {
            io::Error::new(
                error.kind(),
                "lull's guard, which would resume it, was killed",
            )
        })
    }

    /// Reports that the request is answered.
    pub fn answered(&mut self) {
        let _ = self.pipe.write_all(&[word::ANSWERED]);
    }

    /// Reports that libxl stops no QEMU: the helper does, and says when.
    pub(super) fn stops_devices_itself(&mut self) {
        let _ = self.pipe.write_all(&[word::STOPS_ITSELF]);
    }

    /// Reports that the helper is about to have the guest's QEMU stopped.
    pub(super) fn stops_devices(&mut self) {
        let _ = self.pipe.write_all(&[word::STOPS_DEVICES]);
    }

    /// Reports that the guest has run on since it was asked.
    pub(super) fn ran_on(&mut self) {
        let _ = self.pipe.write_all(&[word::RAN_ON]);
    }

    /// Reports that the stream is complete. The guard now removes the stub and the dirty
    /// log while libxl goes on.
    pub(super) fn commit(&mut self) {
        let _ = self.pipe.write_all(&[word::COMMITTED]);
    }

    /// Reports that the helper is about to end, as its last action. A helper that ends in
    /// failure does not send it: without this report the guard assumes that libxl takes the
    /// attempt for failed.
    pub(super) fn handed_over(mut self) {
        let _ = self.pipe.write_all(&[word::HANDED_OVER]);
    }

    /// Reports that the guest's QEMU is about to log what it writes.
    pub fn devices_log(&mut self) {
        let _ = self.pipe.write_all(&[word::DEVICES_LOG]);
    }

    /// Reports that QEMU no longer does.
    pub fn devices_do_not_log(&mut self) {
        let _ = self.pipe.write_all(&[word::DEVICES_DO_NOT_LOG]);
    }

    /// Reports that nothing is left to undo.
    pub fn undone(mut self) {
        let _ = self.pipe.write_all(&[word::UNDONE]);
    }
}

/// The guard's main function: waits for the helper to end, then cleans up.
pub(super) fn main(over: Over, domid: DomId, helper: u32) -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    // A guard that cannot reach QEMU still resumes the guest.
    let mut emulated = Emulated::of(domid).unwrap_or(Emulated::NONE);
    confine::to_no_program();
    let monitor = (over == Over::Move).then(|| Monitor::of(domid)).flatten();
    // xl renames it later.
    let name = name::of(domid);
    let mut urgency = Urgency::new(i32::try_from(helper).ok().and_then(Pid::from_raw));
    let reports = read_reports(io::stdin(), &mut urgency);
    let begun = Instant::now();
    let (code, devices) = undo(
        over,
        domid,
        helper,
        &reports,
        &mut emulated,
        monitor.as_ref(),
        urgency,
    );
    if let Some(name) = name.filter(|_| may_be_renamed(&reports)) {
        give_name_back(domid, &name);
    }
    let folder = Folder::default();
    room::give_back_of(&folder, helper);
    folder::remove(&folder.socket(domid, helper));
    // Everything else comes first: this takes minutes if QEMU hangs. The claim is kept, so
    // that no other attempt stops QEMU meanwhile.
    if devices.complaint("").is_some() {
        follow_to_the_end(domid, &mut emulated, begun);
    }
    claim::give_up(&io::stdout(), &folder, domid);
    let _ = dup2_stdout(io::stderr());
    if let Some(monitor) = monitor.filter(|_| may_hold_monitor(&reports)) {
        wait_until_it_is_decided(domid);
        monitor.let_go();
    }
    code
}

/// The most bytes that are read from a helper.
const REPORTS_MAX: usize = 4096;

/// Reads the reports until the helper ends. It writes a few bytes for each time that it stops
/// the guest.
fn read_reports(mut helper: impl Read, urgency: &mut Urgency) -> Vec<u8> {
    let mut reports = Vec::new();
    let mut word = [0];
    while reports.len() < REPORTS_MAX && helper.read_exact(&mut word).is_ok() {
        match word[0] {
            word::ASKED => urgency.begin(),
            word::RAN_ON => urgency.end(),
            _ => {}
        }
        reports.extend(word);
    }
    reports
}

/// Whether the helper may have stopped xl's monitor. It does so before each request to suspend,
/// and leaves the monitor stopped if the guest is suspended at the end.
fn may_hold_monitor(reports: &[u8]) -> bool {
    reports.contains(&word::ASKED)
}

/// Waits until the guest runs on here or its domain is gone; an operator may have to decide
/// which. Until then xl's monitor must not see that the guest is suspended.
fn wait_until_it_is_decided(domid: DomId) {
    let Ok(xen) = Xen::open_here() else {
        return;
    };
    let until = Instant::now() + DECIDING;
    while matches!(xen.domain_state(domid), Ok(Some(state)) if state.is_suspended())
        && Instant::now() < until
    {
        thread::sleep(DECIDING_POLL_INTERVAL);
    }
}

/// Time that an operator has to decide: one day.
const DECIDING: Duration = Duration::from_secs(24 * 60 * 60);

/// Interval between two checks whether the operator has decided.
const DECIDING_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Undoes what the helper has left. Returns what the emulated devices of a guest that stays
/// do by then.
fn undo(
    over: Over,
    domid: DomId,
    helper: u32,
    reports: &[u8],
    emulated: &mut Emulated,
    monitor: Option<&Monitor>,
    urgency: Urgency,
) -> (ExitCode, Devices) {
    if reports.contains(&word::UNDONE) {
        return (ExitCode::SUCCESS, Devices::None);
    }
    if over == Over::Sampling {
        if !is_saved_by_another(domid) {
            // The call fails for a guest that is gone and has no log.
            let _ = Xen::open_here().and_then(|xen| xen.shadow_op(domid, ShadowOp::Off));
            end_devices_log(domid, reports, emulated);
        }
        return (ExitCode::SUCCESS, Devices::None);
    }
    let lands = is_to_land(reports, FrontEnd::is_named());
    let asked = may_still_stop(reports);
    if may_still_stop_devices(reports) {
        emulated.wait_for_stop();
    }
    let taken_over = take_over(domid, helper, lands, asked, emulated);
    drop(urgency);
    // The transport may have refused a guest that was to land.
    let runs = runs_here(domid);
    // Its reboot must not wait for what follows, which takes seconds.
    if let Some(monitor) = monitor.filter(|_| runs) {
        monitor.let_go();
    }
    end_devices_log(domid, reports, emulated);
    let devices = match !lands || runs {
        true => follow_guest(emulated, Instant::now(), STOPPING),
        false => Devices::None,
    };
    if !lands && emulated.is_some() {
        // The helper may have put the beginning of one there.
        let _ = fs::remove_file(device_model::saved_state(domid));
    }
    let code = match taken_over {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lull: cleaning up after domain {domid}'s migration: {error}");
            ExitCode::FAILURE
        }
    };
    (code, devices)
}

/// Whether the guest runs on this host.
fn runs_here(domid: DomId) -> bool {
    let state = lull_xen::state(domid);
    matches!(state, Ok(Some(state)) if state.shutdown.is_none() && !state.dying)
}

/// Whether the guest may run at the destination. It may not if the helper died before it
/// could end properly: libxl then ends the stream unfinished, and xl resumes the guest but
/// libvirt does not. With a front end its transport resumes the guest; see `transport`.
fn is_to_land(reports: &[u8], has_transport: bool) -> bool {
    let committed = reports.contains(&word::COMMITTED);
    committed && (has_transport || reports.contains(&word::HANDED_OVER))
}

/// Whether xl may have renamed a guest that stays.
fn may_be_renamed(reports: &[u8]) -> bool {
    reports.contains(&word::HANDING_OVER) && !reports.contains(&word::COMMITTED)
}

/// Time that an xl which was given the guest back has to end.
const XL_ENDING: Duration = Duration::from_secs(60);

/// Gives the guest its own name back once xl, which does so itself unless it was cut off,
/// has ended.
fn give_name_back(domid: DomId, name: &str) {
    let until = Instant::now() + XL_ENDING;
    while is_moved_by_xl(domid) && Instant::now() < until {
        thread::sleep(POLL_INTERVAL);
    }
    match name::give_back(domid, name, name::TIMEOUT) {
        Ok(Name::Own) => {}
        Ok(Name::Taken(other)) => eprintln!(
            "lull: domain {domid} keeps the name that xl gave it for the handshake: domain {other} is called {name}"
        ),
        Err(error) => eprintln!("lull: domain {domid} does not get its name {name} back: {error}"),
    }
}

/// Whether an xl runs whose transport is this attempt's.
fn is_moved_by_xl(domid: DomId) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline"));
        line.is_ok_and(|line| moves(&line, domid)) && processes::is_roots(&process.path())
    })
}

/// Whether this command line is that of an xl which moves the guest over `lull transport`.
fn moves(line: &[u8], domid: DomId) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let number = domid.to_string();
    let is_transport = |word: &[u8]| String::from_utf8_lossy(word).contains(" transport ");
    words.get(1) == Some(&&b"migrate"[..])
        && words.contains(&number.as_bytes())
        && words.into_iter().any(is_transport)
}

/// Whether the request to suspend is the last report about the guest. Once the stream is
/// complete the guest has stopped, so no suspend can follow.
fn may_still_stop(reports: &[u8]) -> bool {
    let relevant = [word::ASKED, word::RAN_ON, word::COMMITTED];
    let last = reports.iter().rfind(|word| relevant.contains(word));
    last == Some(&word::ASKED)
}

/// Whether the guest's QEMU may still be stopped for the suspend. libxl may do so from the
/// request on. In a fast landing only the helper does, and says so.
fn may_still_stop_devices(reports: &[u8]) -> bool {
    let begins = match reports.contains(&word::STOPS_ITSELF) {
        true => word::STOPS_DEVICES,
        false => word::ASKED,
    };
    let relevant = [begins, word::ANSWERED];
    let last = reports.iter().rfind(|word| relevant.contains(word));
    last == Some(&begins)
}

/// Takes over from the helper. The guest comes first, because everything that uses it waits
/// for it. A guest that may still suspend is watched while the stub is destroyed, which can
/// take long.
fn take_over(
    domid: DomId,
    helper: u32,
    lands: bool,
    asked: bool,
    emulated: &mut Emulated,
) -> io::Result<()> {
    let xen = Xen::open_here()?;
    let resumed = match lands {
        true => {
            wait_while_it_lands(&xen, domid, || false);
            Ok(Resumed::WasNotSuspended)
        }
        false => xen.resume_suspended(domid, emulated),
    };
    let cleaning = thread::spawn(move || clean_up(domid, helper));
    let resumed = match resumed {
        Ok(Resumed::WasNotSuspended) if asked => {
            wait_out_suspend(&xen, domid, emulated, LAST_STEPS).map(drop)
        }
        resumed => resumed.map(drop),
    };
    let cleaned = cleaning.join();
    resumed?;
    cleaned.unwrap_or_else(|_| Err(io::Error::other("the stub was not taken away")))
}

/// Time that a guest has to land before the stub is destroyed.
const LANDING: Duration = Duration::from_secs(20);

/// Interval between two checks whether the guest has landed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the guest's domain here is gone except for pages that a stub still maps, or
/// runs on after all, or `over` returns true. Destroying a stub takes dom0 time that would
/// lengthen the guest's pause.
pub(super) fn wait_while_it_lands(xen: &Xen, domid: DomId, over: impl Fn() -> bool) {
    let until = Instant::now() + LANDING;
    while matches!(xen.domain_state(domid), Ok(Some(state)) if state.is_suspended())
        && Instant::now() < until
        && !over()
    {
        thread::sleep(POLL_INTERVAL);
    }
}

/// Whether QEMU may log what it writes.
fn devices_may_log(reports: &[u8]) -> bool {
    let relevant = [word::DEVICES_LOG, word::DEVICES_DO_NOT_LOG];
    let last = reports.iter().rfind(|word| relevant.contains(word));
    last == Some(&word::DEVICES_LOG)
}

/// Has QEMU log no more, if it may do so and the guest is still here.
fn end_devices_log(domid: DomId, reports: &[u8], emulated: &mut Emulated) {
    let is_here = || matches!(lull_xen::state(domid), Ok(Some(state)) if !state.dying);
    if devices_may_log(reports) && is_here() && emulated.end_dirty_log() != Devices::Run {
        eprintln!(
            "lull: the QEMU of domain {domid} could not be made to stop logging what it writes; \
             that costs it some time until the guest is started again"
        );
    }
}

/// Time for which QEMU may still be stopped by a libxl that has lost its helper: libxl waits
/// ten seconds for each answer of QEMU's (`libxl_qmp.c`, 4.17).
const STOPPING: Duration = Duration::from_secs(15);

/// Interval between two checks whether QEMU is stopped.
const STOPPING_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Time that a QEMU has which does not answer, or will not run. One that writes its disks
/// back to slow storage in order to stop answers only when it has stopped.
const STOPPING_SLOWLY: Duration = Duration::from_secs(300);

/// Sees to it that QEMU runs where the guest does. It may be stopped after the guest was
/// resumed, or may have been too busy to run in time: it then has until `patience` after
/// `begun`. Returns what it did last.
fn follow_guest(emulated: &mut Emulated, begun: Instant, patience: Duration) -> Devices {
    loop {
        let devices = emulated.follow();
        if !is_to_be_followed(devices, begun.elapsed(), patience) {
            return devices;
        }
        thread::sleep(STOPPING_POLL_INTERVAL);
    }
}

/// Whether to look again at a QEMU that does this now, so long after the first look. One that
/// does not answer, or will not run, has as long as `patience` says.
fn is_to_be_followed(devices: Devices, waited: Duration, patience: Duration) -> bool {
    match devices {
        Devices::None | Devices::Gone => false,
        Devices::Run => waited < STOPPING,
        Devices::Silent | Devices::Refused => waited < patience,
    }
}

/// Follows a QEMU that is not known to run, and says so if it does not in the end.
fn follow_to_the_end(domid: DomId, emulated: &mut Emulated, begun: Instant) {
    let devices = follow_guest(emulated, begun, STOPPING_SLOWLY);
    let complaint = devices.complaint(emulated.words());
    // QEMU ends with its guest.
    if let Some(complaint) = complaint.filter(|_| runs_here(domid)) {
        let cure = match devices {
            Devices::Gone => String::new(),
            _ => format!(
                "; lull asks it no more, and `xl qemu-monitor-command {domid} cont` makes it run \
                 once it answers"
            ),
        };
        eprintln!("lull: domain {domid} runs on here, but {complaint}{cure}");
    }
}

fn clean_up(domid: DomId, helper: u32) -> io::Result<()> {
    let xen = Xen::open_here()?;
    orphans(&xen, Some(helper))?;
    // The call fails for a guest that is gone, or whose log is already off.
    let _ = xen.shadow_op(domid, ShadowOp::Off);
    Ok(())
}

/// Whether a save helper that does not use claims is migrating this guest. Such a helper
/// has switched the dirty log off and on again for itself, or is about to.
pub fn is_saved_by_another(domid: DomId) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let ours = fs::read_link("/proc/self/exe").ok();
    processes.flatten().any(|process| {
        processes::is_roots(&process.path())
            && saves(&process.path()).is_some_and(|save| save.domain == domid)
            && fs::read_link(process.path().join("exe")).ok() != ours
    })
}

fn saves(process: &Path) -> Option<LiveSave> {
    let line = fs::read(process.join("cmdline")).ok()?;
    let words: Vec<OsString> = line
        .strip_suffix(b"\0")?
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    LiveSave::parse(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_lands_only_if_libxl_goes_on() {
        let words = |text: &str| text.as_bytes().to_vec();
        assert!(is_to_land(&words("ach"), false));
        assert!(!is_to_land(&words("ac"), false), "the helper died");
        assert!(is_to_land(&words("ac"), true), "the transport knows");
        assert!(!is_to_land(&words("a"), true));
        assert!(!is_to_land(&words("h"), false));
    }

    #[test]
    fn a_request_is_outlived_until_it_is_followed_or_over() {
        for (words, may) in [("a", true), ("ara", true), ("", false), ("ar", false)] {
            assert_eq!(may_still_stop(words.as_bytes()), may, "{words}");
        }
        assert!(!may_still_stop(b"ac") && !may_still_stop(b"arach"));
        assert!(may_still_stop(b"as"), "a guest may follow an answer late");
    }

    #[test]
    fn libxl_stops_no_qemu_once_it_has_answered() {
        for (words, may) in [("la", true), ("lasra", true), ("", false), ("las", false)] {
            assert_eq!(may_still_stop_devices(words.as_bytes()), may, "{words}");
        }
    }

    /// A wait for a stop that cannot come would keep the guest paused for seconds.
    #[test]
    fn a_qemu_that_no_libxl_stops_is_waited_for_only_if_the_engine_has_it_stopped() {
        for (words, may) in [
            ("ila", false),
            ("ilaq", true),
            ("ilaqs", false),
            ("ilaqsra", false),
            ("ilaqsraq", true),
        ] {
            assert_eq!(may_still_stop_devices(words.as_bytes()), may, "{words}");
        }
    }

    /// It may take longer to stop than lull waits for that, and stays stopped then.
    #[test]
    fn a_qemu_that_does_not_answer_is_followed_until_it_does() {
        let within = |devices, seconds, patience| {
            is_to_be_followed(devices, Duration::from_secs(seconds), patience)
        };
        let looks = |devices, seconds| within(devices, seconds, STOPPING_SLOWLY);
        for (devices, after_20, after_400) in [
            (Devices::Run, false, false),
            (Devices::Silent, true, false),
            (Devices::Refused, true, false),
            (Devices::Gone, false, false),
            (Devices::None, false, false),
        ] {
            assert_eq!(looks(devices, 20), after_20, "{devices:?}");
            assert_eq!(looks(devices, 400), after_400, "{devices:?}");
        }
        // A libxl that has lost its helper may still stop it.
        assert!(looks(Devices::Run, 1) && !looks(Devices::None, 1));
        // Other work comes before the long wait.
        for devices in [Devices::Run, Devices::Silent, Devices::Refused] {
            assert!(within(devices, 14, STOPPING) && !within(devices, 15, STOPPING));
        }
    }

    /// The engine has resumed the guest, and leaves its QEMU to the guard. Nothing is to be
    /// waited for first.
    #[test]
    fn a_guest_that_runs_on_without_its_devices_does_not_stop_any_more() {
        assert!(!may_still_stop(b"ilaqsr") && !may_still_stop(b"lasr"));
    }

    /// A helper that has undone everything has not seen to it, either, if something else has
    /// suspended the guest meanwhile.
    #[test]
    fn xls_monitor_is_seen_to_after_each_request_to_suspend() {
        for (words, may) in [("la", true), ("lasrou", true), ("lou", false), ("", false)] {
            assert_eq!(may_hold_monitor(words.as_bytes()), may, "{words}");
        }
    }

    #[test]
    fn a_name_is_given_back_unless_the_copy_may_run() {
        for (words, may) in [("n", true), ("na", true), ("nara", true), ("a", false)] {
            assert_eq!(may_be_renamed(words.as_bytes()), may, "{words}");
        }
        assert!(!may_be_renamed(b"nac"));
    }

    #[test]
    fn the_xl_that_moves_a_guest_is_known_by_its_command_line() {
        let over = |words: &[&str]| moves(words.join("\0").as_bytes(), 7);
        let ssh = "/usr/sbin/lull transport --fast -- ssh";
        assert!(over(&["xl", "migrate", "-s", ssh, "7", "host2", ""]));
        let line = "exec /usr/sbin/lull transport --shell -- 'xl migrate-receive'";
        assert!(over(&["xl", "migrate", "-s", "", "7", line, ""]));
        for other in [
            &["xl", "migrate", "-s", ssh, "77", "host2"][..],
            &["xl", "migrate", "-s", "ssh", "7", "host2"],
            &["lull", "transport", "--fast", "7", ssh],
            &["xl"],
            &[],
        ] {
            assert!(!over(other), "{other:?}");
        }
    }

    #[test]
    fn what_qemu_logs_is_ended_once() {
        for (words, may) in [("l", true), ("lac", true), ("", false), ("lo", false)] {
            assert_eq!(devices_may_log(words.as_bytes()), may, "{words}");
        }
        assert!(devices_may_log(b"lol") && !devices_may_log(b"arac"));
    }

    #[test]
    fn a_guard_knows_over_what_it_watches() {
        let parsed = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            parse_args(&words)
        };
        assert_eq!(parsed("lull guard move 7 42"), Some((Over::Move, 7, 42)));
        assert_eq!(
            parsed("lull guard sampling 7 42"),
            Some((Over::Sampling, 7, 42))
        );
        for other in [
            "lull guard 7 42",
            "lull guard all 7 42",
            "lull guard move x 42",
        ] {
            assert_eq!(parsed(other), None);
        }
    }
}
