//! `lull see-off`: the guard of `lull land`.
//!
//! `lull land` reads what another host sends, and is confined so that it can start nothing.
//! A second process therefore makes sure that a copy which will not be started does not
//! stay, even if `lull land` is killed. This guard reads a few words from `lull land`, and
//! nothing from the source. It announces a copy that lands, too, because it may open a
//! socket.

use std::io::{self, Read, Write};
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use lull_base::{hygiene, inherited_fd};
use lull_store::running::folder::{self, Folder};
use lull_wire::channel::Token;
use lull_xen::Xen;
use lull_xen::host::Host;
use rustix::stdio::{dup2_stderr, stdout};

use super::announce::announce;
use super::incoming;
use super::waiting::Identity;
use crate::urgency::Urgency;

/// The name of the hidden subcommand.
const SUBCOMMAND: &str = "see-off";

/// Time that a receiver has to destroy a copy that is built.
const SEEING_OFF: Duration = Duration::from_secs(10);

/// The same for one under construction. libxl, which may be starting its QEMU, notices the
/// end only then, and leaves keys in xenstore if the copy is gone already.
const ABANDONING: Duration = Duration::from_secs(25);

/// Interval between two checks whether the copy is gone.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Sent once the copy is built.
const BUILT: u8 = b'b';

/// Sent before the copy can be started.
const LANDED: u8 = b'l';

/// Sent if Landed could not be sent to the source.
const LANDED_UNSENT: u8 = b'u';

/// Sent once the copy was started, or xl may start it.
const STARTED: u8 = b's';

/// The most words that are read. `lull land` says fewer, and the guard waits for its end.
const WORDS: u64 = 4;

/// The options of `lull see-off`.
#[derive(Debug, Args)]
pub struct Options {
    /// The token of the socket at which connections join, which is to be removed
    #[arg(long)]
    join_socket: Option<Token>,
}

/// The end that `lull land` holds of the pipe to its guard.
pub(super) struct SeeOff {
    pipe: ChildStdin,
    /// Whether the copy is named.
    watches: bool,
}

impl SeeOff {
    /// Starts the guard. It removes the socket of this token once a copy is watched, or
    /// `lull land` has ended.
    ///
    /// # Errors
    /// When it cannot be started; no copy should be touched then.
    pub(super) fn start(join_socket: Option<Token>) -> io::Result<Self> {
        let join_socket = join_socket.map(|token| format!("--join-socket={token}"));
        // The guard does not inherit standard output: a reader of `lull land`'s output must
        // not have to wait for the guard to end.
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .args(join_socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            pipe,
            watches: false,
        })
    }

    /// Names the copy that must not stay unless it lands. It may still be under
    /// construction, and may be named again.
    ///
    /// # Errors
    /// When the guard has died.
    pub(super) fn watch(&mut self, copy: Identity) -> io::Result<()> {
        match std::mem::replace(&mut self.watches, true) {
            true => Ok(()),
            false => self.pipe.write_all(&copy.to_bytes()),
        }
    }

    /// Reports that the copy is built, with all its devices.
    ///
    /// # Errors
    /// When the guard has died.
    pub(super) fn is_built(&mut self) -> io::Result<()> {
        self.pipe.write_all(&[BUILT])
    }

    /// Reports that the copy lands: the source decides from here on whether it starts, or
    /// it is being started.
    pub(super) fn lands(&mut self) {
        let _ = self.pipe.write_all(&[LANDED]);
    }

    /// Reports that Landed was not sent. The source then resumes the guest.
    pub(super) fn landed_unsent(&mut self) {
        let _ = self.pipe.write_all(&[LANDED_UNSENT]);
    }

    /// Reports that the copy runs, or may be started at any time. What the guard then does takes
    /// time from a dom0 with one processor, so it must not come before the start.
    pub(super) fn started(&mut self) {
        let _ = self.pipe.write_all(&[STARTED]);
    }
}

