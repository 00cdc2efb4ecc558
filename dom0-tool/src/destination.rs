//! The Xen release that the destination runs, found out before anything begins. A guest can
//! move to the same release or to a newer one, never to an older one, and the destination
//! detects that only after everything has been sent.
//!
//! The question uses the connection to `lull land` if that is opened anyway, and a
//! connection of its own otherwise. A destination that does not answer is not refused; its
//! ssh key may allow only `xl migrate-receive`, for example.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use lull_base::child::kill;
use lull_base::lines::Lines;
use lull_base::ready;
use lull_wire::channel::LINE_MAX;
use lull_xen::version;

use crate::migrate::inbox::{Inbox, Message};
use crate::rehearse::RemoteShell;

/// Timeout of a question on its own connection, including a slow log-in.
const ANSWER: Duration = Duration::from_secs(15);

/// Most lines that a login shell may print before the answer.
pub const LINES: usize = 256;

/// Interval between two checks of [`Patience`].
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Shell commands that print the version on a line of its own, whatever was printed before.
/// They contain no quotes, because they pass through two or three shells.
pub const QUESTION: &str = "echo; echo lull: xen \
$(cat /sys/hypervisor/version/major).$(cat /sys/hypervisor/version/minor)";

/// The beginning of the line with the version.
const MARK: &str = "lull: xen ";

/// The rule that decides which moves Xen supports, for messages.
pub const RULE: &str = "Xen takes guests from older releases, not from newer ones";

/// A release of Xen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// `XENVER_version >> 16`.
    pub major: u32,
    /// `XENVER_version & 0xffff`.
    pub minor: u32,
}

impl Release {
    /// Parses a line of the answer. The line comes from another host, so anything but two
    /// short numbers yields `None`.
    pub fn in_line(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let (major, minor) = line.strip_prefix(MARK)?.trim_end().split_once('.')?;
        let number = |text: &str| {
            let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        Some(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }

    /// The release that this host runs.
    fn here() -> Option<Self> {
        let version::Version { major, minor, .. } = version::detect().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What is known of the destination's Xen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The destination was not asked.
    NotAsked,
    /// The destination was asked, and gave no answer.
    Nothing,
    /// The destination runs this release.
    Xen(Release),
}

impl From<Option<Release>> for Received {
    fn from(release: Option<Release>) -> Self {
        release.map_or(Self::Nothing, Self::Xen)
    }
}

/// Why the wait for the destination has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Enough {
    #[error("cancelled before anything was begun")]
    Stopped,
    /// The timeout is over.
    #[error("the timeout was over before anything was begun")]
    OutOfTime,
}

/// The time for which the operator is willing to wait for the destination.
pub struct Patience<'a> {
    inbox: &'a Inbox,
    until: Option<Instant>,
    /// Remembers a request to stop, because the inbox delivers it only once.
    stopped: Cell<bool>,
}

impl<'a> Patience<'a> {
    /// Waits until `inbox` delivers a request to stop, or until that moment.
    pub fn new(inbox: &'a Inbox, until: Option<Instant>) -> Self {
        Self {
            inbox,
            until,
            stopped: Cell::new(false),
        }
    }

    /// Checks whether the wait may go on.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self) -> Result<(), Enough> {
        while let Some(message) = self.inbox.next(Duration::ZERO) {
            if matches!(message, Message::Stop) {
                self.stopped.set(true);
            }
        }
        match self.until {
            _ if self.stopped.get() => Err(Enough::Stopped),
            Some(until) if Instant::now() >= until => Err(Enough::OutOfTime),
            _ => Ok(()),
        }
    }
}

