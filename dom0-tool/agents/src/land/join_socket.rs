//! Further connections of a source.
//!
//! Each is an ssh session of its own, in which `lull land --join TOKEN` runs. That process
//! hands its standard input and output to the waiting `lull land` and does nothing else, so
//! one process alone writes into the guest, while ssh and sshd encrypt on several
//! processors. The two meet at a socket in lull's folder, which only root can enter. It is
//! named after the token, which only the source of that landing knows.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::ExitCode;

use lull_base::{hygiene, inherited_fd, passed_fds};
use lull_wire::channel::{self, JOINED_MAX, SHARE_BYTES_MAX, Token};
use lull_wire::json;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

use super::inlet::{Arrived, FindPlace, Inlet};
use super::serve::End;
use lull_store::running::folder::Folder;

/// The message with which a connection joins. Three descriptors accompany it: its input, its
/// output, and a socket that stays open for as long as they are used.
const HELLO: &[u8] = b"join";

/// The socket at which further connections join.
#[derive(Debug)]
pub struct JoinSocket {
    socket: UnixDatagram,
    token: Token,
    /// The number of connections that have joined.
    joined: u8,
}

impl JoinSocket {
    /// Creates the socket of this process.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(folder: &Folder) -> io::Result<Self> {
        let mut secret = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut secret)?;
        let token = Token {
            process: std::process::id(),
            secret: u128::from_ne_bytes(secret),
        };
        folder.make()?;
        folder.clear_away()?;
        let path = folder.join_socket(token);
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            token,
            joined: 0,
        })
    }

    /// What a connection names in order to join.
    pub const fn token(&self) -> Token {
        self.token
    }

    /// Accepts the next connection, if there is one, and sends it its number. A connection
    /// beyond the limit is closed.
    pub fn admit(&mut self) -> Option<Joined> {
        let [from, to, stays] = receive(&self.socket)?;
        let number = self.joined + 1;
        if number > JOINED_MAX {
            return None;
        }
        // The mode belongs to the open file, which `lull land --join` shares and does not
        // use any more.
        for fd in [&from, &to] {
            fcntl_setfl(fd, fcntl_getfl(fd).ok()? | OFlags::NONBLOCK).ok()?;
        }
        let mut joined = Joined {
            number,
            inlet: Inlet::of(SHARE_BYTES_MAX),
            from,
            to,
            stays,
        };
        let line = json::line(&channel::Joined { joined: number }).ok()?;
        joined.say(&line).ok()?;
        self.joined = number;
        Some(joined)
    }
}

impl AsFd for JoinSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: &UnixDatagram) -> Option<[OwnedFd; 3]> {
    let mut bytes = [0; HELLO.len() + 1];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let (count, fds) = passed_fds::receive(socket, &mut bytes, &mut space).ok()?;
    let fds = fds.try_into().ok()?;
    (bytes[..count] == *HELLO).then_some(fds)
}

/// A connection that has joined.
pub struct Joined {
    /// Which of the connections it is; the first that joins is 1.
    pub number: u8,
    inlet: Inlet,
    from: OwnedFd,
    to: OwnedFd,
    /// The process that handed the connection over ends when this is closed, and this is
    /// closed at its other end when that process is killed.
    stays: OwnedFd,
}

impl Joined {
    /// See [`Inlet::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, find_place: FindPlace<'_>) -> Result<Option<Arrived>, End> {
        self.inlet.read(self.from.as_fd(), find_place)
    }

    /// The socket to the process that handed the connection over.
    pub fn stays(&self) -> BorrowedFd<'_> {
        self.stays.as_fd()
    }

    /// Whether a part of a frame has arrived.
    pub const fn is_within_a_frame(&self) -> bool {
        self.inlet.is_within_a_frame()
    }

    /// Sends a short message, and waits for nothing.
    ///
    /// # Errors
    /// When the connection does not take all of it at once.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        match rustix::io::write(&self.to, bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl AsFd for Joined {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// Runs as `lull land --join`.
