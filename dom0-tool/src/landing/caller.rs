//! The source's end of the channel. It starts `lull land` at the destination, and the two
//! agree on a version. The command that starts it may first print which Xen runs there
//! ([`crate::destination`]).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lull_base::child::kill;
use lull_base::connections::Connections;
use lull_base::text::printable;
use lull_wire::channel::{Chosen, Edition, Greeting, Joined, Token};
use lull_wire::events::Landing;
use lull_wire::json;
use lull_wire::xl::markers::BANNER;

use crate::destination::{Enough, LINES, NoLine, Patience, Release, line};

/// Time that the destination has to send its greeting; ssh may ask for a password.
const GREETING: Duration = Duration::from_secs(60);

/// Time that further connections have to join.
const JOINING: Duration = Duration::from_secs(10);

/// A connected `lull land` that waits at the destination.
#[derive(Debug)]
pub struct Call {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    edition: Edition,
    /// What further connections name in order to join.
    token: Option<Token>,
    further: Vec<Further>,
}

/// A further connection that has joined.
#[derive(Debug)]
pub struct Further {
    /// The number that `lull land` gave to it.
    pub number: u8,
    /// What is written here reaches `lull land`.
    pub to: OwnedFd,
    /// What `lull land` writes arrives here.
    pub from: OwnedFd,
    /// The process in between.
    pub child: Child,
}

