//! The source's end of the channel: `lull land` is started there, and a version
//! agreed on.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::wire::{Chosen, Greeting, LINE_MAX, VERSION};

/// How long the destination may take to greet: ssh may ask for a password.
const GREETING: Duration = Duration::from_secs(60);

/// Lines a login shell may say before that.
const LINES: usize = 256;

/// A `lull land` that waits at the destination.
#[derive(Debug)]
pub struct Call {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

/// Why there is none: a clause for "because".
#[derive(Debug, thiserror::Error)]
pub enum NoLand {
    /// Nothing answered.
    #[error("no lull answers there (`lull land` could not be started)")]
    Silent,
    /// Versions that do not meet.
    #[error("the lull there ({theirs}) and this one do not understand each other")]
    Versions {
        /// The release there.
        theirs: String,
    },
    /// Not even the connection.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Call {
    /// Runs `command`, which is to end up as `lull land`, and agrees on a
    /// version.
    ///
    /// # Errors
    /// See [`NoLand`]; nothing is left then.
    pub fn make(mut command: Command) -> Result<Self, NoLand> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let greeted = greet(&mut child);
        match greeted {
            Ok((to, from)) => Ok(Self { child, to, from }),
            Err(error) => {
                // Gone already: as good.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its input and output, for whoever goes on; and the process between.
    pub fn into_parts(self) -> (OwnedFd, OwnedFd, Child) {
        (self.to.into(), self.from.into(), self.child)
    }
}

fn greet(child: &mut Child) -> Result<(ChildStdin, ChildStdout), NoLand> {
    let (mut to, mut from) = child
        .stdin
        .take()
        .zip(child.stdout.take())
        .ok_or(NoLand::Silent)?;
    let until = Instant::now() + GREETING;
    for _ in 0..LINES {
        let line = line(&mut from, until)?;
        let Ok(greeting) = serde_json::from_slice::<Greeting>(&line) else {
            continue;
        };
        if greeting.common().is_none() {
            return Err(NoLand::Versions {
                theirs: greeting.lull,
            });
        }
        let mut line = serde_json::to_vec(&Chosen { land: VERSION }).map_err(io::Error::other)?;
        line.push(b'\n');
        to.write_all(&line)?;
        return Ok((to, from));
    }
    Err(NoLand::Silent)
}

/// A line, byte by byte: what follows it is not ours to read.
fn line(from: &mut ChildStdout, until: Instant) -> Result<Vec<u8>, NoLand> {
    let mut line = Vec::new();
    while line.len() < LINE_MAX {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(NoLand::Silent),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut byte = [0];
        match from.read(&mut byte) {
            Ok(0) => return Err(NoLand::Silent),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(script: &str) -> Result<Call, NoLand> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Call::make(command)
    }

    #[test]
    fn a_greeting_is_found_behind_what_a_shell_says_and_answered() {
        let script =
            r#"echo welcome; echo '{"land":[1,3],"lull":"9.9"}'; read answer; echo "$answer""#;
        let (_, from, mut child) = call(script).unwrap().into_parts();
        let mut said = String::new();
        std::fs::File::from(from).read_to_string(&mut said).unwrap();
        assert_eq!(said, "{\"land\":1}\n");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn whoever_speaks_otherwise_is_not_guessed_at() {
        let said = |script| call(script).unwrap_err().to_string();
        assert!(said("exit 127").starts_with("no lull answers"));
        assert!(said("yes").starts_with("no lull answers"));
        assert!(said(r#"echo '{"land":[2,3],"lull":"9.9"}'"#).contains("9.9"));
    }
}
