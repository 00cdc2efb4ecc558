//! The guard: a second process that undoes what the helper did, should the
//! helper die of something it cannot handle.
//!
//! It holds the reading end of a pipe; the kernel closes the other end
//! whatever the helper dies of. It outlives what ends the rest: it is in a session of
//! its own, and no signal that can be heard ends it. A helper that finds it dead asks
//! no guest to suspend.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use lull_base::{confine, hygiene, processes};
use lull_xen::domain::{LAST_STEPS, Resumed, outlive_suspend};
use lull_xen::domctl::ShadowOp;
use lull_xen::{DomId, Xen};
use rustix::stdio::dup2_stdout;

use super::args::LiveSave;
use super::front_end::FrontEnd;
use crate::control::claim::{self, Claim};
use crate::control::folder::{self, Folder};
use crate::monitor::Monitor;
use crate::stub::{orphans, room};

/// The hidden subcommand that makes this binary a guard.
const SUBCOMMAND: &str = "guard";

/// What there is to undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// A migration.
    Move,
    /// The sampling of a guest's dirty log, and nothing else: the guest may be
    /// suspended by somebody else.
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

/// Over what, the guest, and the process watched, when the command line is a
/// guard's.
pub fn orders(args: &[OsString]) -> Option<(Over, DomId, u32)> {
    match args {
        [_, mode, over, guest, helper] if mode == SUBCOMMAND => Some((
            [Over::Move, Over::Sampling]
                .into_iter()
                .find(|one| *over == *one.word())?,
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
    /// It has run on since, and is copied further.
    pub const RAN_ON: u8 = b'r';
    /// The stream is complete: the guest is not to be resumed here.
    pub const COMMITTED: u8 = b'c';
    /// libxl has answered that it goes on: the helper ends now, as it is to.
    pub const HANDED_OVER: u8 = b'h';
    /// Everything has been undone.
    pub const UNDONE: u8 = b'u';
}

/// The helper's end.
pub struct Guard {
    pipe: ChildStdin,
    /// Held by both: nobody else has the log before the guard is done with it.
    claim: Option<Claim>,
}

impl Guard {
    /// Starts a guard over `guest`.
    ///
    /// # Errors
    /// When it cannot be started: then the attempt should not be either.
    pub fn start(guest: DomId, over: Over, claim: Option<Claim>) -> io::Result<Self> {
        // A guard writes nothing to its standard output: the claim is handed
        // over there.
        let held = claim.as_ref().map_or(Ok(Stdio::null()), Claim::share)?;
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .arg(over.word())
            .arg(guest.to_string())
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(held)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { pipe, claim })
    }

    /// Whether a migration waits for the guest's dirty log.
    pub fn is_wanted(&self) -> bool {
        self.claim.as_ref().is_some_and(Claim::is_wanted)
    }

    /// The guest is about to be asked to suspend itself: it may still do so when
    /// the helper is gone.
    ///
    /// # Errors
    /// When the guard is dead: nobody would look after the guest should the helper die.
    pub fn asked(&mut self) -> io::Result<()> {
        self.pipe.write_all(&[word::ASKED]).map_err(|error| {
            io::Error::new(
                error.kind(),
                "lull's guard, which would resume it, was killed",
            )
        })
    }

    /// That pause is over.
    pub fn ran_on(&mut self) {
        let _ = self.pipe.write_all(&[word::RAN_ON]);
    }

    /// The stream is complete; stub and dirty log are now the guard's to take
    /// away, while libxl goes on.
    pub fn commit(&mut self) {
        let _ = self.pipe.write_all(&[word::COMMITTED]);
    }

    /// The last thing before the helper ends, unless it is to end in failure: a
    /// guard that does not hear of it knows that libxl takes the attempt for failed.
    pub fn handed_over(mut self) {
        let _ = self.pipe.write_all(&[word::HANDED_OVER]);
    }

    /// Nothing is left to undo.
    pub fn undone(mut self) {
        let _ = self.pipe.write_all(&[word::UNDONE]);
    }
}

/// The guard's own life: waits for the helper's end, then cleans up.
pub fn main(over: Over, guest: DomId, helper: u32) -> ExitCode {
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    confine::to_no_program();
    let monitor = (over == Over::Move).then(|| Monitor::of(guest)).flatten();
    let mut heard = Vec::new();
    // The helper writes at most a few bytes.
    let _ = io::stdin().take(16).read_to_end(&mut heard);
    let code = undo(over, guest, helper, &heard);
    let folder = Folder::default();
    room::give_back_of(&folder, helper);
    folder::remove(&folder.socket(guest, helper));
    claim::give_up(&io::stdout(), &folder, guest);
    let _ = dup2_stdout(io::stderr());
    if let Some(monitor) = monitor {
        if !heard.contains(&word::UNDONE) {
            wait_until_it_is_decided(guest);
        }
        monitor.let_go();
    }
    code
}

/// Until the guest runs on here, or its domain is gone: an operator may have to decide
/// which. Till then xl's monitor is not to see that it is suspended.
fn wait_until_it_is_decided(guest: DomId) {
    let Ok(xen) = Xen::open_here() else {
        return;
    };
    let until = Instant::now() + DECIDING;
    while matches!(xen.domain_state(guest), Ok(Some(state)) if state.is_suspended())
        && Instant::now() < until
    {
        thread::sleep(DECIDING_LOOK);
    }
}

/// For that an operator has a day.
const DECIDING: Duration = Duration::from_secs(24 * 60 * 60);

/// Between two looks whether it is.
const DECIDING_LOOK: Duration = Duration::from_millis(200);

fn undo(over: Over, guest: DomId, helper: u32, heard: &[u8]) -> ExitCode {
    if heard.contains(&word::UNDONE) {
        return ExitCode::SUCCESS;
    }
    if over == Over::Sampling {
        if !is_saved_by_another(guest) {
            // A guest that has gone has no log.
            let _ = Xen::open_here().and_then(|xen| xen.shadow_op(guest, ShadowOp::Off));
        }
        return ExitCode::SUCCESS;
    }
    let lands = is_to_land(heard, FrontEnd::is_named());
    let asked = may_still_stop(heard);
    match take_over(guest, helper, lands, asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lull: cleaning up after domain {guest}'s migration: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the guest may run at the destination. Not if the helper died on its way to
/// its end: libxl then ends the stream unfinished, and while xl resumes the guest,
/// libvirt does not. Where there is a front end, its transport does: see `transport`.
fn is_to_land(heard: &[u8], has_transport: bool) -> bool {
    let committed = heard.contains(&word::COMMITTED);
    committed && (has_transport || heard.contains(&word::HANDED_OVER))
}

/// Whether the last thing heard of the guest is that it was asked. Once the stream is
/// complete it has stopped: nothing is still to come.
fn may_still_stop(heard: &[u8]) -> bool {
    let told = [word::ASKED, word::RAN_ON, word::COMMITTED];
    let last = heard.iter().rfind(|word| told.contains(word));
    last == Some(&word::ASKED)
}

/// The guest first: whoever waits for it waits for this. One that may still
/// stop is watched while a stub is taken down, which can take a while.
fn take_over(guest: DomId, helper: u32, lands: bool, asked: bool) -> io::Result<()> {
    let xen = Xen::open_here()?;
    let resumed = match lands {
        true => {
            wait_while_it_lands(&xen, guest, || false);
            Ok(Resumed::WasNotSuspended)
        }
        false => xen.resume_suspended(guest),
    };
    let cleaning = thread::spawn(move || clean_up(guest, helper));
    let resumed = match resumed {
        Ok(Resumed::WasNotSuspended) if asked => outlive_suspend(&xen, guest, LAST_STEPS).map(drop),
        resumed => resumed.map(drop),
    };
    let cleaned = cleaning.join();
    resumed?;
    cleaned.unwrap_or_else(|_| Err(io::Error::other("the stub was not taken away")))
}

/// How long a guest may take to land before anything is taken down beside it.
const LANDING: Duration = Duration::from_secs(20);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Until the guest's domain here is gone, but for pages that a stub still maps, or
/// runs on after all, or it is `over` otherwise. Taking down a stub costs dom0 time
/// that the guest, which waits, would pay for.
pub fn wait_while_it_lands(xen: &Xen, guest: DomId, over: impl Fn() -> bool) {
    let until = Instant::now() + LANDING;
    while matches!(xen.domain_state(guest), Ok(Some(state)) if state.is_suspended())
        && Instant::now() < until
        && !over()
    {
        thread::sleep(LOOK);
    }
}

fn clean_up(guest: DomId, helper: u32) -> io::Result<()> {
    let xen = Xen::open_here()?;
    orphans(&xen, Some(helper))?;
    // A guest that has gone, or whose log is off, is as it should be.
    let _ = xen.shadow_op(guest, ShadowOp::Off);
    Ok(())
}

/// Whether a save helper that knows nothing of claims moves this guest: it has
/// switched the dirty log off and on again for itself, or is about to.
pub fn is_saved_by_another(guest: DomId) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let ours = fs::read_link("/proc/self/exe").ok();
    processes.flatten().any(|process| {
        processes::is_roots(&process.path())
            && saves(&process.path()).is_some_and(|save| save.domain == guest)
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
    }

    #[test]
    fn a_guard_knows_over_what_it_watches() {
        let orders_of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            orders(&words)
        };
        assert_eq!(orders_of("lull guard move 7 42"), Some((Over::Move, 7, 42)));
        assert_eq!(
            orders_of("lull guard sampling 7 42"),
            Some((Over::Sampling, 7, 42))
        );
        for other in [
            "lull guard 7 42",
            "lull guard all 7 42",
            "lull guard move x 42",
        ] {
            assert_eq!(orders_of(other), None);
        }
    }
}