/// Why no line was read.
#[derive(Debug, thiserror::Error)]
pub enum NoLine {
    /// No line arrived in time, or the output has ended.
    #[error("no answer")]
    Silent,
    /// The wait was ended; see [`Enough`].
    #[error(transparent)]
    Enough(#[from] Enough),
    /// The output cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a line byte by byte, because what follows it is read elsewhere.
///
/// # Errors
/// See [`NoLine`].
pub fn line(
    from: &mut ChildStdout,
    until: Instant,
    patience: &Patience<'_>,
) -> Result<Vec<u8>, NoLine> {
    let mut lines = Lines::of(LINE_MAX);
    loop {
        patience.check()?;
        let left = until.saturating_duration_since(Instant::now());
        match ready::is_readable(&*from, left.min(POLL_INTERVAL)) {
            Ok(true) => {}
            Ok(false) if left.is_zero() => return Err(NoLine::Silent),
            Ok(false) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut byte = [0];
        match from.read(&mut byte) {
            Ok(0) => return Err(NoLine::Silent),
            Ok(_) => lines.push(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(line) = lines.next_line() {
            // No message is so long.
            return Ok(line.unwrap_or_default());
        }
    }
}

/// Asks the destination if that has not happened yet and is possible, and refuses a
/// destination with an older Xen.
///
/// # Errors
/// The complete message of the refusal; or [`Enough`].
pub fn admit(
    remote: &RemoteShell,
    received: Received,
    patience: &Patience<'_>,
) -> anyhow::Result<()> {
    let there = match received {
        Received::Xen(release) => Some(release),
        Received::NotAsked if remote.takes_commands() => {
            ask(&remote.without_a_terminal(), patience)?
        }
        Received::NotAsked | Received::Nothing => None,
    };
    check(remote.host(), Release::here(), there)
}

fn check(host: &str, here: Option<Release>, there: Option<Release>) -> anyhow::Result<()> {
    match here.zip(there) {
        Some((here, there)) if there < here => anyhow::bail!(
            "{host} runs Xen {there}, older than {here} here: {RULE}.\nNothing was done. Upgrade {host} first, or move the guest to a host with Xen {here} or newer."
        ),
        _ => Ok(()),
    }
}

/// Asks for the destination's Xen release; `None` if it does not answer.
fn ask(remote: &RemoteShell, patience: &Patience<'_>) -> Result<Option<Release>, Enough> {
    let child = remote
        .command(QUESTION)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    // xl reports what cannot be started here.
    let Ok(mut child) = child else {
        return Ok(None);
    };
    let answer = child.stdout.take().map_or(Ok(None), |out| {
        answer(out, Instant::now() + ANSWER, patience)
    });
    kill(&mut child);
    answer
}

fn answer(
    mut from: ChildStdout,
    until: Instant,
    patience: &Patience<'_>,
) -> Result<Option<Release>, Enough> {
    for _ in 0..LINES {
        match line(&mut from, until, patience) {
            Ok(line) => {
                if let Some(release) = Release::in_line(&line) {
                    return Ok(Some(release));
                }
            }
            Err(NoLine::Enough(enough)) => return Err(enough),
            Err(NoLine::Silent | NoLine::Io(_)) => break,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use lull_base::fuzz::any_bytes;

    const fn xen(minor: u32) -> Release {
        Release { major: 4, minor }
    }

    /// Asks a host that is reached through the script `ssh`.
    fn asked(ssh: &str, patience: &Patience<'_>) -> Result<Option<Release>, Enough> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rsh");
        fs::write(&path, format!("#!/bin/sh\n{ssh}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        ask(&RemoteShell::new(path.to_str(), "host2"), patience)
    }

    #[test]
    fn an_older_destination_is_refused_and_no_other() {
        let said = check("host2", Some(xen(20)), Some(xen(17))).unwrap_err();
        assert_eq!(
            said.to_string(),
            "host2 runs Xen 4.17, older than 4.20 here: Xen takes guests from older releases, not from newer ones.\nNothing was done. Upgrade host2 first, or move the guest to a host with Xen 4.20 or newer."
        );
        for there in [
            Some(xen(20)),
            Some(xen(21)),
            Some(Release { major: 5, minor: 0 }),
            None,
        ] {
            check("host2", Some(xen(20)), there).unwrap();
        }
        check("host2", None, Some(xen(17))).unwrap();
    }

    #[test]
    fn an_answer_is_two_numbers_or_nothing() {
        assert_eq!(Release::in_line(b"lull: xen 4.17"), Some(xen(17)));
        assert_eq!(Release::in_line(b"lull: xen 4.9\r"), Some(xen(9)));
        for line in [
            &b"lull: xen ."[..],
            b"lull: xen 4",
            b"lull: xen 4.",
            b"lull: xen +4.17",
            b"lull: xen 4.17.1",
            b"lull: xen 4.-1",
            b"lull: xen 4.999999",
            b"xen 4.17",
            b"lull: xen 4.\xff",
            b"",
        ] {
            assert_eq!(Release::in_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_answer_is_found_behind_what_a_shell_says() {
        let inbox = Inbox::new();
        let patience = Patience::new(&inbox, None);
        let received = |script: &str| asked(script, &patience).unwrap();
        assert_eq!(
            received("echo welcome; printf hello; printf '\\nlull: xen 4.18\\nmore\\n'"),
            Some(xen(18))
        );
        // The question runs as it stands; no Xen runs on this host.
        let said = received("shift; sh -c \"$*\" | sed 's/^lull: xen [.]$/lull: xen 4.19/'");
        assert_eq!(said, Some(xen(19)));
    }

    #[test]
    fn who_does_not_say_is_not_waited_for() {
        let inbox = Inbox::new();
        let patience = Patience::new(&inbox, None);
        for script in [
            "exit 255",
            "echo 'xl migration receiver ready, send binary domain data.'; exec cat",
            "yes",
            "head -c 100000 /dev/zero",
        ] {
            assert_eq!(asked(script, &patience), Ok(None), "{script}");
        }
    }

    #[test]
    fn the_operator_and_the_timeout_end_the_wait() {
        let begun = Instant::now();
        let inbox = Inbox::new();
        let brief = Some(Instant::now() + Duration::from_millis(200));
        let said = asked("exec sleep 60", &Patience::new(&inbox, brief));
        assert_eq!(said, Err(Enough::OutOfTime));
        inbox.ask_to_stop();
        let said = asked("exec sleep 60", &Patience::new(&inbox, None));
        assert_eq!(said, Err(Enough::Stopped));
        assert!(begun.elapsed() < ANSWER);
    }

    /// A listener at the destination may take one connection, which must be xl's.
    #[test]
    fn a_way_that_takes_no_commands_is_not_used_for_a_question() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let inbox = Inbox::new();
        let patience = Patience::new(&inbox, None);
        let started = |ssh: &str| {
            let remote = RemoteShell::new(Some(ssh), "192.0.2.7");
            admit(&remote, Received::NotAsked, &patience).unwrap();
            fs::read_to_string(&log).unwrap_or_default()
        };
        let ssh = format!("sh -c 'echo x >>{}'", log.display());
        assert_eq!(started(&format!("{ssh} #")), "");
        assert_eq!(started(&ssh), "x\n");
    }

    /// The bytes come from another host.
    #[test]
    fn any_bytes_are_a_release_or_none() {
        any_bytes(&[b"lull: xen 4.17", b"lull: xen 99999.0 "], |bytes| {
            let _ = Release::in_line(bytes);
        });
    }
}
