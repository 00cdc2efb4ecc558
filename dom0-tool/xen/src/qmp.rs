//! A client of QEMU's monitor (QMP, docs/interop/qmp-spec.rst, the same in QEMU 7.2 and
//! 10.0): one JSON object a line, in both directions.
//!
//! QEMU emulates devices for the guest and may have been taken over by it. So every wait
//! has an end, every line a greatest length, and no answer is believed beyond "done" or
//! "not done".

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use lull_base::text::printable;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use serde_json::{Value, json};

/// The longest line that is read, in bytes. The greeting has some 200, and an event less.
const LINE_MAX: usize = 16 * 1024;

/// The most lines that are read for one answer. QEMU may report events in between, a few
/// for each command.
const LINES_MAX: usize = 256;

/// The longest text of QEMU's that is passed on, in characters.
const WORDS_MAX: usize = 200;

/// Interval between two attempts to reach a monitor that serves another client.
const BUSY: Duration = Duration::from_millis(5);

/// Why QEMU did not carry out a command. Each is a clause with QEMU as its subject.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nothing listens at the monitor's socket, or its end was closed.
    #[error("does not run any more")]
    Gone,
    /// The time was up.
    #[error("does not answer")]
    Silent,
    /// QEMU reports an error, in these words.
    #[error("refuses: {0}")]
    Refused(String),
    /// What was read is not QMP, or too much of it.
    #[error("answers what is no QMP")]
    Garbage,
    /// The socket cannot be used.
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
}

impl From<io::Error> for QmpError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, TimedOut, WouldBlock,
        };
        match error.kind() {
            BrokenPipe | ConnectionRefused | ConnectionReset | NotFound => Self::Gone,
            TimedOut | WouldBlock => Self::Silent,
            _ => Self::Unreachable(error),
        }
    }
}

/// A connection that is ready for commands. All of its waits end at one moment.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    until: Instant,
    /// What was read and not used yet.
    read: Vec<u8>,
}

impl Qmp {
    /// Connects, and takes part in the greeting. Everything, the later commands included,
    /// must be over after `limit`.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let until = Instant::now() + limit;
        Self::greeted(reach(path, until)?, until)
    }

    fn greeted(socket: UnixStream, until: Instant) -> Result<Self, QmpError> {
        let mut qmp = Self {
            socket,
            until,
            read: Vec::new(),
        };
        let greeting = qmp.next_object()?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Garbage);
        }
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Has QEMU execute a command, and returns what it answers.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let mut request = json!({ "execute": command });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write_all(&line(&request))?;
        self.answer()
    }

    /// Hands a descriptor to QEMU (`add-fd`), which opens it again under the name that is
    /// returned. It must be open in exactly the mode in which QEMU will open it.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn add_file(&mut self, file: BorrowedFd<'_>) -> Result<String, QmpError> {
        let files = [file];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let line = line(&json!({ "execute": "add-fd" }));
        self.socket.set_write_timeout(Some(self.left()?))?;
        // So few bytes are taken at once, or not at all.
        sendmsg(
            &self.socket,
            &[IoSlice::new(&line)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map_err(io::Error::from)?;
        let answer = self.answer()?;
        let set = answer.get("fdset-id").and_then(Value::as_u64);
        let set = set.ok_or(QmpError::Garbage)?;
        Ok(format!("/dev/fdset/{set}"))
    }

    fn answer(&mut self) -> Result<Value, QmpError> {
        for _ in 0..LINES_MAX {
            let mut object = self.next_object()?;
            if let Some(value) = object.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = object.get("error") {
                return Err(QmpError::Refused(words(error)));
            }
            // Anything else is an event.
        }
        Err(QmpError::Garbage)
    }

    fn next_object(&mut self) -> Result<Value, QmpError> {
        let line = self.next_line()?;
        let object: Value = serde_json::from_slice(&line).map_err(|_| QmpError::Garbage)?;
        match object.is_object() {
            true => Ok(object),
            false => Err(QmpError::Garbage),
        }
    }

    fn next_line(&mut self) -> Result<Vec<u8>, QmpError> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.read[looked..].iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(looked + at + 1);
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            looked = self.read.len();
            if looked > LINE_MAX {
                return Err(QmpError::Garbage);
            }
            let mut bytes = [0; 4096];
            self.socket.set_read_timeout(Some(self.left()?))?;
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(QmpError::Gone),
                Ok(count) => self.read.extend(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The time that is left; never zero, which would stand for no limit.
    fn left(&self) -> Result<Duration, QmpError> {
        let left = self.until.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(QmpError::Silent),
            false => Ok(left),
        }
    }
}

/// QEMU's description of an error. Its class precedes it unless it is the generic one.
fn words(error: &Value) -> String {
    let of = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let text = match of("class") {
        "" | "GenericError" => of("desc").to_owned(),
        class => format!("{class}: {}", of("desc")),
    };
    printable(&text).chars().take(WORDS_MAX).collect()
}