/// The guard's main function: waits until `lull land` ends, and cleans up after it.
pub fn main(options: &Options) -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    let mut copy = [0; Identity::BYTES];
    let mut land = io::stdin().lock();
    let named = land.read_exact(&mut copy);
    if let Some(token) = options.join_socket {
        folder::remove(&Folder::default().join_socket(token));
    }
    if named.is_err() {
        return ExitCode::SUCCESS;
    }
    let Some(copy) = Identity::from_bytes(copy) else {
        return ExitCode::FAILURE;
    };
    let (started, starts) = mpsc::channel();
    let mut starts = Some(starts);
    let mut announcer = None;
    let mut words = Vec::new();
    let mut urgency = None;
    for word in land.take(WORDS).bytes().map_while(Result::ok) {
        words.push(word);
        if word == BUILT {
            urgency = Some(Urgency::new(None));
        }
        if let Some(starts) = starts.take_if(|_| word == BUILT) {
            announcer = thread::Builder::new()
                .spawn(move || {
                    if let Err(error) = announce(copy, &starts) {
                        eprintln!(
                            "lull land: domain {} is not announced: {error}",
                            copy.domain
                        );
                    }
                })
                .ok();
        }
        if word == STARTED {
            if let Some(urgency) = &mut urgency {
                urgency.begin();
            }
            // It has ended if there is nothing to announce.
            let _ = started.send(());
        }
    }
    let is_left_behind = is_left_behind(&words);
    if !is_left_behind && !words.contains(&STARTED) {
        // `lull land` was killed, perhaps after it started the copy. The announcer looks.
        let _ = started.send(());
    }
    drop(started);
    if !is_left_behind {
        // sshd's session, and with it the source's ssh, lasts as long as an output is open.
        let _ = dup2_stderr(stdout());
        // A thread that could not be started costs the announcement only.
        let _ = announcer.map(JoinHandle::join);
        drop(urgency);
        return ExitCode::SUCCESS;
    }
    let patience = match words.is_empty() {
        true => ABANDONING,
        false => SEEING_OFF,
    };
    match destroy_stale_copy(copy, patience) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lull land: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the copy did not land, according to what `lull land` said of it.
const fn is_left_behind(words: &[u8]) -> bool {
    matches!(words, [] | [BUILT] | [BUILT, LANDED, LANDED_UNSENT])
}

/// Destroys the copy if its receiver does not. Without the message that the copy lands,
/// it will never be started. Its receiver destroys it unless it cannot report: stock xl leaves
/// a copy whose connection has broken (`tools/xl/xl_migrate.c`, 4.17 to 4.22). A receiver
/// that has had permission does not destroy it either. It has `patience` to do so.
fn destroy_stale_copy(copy: Identity, patience: Duration) -> io::Result<()> {
    let xen = Xen::open_here()?;
    // Its receiver may be about to open what only `lull land`'s holder had open.
    incoming::release(copy.domain);
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if !matches!(copy.waits(&xen), Ok(true)) {
            incoming::forget(copy.domain);
            return Ok(());
        }
        // On one host the guest's own domain gets its name back only then.
        if copy.is_renamed().unwrap_or(false) {
            break;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let domain = copy.domain;
    let xl = Host::default().xl().map_err(|_| {
        io::Error::other(format!(
            "the copy (domain {domain}) is stale, and there is no xl to destroy it"
        ))
    })?;
    eprintln!("lull land: domain {domain} was left waiting by its receiver; destroying it");
    // Check once more: the domid may have been reused meanwhile.
    if !matches!(copy.waits(&xen), Ok(true)) {
        return Ok(());
    }
    let destroyed = Command::new(xl)
        .args(["destroy", &domain.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    incoming::forget(copy.domain);
    destroyed
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("xl cannot be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_that_did_not_land_is_left_behind() {
        assert!(is_left_behind(&[]));
        assert!(is_left_behind(&[BUILT]));
        assert!(is_left_behind(&[BUILT, LANDED, LANDED_UNSENT]));
        for words in [
            &[BUILT, LANDED][..],
            &[BUILT, LANDED, STARTED],
            &[LANDED, LANDED],
            b"x",
        ] {
            assert!(!is_left_behind(words), "{words:?}");
        }
    }
}