/// The descriptors and processes of a [`Call`]; see [`Call::into_parts`].
#[derive(Debug)]
pub struct Parts {
    /// What is written here reaches `lull land`.
    pub to: OwnedFd,
    /// What `lull land` writes arrives here.
    pub from: OwnedFd,
    /// The process in between.
    pub child: Child,
    /// The further connections, in the order in which they joined.
    pub further: Vec<Further>,
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
                Ok(Greeted {
                    to,
                    from,
                    edition,
                    token,
                }) => Ok(Self {
                    child,
                    to,
                    from,
                    edition,
                    token,
                    further: Vec::new(),
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

    /// Opens further connections until there are as many as `wanted`. `command` runs `lull
    /// land --join` with a token. Returns why there are fewer, as a clause, or an empty text.
    ///
    /// # Errors
    /// When the operator or the timeout ends the wait.
    pub fn widen(
        &mut self,
        wanted: Connections,
        command: impl Fn(Token) -> Command,
        patience: &Patience<'_>,
    ) -> Result<String, Enough> {
        if wanted.get() == 1 {
            return Ok(String::new());
        }
        let token = match (self.edition, self.token) {
            (edition, Some(token)) if edition.may_join() => token,
            (edition, None) if edition.may_join() => {
                return Ok("lull there cannot take more".into());
            }
            _ => return Ok("the lull there is older and takes one".into()),
        };
        let until = Instant::now() + JOINING;
        // All of them log in at the same time.
        let started = (1..wanted.get()).map(|_| {
            command(token)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        });
        let started: Vec<_> = started.collect();
        let mut why = String::new();
        let mut enough = None;
        for child in started {
            let mut child = match child {
                Ok(child) => child,
                Err(error) => {
                    why = error.to_string();
                    continue;
                }
            };
            match enough.map_or_else(|| joined(&mut child, until, patience), Err) {
                Ok(joined) if self.is_taken(joined.0) => {
                    kill(&mut child);
                    why = "two were given the same number there".into();
                }
                Ok((number, to, from)) => self.further.push(Further {
                    number,
                    to: to.into(),
                    from: from.into(),
                    child,
                }),
                Err(error) => {
                    kill(&mut child);
                    match error {
                        NoJoin::Enough(stop) => enough = Some(NoJoin::Enough(stop)),
                        error => why = error.to_string(),
                    }
                }
            }
        }
        match enough {
            Some(NoJoin::Enough(enough)) => {
                self.further
                    .drain(..)
                    .for_each(|mut it| kill(&mut it.child));
                Err(enough)
            }
            _ => Ok(why),
        }
    }

    fn is_taken(&self, number: u8) -> bool {
        self.further.iter().any(|other| other.number == number)
    }

    /// The number of connections.
    pub const fn connections(&self) -> usize {
        1 + self.further.len()
    }

    /// Ends the call; it is not needed after all.
    pub fn end(mut self) {
        for mut further in self.further {
            kill(&mut further.child);
        }
        kill(&mut self.child);
    }

    /// Its connections for the caller to use.
    pub fn into_parts(self) -> Parts {
        Parts {
            to: self.to.into(),
            from: self.from.into(),
            child: self.child,
            further: self.further,
        }
    }
}

/// Why a connection has not joined. The message is a clause.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum NoJoin {
    #[error("no answer within {} s", JOINING.as_secs())]
    Late,
    #[error("the connection could not be opened, or was refused there")]
    Closed,
    #[error(transparent)]
    Enough(Enough),
}

/// Waits until a further connection has joined, and returns its number.
fn joined(
    child: &mut Child,
    until: Instant,
    patience: &Patience<'_>,
) -> Result<(u8, ChildStdin, ChildStdout), NoJoin> {
    let (to, mut from) = child
        .stdin
        .take()
        .zip(child.stdout.take())
        .ok_or(NoJoin::Closed)?;
    for _ in 0..LINES {
        match line(&mut from, until, patience) {
            Ok(line) => {
                let said = serde_json::from_slice::<Joined>(&line).ok();
                if let Some(number) = said.and_then(Joined::number) {
                    return Ok((number, to, from));
                }
                // The log-in runs `lull land` itself, whatever is asked.
                if serde_json::from_slice::<Greeting>(&line).is_ok() {
                    return Err(NoJoin::Closed);
                }
            }
            Err(NoLine::Enough(enough)) => return Err(NoJoin::Enough(enough)),
            Err(_) if Instant::now() >= until => return Err(NoJoin::Late),
            Err(_) => return Err(NoJoin::Closed),
        }
    }
    Err(NoJoin::Closed)
}

/// What a greeting leads to.
struct Greeted {
    to: ChildStdin,
    from: ChildStdout,
    edition: Edition,
    token: Option<Token>,
}

fn greet(
    child: &mut Child,
    xen: &mut Option<Release>,
    patience: &Patience<'_>,
) -> Result<Greeted, NoLand> {
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
        to.write_all(&json::line(&Chosen { land })?)?;
        return Ok(Greeted {
            to,
            from,
            edition,
            token: greeting.join,
        });
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
            (r#"{"land":[1,7],"lull":"9.9"}"#, 6, Landing::Fast),
            // The greeting of a lull that takes no emulated devices.
            (r#"{"land":[2,5],"lull":"0.1.0"}"#, 5, Landing::Fast),
            // The greeting of a lull that takes one connection.
            (r#"{"land":[2,4],"lull":"0.1.0"}"#, 4, Landing::Fast),
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
            assert_eq!(call.edition().takes_devices(), chosen == 6, "{greeting}");
            let Parts {
                from, mut child, ..
            } = call.into_parts();
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
        assert!(said(r#"echo '{"land":[7,8],"lull":"9.9"}'"#).contains("9.9"));
    }

    /// Widens a call to a lull that greets like this; each further connection runs the script
    /// of its turn. Returns the numbers of those that joined, and why there are not more.
    fn widened(greeting: &str, wanted: &str, scripts: &[&str]) -> (Vec<u8>, String) {
        let script = format!("echo '{greeting}'; cat");
        let mut call = call(&script).land.unwrap();
        let inbox = Inbox::new();
        let patience = Patience::new(&inbox, None);
        let turn = std::cell::Cell::new(0);
        let command = |token: Token| {
            let script = scripts[turn.replace(turn.get() + 1)];
            let mut command = Command::new("sh");
            command.args(["-c", script, "lull", &token.to_string()]);
            command
        };
        let why = call.widen(wanted.parse().unwrap(), command, &patience);
        assert_eq!(turn.get(), scripts.len(), "connections begun");
        let numbers = call.further.iter().map(|it| it.number).collect();
        assert_eq!(call.connections(), 1 + call.further.len());
        call.end();
        (numbers, why.unwrap())
    }

    #[test]
    fn further_connections_join_or_it_is_said_why_not() {
        let token = "7.000000000000000000000000000000ff";
        let greeting = format!(r#"{{"land":[2,5],"lull":"0.1.0","join":"{token}"}}"#);
        let joins = |number: u8| {
            format!(
                "[ $1 = {token} ] && echo welcome; echo '{{\"joined\":{number}}}'; exec sleep 60"
            )
        };
        let [first, second] = [joins(1), joins(2)];
        let widened = |wanted, scripts: &[&str]| widened(&greeting, wanted, scripts);
        assert_eq!(widened("1", &[]), (vec![], String::new()));
        let both = widened("3", &[&first, &second]);
        assert_eq!(both, (vec![1, 2], String::new()));
        let refused = widened("3", &["exit 255", &second]);
        assert_eq!(refused.0, [2]);
        assert!(refused.1.contains("refused there"), "{}", refused.1);
        // Numbers out of range and numbers that are taken are no numbers.
        let twice = widened("3", &[&first, &first]);
        assert_eq!(twice.0, [1]);
        assert!(twice.1.contains("same number"), "{}", twice.1);
        let none = widened("2", &["echo '{\"joined\":8}'"]);
        assert!(none.0.is_empty());
    }

    #[test]
    fn a_lull_that_takes_one_connection_is_not_asked_for_more() {
        for (greeting, why) in [
            (r#"{"land":[2,4],"lull":"0.1.0"}"#, "older"),
            (r#"{"land":[2,5],"lull":"0.1.0"}"#, "cannot take more"),
        ] {
            let (numbers, said) = widened(greeting, "4", &[]);
            assert!(numbers.is_empty() && said.contains(why), "{said}");
        }
    }

    #[test]
    fn the_operator_does_not_wait_for_connections_that_do_not_join() {
        let mut call = call(
            r#"echo '{"land":[2,5],"lull":"9","join":"7.000000000000000000000000000000ff"}'; cat"#,
        )
        .land
        .unwrap();
        let inbox = Inbox::new();
        inbox.ask_to_stop();
        let command = |_| {
            let mut command = Command::new("sleep");
            command.arg("60");
            command
        };
        let wanted = "3".parse().unwrap();
        let widened = call.widen(wanted, command, &Patience::new(&inbox, None));
        assert_eq!(widened, Err(Enough::Stopped));
        call.end();
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