pub fn join(token: Token) -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::settle();
    let ended = send_connection(&Folder::default(), token, stdin(), stdout()).and_then(|stays| {
        // Copies held here would keep the connection open.
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&nothing)?;
        dup2_stdout(&nothing)?;
        wait(stays)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lull land: this connection cannot join: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Hands a connection to the `lull land` of this token. Returns the socket that is closed
/// when it is no longer used.
pub(super) fn send_connection(
    folder: &Folder,
    token: Token,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
) -> io::Result<UnixStream> {
    let join_socket = UnixDatagram::unbound()?;
    join_socket.connect(folder.join_socket(token))?;
    let (ours, theirs) = UnixStream::pair()?;
    let fds = [from, to, theirs.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL;
    sendmsg(&join_socket, &[IoSlice::new(HELLO)], &mut control, flags)?;
    Ok(ours)
}

fn wait(mut stays: UnixStream) -> io::Result<()> {
    // Nothing is ever written to it.
    stays.read(&mut [0]).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Write, pipe};

    use lull_wire::channel::ToLand;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        (root, folder)
    }

    /// Lets a connection join. Returns the source's ends.
    fn join(folder: &Folder, token: Token) -> io::Result<(PipeWriter, PipeReader, UnixStream)> {
        let (from, source) = pipe().unwrap();
        let (received, to) = pipe().unwrap();
        let stays = send_connection(folder, token, from.as_fd(), to.as_fd())?;
        Ok((source, received, stays))
    }

    #[test]
    fn a_connection_joins_and_carries_frames_until_it_is_closed() {
        let (_root, folder) = folder();
        let mut join_socket = JoinSocket::open(&folder).unwrap();
        assert!(join_socket.admit().is_none());
        let (mut source, received, stays) = join(&folder, join_socket.token()).unwrap();
        let mut joined = join_socket.admit().unwrap();
        assert_eq!(joined.number, 1);
        source.write_all(&channel::ping()).unwrap();
        let mut read = || joined.read(&mut |_| Ok(None)).unwrap();
        assert_eq!(read(), Some(Arrived::Here(ToLand::Ping)));
        assert_eq!(read(), None);
        let long = [7, 0, 0, 0, 1, 0, 0, 0, 9];
        source.write_all(&long[..3]).unwrap();
        assert_eq!(read(), None);
        assert!(joined.is_within_a_frame());
        drop(source);
        assert!(matches!(joined.read(&mut |_| Ok(None)), Err(End::Gone)));
        drop(joined);
        let mut line = String::new();
        { received }.read_to_string(&mut line).unwrap();
        assert_eq!(line, "{\"joined\":1}\n");
        wait(stays).unwrap();
    }

    #[test]
    fn only_whoever_has_the_token_joins_and_no_more_than_may() {
        let (_root, folder) = folder();
        let mut join_socket = JoinSocket::open(&folder).unwrap();
        let mut guessed = join_socket.token();
        guessed.secret ^= 1;
        assert!(join(&folder, guessed).is_err());
        let mode = fs::metadata(folder.join_socket(join_socket.token())).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let mut inside = Vec::new();
        for number in 1..=JOINED_MAX + 1 {
            let source = join(&folder, join_socket.token()).unwrap();
            let joined = join_socket.admit();
            let given = joined.as_ref().map(|joined| joined.number);
            assert_eq!(given, Some(number).filter(|number| *number <= JOINED_MAX));
            inside.push((source, joined));
        }
        // A message without descriptors joins nothing.
        let stranger = UnixDatagram::unbound().unwrap();
        stranger
            .connect(folder.join_socket(join_socket.token()))
            .unwrap();
        stranger.send(HELLO).unwrap();
        assert!(join_socket.admit().is_none());
    }

    #[test]
    fn the_door_of_a_dead_process_is_cleared_away() {
        let (_root, folder) = folder();
        let join_socket = JoinSocket::open(&folder).unwrap();
        let dead = Token {
            // This process number is higher than any real one.
            process: u32::MAX,
            secret: 7,
        };
        fs::write(folder.join_socket(dead), "").unwrap();
        folder.clear_away().unwrap();
        assert!(!folder.join_socket(dead).exists());
        assert!(folder.join_socket(join_socket.token()).exists());
    }
}
