//! The connection to a waiting `lull land`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lull_wire::channel::{self, Edition, Expect, FromLand, HEADER, JOINED_MAX};
use rustix::io::ioctl_fionbio;

use super::joined::Joined;
use crate::failure::Failure;
use crate::stream::sink::Sink;

/// Both directions of the connection, and the identity of the guest.
pub struct Channel {
    pub(super) to: Sink,
    pub(super) from: Answers,
    pub(super) uuid: [u8; 16],
    pub(super) name: String,
    pub(super) edition: Edition,
    pub(super) joined: Vec<Joined>,
    /// The copy that the destination has to expect, if the guest has emulated devices.
    pub(super) expected: Option<Expect>,
}

/// A further connection: its number, and the descriptors to `lull land` and from it.
#[derive(Debug)]
pub struct Connection {
    /// The number that `lull land` gave to it.
    pub number: u8,
    /// Where frames are written.
    pub to: OwnedFd,
    /// Where answers are read.
    pub from: OwnedFd,
}

impl Channel {
    /// Uses these two descriptors. `lull land` finds the guest's copy by `uuid` and `name`.
    ///
    /// # Errors
    /// When the descriptors cannot be made non-blocking.
    pub fn new(
        to: OwnedFd,
        from: OwnedFd,
        (uuid, name): ([u8; 16], &str),
        edition: Edition,
    ) -> io::Result<Self> {
        Ok(Self {
            to: Sink::new(to)?,
            from: Answers::new(from)?,
            uuid,
            name: name.to_owned(),
            edition,
            joined: Vec::new(),
            expected: None,
        })
    }

    /// Adds a connection that has joined this one.
    ///
    /// # Errors
    /// When its descriptors cannot be made non-blocking, or when its number is taken or is
    /// none.
    pub fn join(&mut self, connection: Connection) -> io::Result<()> {
        let number = connection.number;
        let is_taken = self.joined.iter().any(|other| other.number == number);
        if is_taken || !(1..=JOINED_MAX).contains(&number) || !self.edition.may_join() {
            return Err(io::Error::other("a connection that cannot have joined"));
        }
        self.joined.push(Joined::new(connection)?);
        Ok(())
    }

    /// Announces the copy of a guest with emulated devices. `unpause` says that the copy's
    /// receiver leaves it paused, and that the guest is to run nevertheless.
    ///
    /// # Errors
    /// When `lull land` is too old for such a guest.
    pub fn expect_devices(&mut self, unpause: bool) -> io::Result<()> {
        if !self.edition.takes_devices() {
            return Err(io::Error::other("an older lull, which takes no HVM guest"));
        }
        self.expected = Some(Expect {
            uuid: self.uuid,
            name: self.name.clone(),
            unpause,
        });
        Ok(())
    }
}

/// The destination's answers, which arrive in pieces of any size.
pub struct Answers {
    from: File,
    read: Vec<u8>,
}

impl Answers {
    pub(super) fn new(from: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&from, true)?;
        Ok(Self {
            from: from.into(),
            read: Vec::new(),
        })
    }

    /// The next complete answer, if one has arrived. Never blocks.
    ///
    /// # Errors
    /// When no further answer can come, or the bytes are not a valid answer.
    pub fn next(&mut self) -> Result<Option<FromLand>, Failure> {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<HEADER>() {
                let (kind, length) = channel::header(*head);
                if length > channel::FROM_LAND_MAX {
                    return Err(Failure::Land("it sent a message that is too long".into()));
                }
                if let Some(body) = rest.get(..length) {
                    let answer = FromLand::decode(kind, body);
                    self.read.drain(..HEADER + length);
                    return answer
                        .map(Some)
                        .map_err(|error| Failure::Land(error.to_string()));
                }
            }
            let mut chunk = [0; 4096];
            match self.from.read(&mut chunk) {
                Ok(0) => return Err(Failure::LandLost("it broke".into())),
                Ok(count) => self.read.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Stream(error)),
            }
        }
    }
}

impl AsFd for Answers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write, pipe};

    use super::*;

    fn answers() -> (Answers, PipeWriter) {
        let (read, write) = pipe().unwrap();
        (Answers::new(read.into()).unwrap(), write)
    }

    fn why(answers: &mut Answers) -> String {
        answers.next().unwrap_err().to_string()
    }

    #[test]
    fn answers_come_in_pieces_and_several_at_once() {
        let (mut answers, mut land) = answers();
        let sent = [
            FromLand::Attached,
            FromLand::Applied,
            FromLand::Failed("no memory".into()),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(FromLand::encode).collect();
        let mut received = Vec::new();
        for byte in &bytes {
            land.write_all(&[*byte]).unwrap();
            received.extend(answers.next().unwrap());
        }
        assert_eq!(received, sent);
        land.write_all(&bytes).unwrap();
        for answer in sent {
            assert_eq!(answers.next().unwrap(), Some(answer));
        }
        assert_eq!(answers.next().unwrap(), None);
    }

    #[test]
    fn an_end_or_nonsense_is_the_destinations_failure() {
        let (mut at_end, mut land) = answers();
        land.write_all(&FromLand::Applied.encode()[..5]).unwrap();
        assert_eq!(at_end.next().unwrap(), None);
        drop(land);
        assert!(why(&mut at_end).contains("the connection to lull land was lost"));

        let (mut endless, mut land) = answers();
        land.write_all(&[0x85, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
            .unwrap();
        assert!(why(&mut endless).contains("too long"));

        let (mut unknown, mut land) = answers();
        land.write_all(&[7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(why(&mut unknown).contains("no message"));
    }
}