fn line(request: &Value) -> Vec<u8> {
    let mut line = request.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Connects to the socket. A connect would wait without a limit where other clients wait
/// for the monitor already, so it is tried again and again instead.
fn reach(path: &Path, until: Instant) -> Result<UnixStream, QmpError> {
    let unreachable = |error: Errno| QmpError::from(io::Error::from(error));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.map_err(unreachable)?;
    let address = SocketAddrUnix::new(path).map_err(unreachable)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => std::thread::sleep(BUSY),
            Err(error) => return Err(unreachable(error)),
        }
    }
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use lull_base::passed_fds;
    use proptest::prelude::*;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
    const DONE: &str = r#"{"return": {}}"#;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    /// A monitor that greets, and has one answer for each command. Returns the commands.
    fn monitor(socket: UnixStream, answers: &[&str]) -> JoinHandle<Vec<Value>> {
        let answers: Vec<String> = answers.iter().map(|&line| line.to_owned()).collect();
        thread::spawn(move || {
            let mut to = socket.try_clone().unwrap();
            let mut lines = BufReader::new(socket).lines();
            writeln!(to, "{GREETING}\r").unwrap();
            let mut received = Vec::new();
            for answer in answers {
                let Some(Ok(line)) = lines.next() else { break };
                received.push(serde_json::from_str(&line).unwrap());
                if to.write_all(answer.as_bytes()).is_err() || to.write_all(b"\n").is_err() {
                    break;
                }
            }
            received
        })
    }

    fn greeted(answers: &[&str], limit: Duration) -> Result<Qmp, QmpError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        monitor(theirs, answers);
        Qmp::greeted(ours, Instant::now() + limit)
    }

    #[test]
    fn a_command_is_answered_after_events() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answer = format!("{}\n{}", r#"{"event": "RESUME", "timestamp": {}}"#, DONE);
        let received = monitor(theirs, &[DONE, &answer]);
        let mut qmp = Qmp::greeted(ours, Instant::now() + LONG).unwrap();
        let arguments = json!({ "enable": true });
        let said = qmp.execute("xen-set-global-dirty-log", Some(arguments));
        assert_eq!(said.unwrap(), json!({}));
        assert_eq!(
            received.join().unwrap(),
            [
                json!({ "execute": "qmp_capabilities" }),
                json!({ "execute": "xen-set-global-dirty-log", "arguments": { "enable": true } }),
            ]
        );
    }

    /// Takes the descriptor that comes with a command, and the rest of the socket.
    fn take_file(socket: &UnixStream) -> OwnedFd {
        let mut bytes = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let (count, files) = passed_fds::receive(socket, &mut bytes, &mut space).unwrap();
        let command: Value = serde_json::from_slice(&bytes[..count]).unwrap();
        assert_eq!(command, json!({ "execute": "add-fd" }));
        files.into_iter().next().expect("a descriptor")
    }

    #[test]
    fn a_file_travels_with_its_command() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let monitor = thread::spawn(move || {
            let mut theirs = theirs;
            writeln!(theirs, "{GREETING}").unwrap();
            let mut received = [0; 256];
            let capabilities = theirs.read(&mut received).unwrap();
            assert!(capabilities > 0);
            writeln!(theirs, "{DONE}").unwrap();
            let mut file = std::fs::File::from(take_file(&theirs));
            writeln!(theirs, r#"{{"return": {{"fdset-id": 3, "fd": 9}}}}"#).unwrap();
            file.write_all(b"state").unwrap();
        });
        let (mut read, write) = io::pipe().unwrap();
        let mut qmp = Qmp::greeted(ours, Instant::now() + LONG).unwrap();
        assert_eq!(qmp.add_file(write.as_fd()).unwrap(), "/dev/fdset/3");
        drop(write);
        monitor.join().unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "state");
    }

    #[test]
    fn an_error_is_quoted_without_what_a_terminal_obeys() {
        let refusal = r#"{"error": {"class": "GenericError", "desc": "no\u001b[2J such thing"}}"#;
        let mut qmp = greeted(&[DONE, refusal], LONG).unwrap();
        let said = qmp.execute("cont", None).unwrap_err().to_string();
        assert_eq!(said, "refuses: no[2J such thing");
        let class = r#"{"error": {"class": "DeviceNotActive", "desc": "no disk"}}"#;
        let mut qmp = greeted(&[DONE, class], LONG).unwrap();
        let said = qmp.execute("cont", None).unwrap_err().to_string();
        assert_eq!(said, "refuses: DeviceNotActive: no disk");
        let long = format!(
            r#"{{"error": {{"desc": "{}"}}}}"#,
            "x".repeat(2 * WORDS_MAX)
        );
        let mut qmp = greeted(&[DONE, &long], LONG).unwrap();
        let said = qmp.execute("cont", None).unwrap_err().to_string();
        assert_eq!(said.len(), "refuses: ".len() + WORDS_MAX);
    }

    #[test]
    fn a_monitor_that_is_silent_or_gone_is_called_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        assert!(matches!(Qmp::connect(&path, LONG), Err(QmpError::Gone)));
        let listener = UnixListener::bind(&path).unwrap();
        // It accepts no client, as a QEMU that hangs or that has another client.
        for _ in 0..3 {
            let error = Qmp::connect(&path, SHORT).unwrap_err();
            assert!(matches!(error, QmpError::Silent), "{error:?}");
        }
        drop(listener);
        assert!(matches!(Qmp::connect(&path, LONG), Err(QmpError::Gone)));
        // It greets and does not answer.
        let mut qmp = greeted(&[DONE, "{}"], SHORT).unwrap();
        let error = qmp.execute("cont", None).unwrap_err();
        assert!(
            matches!(error, QmpError::Silent | QmpError::Gone),
            "{error:?}"
        );
    }

    #[test]
    fn a_monitor_that_never_comes_to_an_end_is_given_up() {
        for endless in ["x".repeat(3 * LINE_MAX), "{}\n".repeat(3 * LINES_MAX)] {
            let mut qmp = greeted(&[DONE, &endless], LONG).unwrap();
            let error = qmp.execute("cont", None).unwrap_err();
            assert!(matches!(error, QmpError::Garbage), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_monitor_says_it_ends(said in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&said).unwrap();
            drop(theirs);
            prop_assert!(Qmp::greeted(ours, Instant::now() + LONG).is_err());
        }
    }
}
