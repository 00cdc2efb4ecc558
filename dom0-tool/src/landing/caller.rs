//! The source's end of the channel. It starts `lull land` at the destination, and the two
//! agree on a version. The command that starts it may first print which Xen runs there
//! ([`crate::destination`]).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lull_base::child::kill;
use lull_base::text::printable;
use lull_wire::channel::{Chosen, Edition, Greeting};
use lull_wire::events::Landing;
use lull_wire::xl::markers::BANNER;

use crate::destination::{Enough, LINES, NoLine, Patience, Release, line};

/// Time that the destination has to send its greeting; ssh may ask for a password.
const GREETING: Duration = Duration::from_secs(60);

/// A connected `lull land` that waits at the destination.
#[derive(Debug)]
pub struct Call {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    edition: Edition,
}

/// Why there is no `lull land`. The message is a clause that follows "because".
#[derive(Debug, thiserror::Error)]
pub enum NoLand {
    /// The command printed no greeting.
    #[error("no lull answers there (`lull land` could not be started)")]
    Silent,
    /// The version ranges of the two lulls do not overlap.
    #[error("the lull there ({theirs}) and this one do not understand each other")]
    Versions {
        /// lull's release at the destination.
        theirs: String,
    },
    /// The ssh key allows no command but `xl migrate-receive`.
    #[error("the log-in there runs `xl migrate-receive`, whatever is asked")]
    OnlyReceives,
    /// The operator cancelled, or the timeout is over.
    #[error(transparent)]
    Enough(#[from] Enough),
    /// The connection could not be set up, or failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<NoLine> for NoLand {
    fn from(none: NoLine) -> Self {
        match none {
            NoLine::Silent => Self::Silent,
            NoLine::Enough(enough) => Self::Enough(enough),
            NoLine::Io(error) => Self::Io(error),
        }
    }
}

/// The result of calling the destination.
#[derive(Debug)]
pub struct Called {
    /// The destination's Xen release, if the destination reported it.
    pub xen: Option<Release>,
    /// The connected `lull land`, or why there is none; in that case the process has ended.
    pub land: Result<Call, NoLand>,
}

impl Call {
    /// Runs `command`, which finally executes `lull land`, and agrees on a version.
    pub fn make(mut command: Command, patience: &Patience<'_>) -> Called {
        let mut xen = None;
        let started = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let land = started.map_err(NoLand::from).and_then(|mut child| {
            match greet(&mut child, &mut xen, patience) {
                Ok((to, from, edition)) => Ok(Self {
                    child,
                    to,
                    from,
                    edition,
                }),
                Err(error) => {
                    kill(&mut child);
                    Err(error)
                }
            }
        });
        Called { xen, land }
    }

    /// The landing that both ends know.
    pub const fn landing(&self) -> Landing {
        self.edition.landing()
    }

    /// What both ends know of it.
    pub const fn edition(&self) -> Edition {
        self.edition
    }

    /// Ends the call; it is not needed after all.
    pub fn end(mut self) {
        kill(&mut self.child);
    }

    /// Its input and output for the caller to use, and the process in between.
    pub fn into_parts(self) -> (OwnedFd, OwnedFd, Child) {
        (self.to.into(), self.from.into(), self.child)
    }
}

fn greet(
    child: &mut Child,
    xen: &mut Option<Release>,
    patience: &Patience<'_>,
) -> Result<(ChildStdin, ChildStdout, Edition), NoLand> {
    let (mut to, mut from) = child
        .stdin
        .take()
        .zip(child.stdout.take())
        .ok_or(NoLand::Silent)?;
    let until = Instant::now() + GREETING;
    for _ in 0..LINES {
        let line = line(&mut from, until, patience)?;
        if let Some(release) = Release::in_line(&line) {
            *xen = Some(release);
            continue;
        }
        // A receiver waits for a stream after its banner, and prints no more.
        if line == BANNER.trim_ascii_end() {
            return Err(NoLand::OnlyReceives);
        }
        let Ok(greeting) = serde_json::from_slice::<Greeting>(&line) else {
            continue;
        };
        let agreed = greeting.common();
        let Some((land, edition)) = agreed.and_then(|land| Some((land, Edition::of(land)?))) else {
            return Err(NoLand::Versions {
                theirs: printable(&greeting.lull),
            });
        };
        let mut line = serde_json::to_vec(&Chosen { land }).map_err(io::Error::other)?;
        line.push(b'\n');
        to.write_all(&line)?;
        return Ok((to, from, edition));
    }
    Err(NoLand::Silent)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::migrate::inbox::Inbox;

    fn call(script: &str) -> Called {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Call::make(command, &Patience::new(&Inbox::new(), None))
    }

    #[test]
    fn a_greeting_is_found_behind_what_a_shell_says_and_answered() {
        for (greeting, chosen, landing) in [
            (r#"{"land":[1,5],"lull":"9.9"}"#, 4, Landing::Fast),
            // The greeting of a lull that knows no zero pages.
            (r#"{"land":[2,3],"lull":"0.1.0"}"#, 3, Landing::Fast),
            // The greeting of a lull without Start.
            (
                r#"{"land":[2,2],"lull":"0.1.0"}"#,
                2,
                Landing::FastHandshakeLast,
            ),
        ] {
            let script = format!("echo welcome; echo '{greeting}'; read answer; echo \"$answer\"");
            let call = call(&script).land.unwrap();
            assert_eq!(call.landing(), landing);
            let (_, from, mut child) = call.into_parts();
            let mut said = String::new();
            std::fs::File::from(from).read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("{{\"land\":{chosen}}}\n"));
            assert!(child.wait().unwrap().success());
        }
    }

    #[test]
    fn whoever_speaks_otherwise_is_not_guessed_at() {
        let said = |script| call(script).land.unwrap_err().to_string();
        assert!(said("exit 127").starts_with("no lull answers"));
        assert!(said("yes").starts_with("no lull answers"));
        assert!(said(r#"echo '{"land":[5,6],"lull":"9.9"}'"#).contains("9.9"));
    }

    #[test]
    fn which_xen_runs_there_is_heard_whether_or_not_lull_answers() {
        let xen = "printf hello; echo; echo lull: xen 4.18";
        let called = call(&format!(
            r#"{xen}; echo '{{"land":[1,3],"lull":"9.9"}}'; read answer"#
        ));
        assert!(called.land.is_ok());
        let silent = call(&format!("{xen}; exit 127"));
        assert!(matches!(silent.land, Err(NoLand::Silent)));
        let release = Release {
            major: 4,
            minor: 18,
        };
        assert_eq!([called.xen, silent.xen], [Some(release); 2]);
        assert_eq!(call("exit 127").xen, None);
    }

    /// The packets go nowhere, or sshd accepts the connection and says nothing.
    #[test]
    fn a_destination_that_swallows_is_waited_for_until_the_timeout() {
        let begun = Instant::now();
        let inbox = Inbox::new();
        let until = Some(Instant::now() + Duration::from_millis(200));
        let mut command = Command::new("sh");
        command.args(["-c", "exec sleep 300", "x"]);
        let called = Call::make(command, &Patience::new(&inbox, until));
        assert!(
            matches!(called.land, Err(NoLand::Enough(Enough::OutOfTime))),
            "{called:?}"
        );
        assert!(begun.elapsed() < GREETING);
    }

    #[test]
    fn a_log_in_that_only_receives_is_known_at_once() {
        let banner = BANNER.trim_ascii_end();
        let script = format!("echo '{}'; exec sleep 60", banner.escape_ascii());
        let begun = Instant::now();
        let called = call(&script);
        assert!(
            matches!(called.land, Err(NoLand::OnlyReceives)),
            "{called:?}"
        );
        assert!(begun.elapsed() < GREETING);
    }
}
