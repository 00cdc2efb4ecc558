//! The engine's connection to the transport. It is direct: no process in between can delay
//! what a guest waits for.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lull_base::{inherited_fd, ready};
use lull_engine::News;
use lull_wire::events::{Event, Landing, Refused};
use lull_wire::gate::{FromEngine, Incoming, ToEngine, encode};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, recv};

use crate::transport::GATE_FD;

/// Write timeout towards a transport that reads nothing. Its socket holds many times what
/// is ever sent to it.
const TIMEOUT: Duration = Duration::from_millis(100);

/// Most bytes read at once.
const CHUNK: usize = 1024;

/// The transport that holds READY for this engine.
pub struct Transport {
    socket: UnixStream,
    landing: Landing,
    incoming: Incoming<ToEngine>,
    /// What it has said so far.
    news: News,
}

impl Transport {
    /// Connects, if the environment names a socket.
    pub fn connect() -> Option<Self> {
        Self::new(inherited_fd::named(GATE_FD)?.into(), Landing::Classic).ok()
    }

    /// Uses this socket.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub fn new(socket: UnixStream, landing: Landing) -> io::Result<Self> {
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            landing,
            incoming: Incoming::default(),
            news: News::default(),
        })
    }

    /// Another handle of the same socket, to see its end.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Passes an event on, if the gate needs it. A failed write is ignored: the transport
    /// has ended then.
    pub fn emit(&self, event: &Event) {
        if let Some(message) = FromEngine::of(event, self.landing) {
            self.send(message);
        }
    }

    /// Sends a message. A failed write is ignored: the transport has ended then.
    pub fn send(&self, message: FromEngine) {
        let _ = (&self.socket).write_all(&encode(message));
    }

    /// Reads what has arrived, without blocking, and returns all that has been said. A
    /// socket that has ended means that xl and the transport have: xl holds the other end
    /// too.
    ///
    /// # Errors
    /// When the transport sends what is no message, or speaks out of turn. It carries bytes
    /// of another host, so nothing that it sends is followed unchecked.
    pub fn poll(&mut self) -> io::Result<News> {
        // In a classic landing libxl informs its helper.
        if self.landing == Landing::Classic || self.news.hung_up.is_some() {
            return Ok(self.news);
        }
        let mut chunk = [0; CHUNK];
        let length = match recv(&self.socket, &mut chunk, RecvFlags::DONTWAIT) {
            Ok((length @ 1.., _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(self.news),
            Ok((0, _)) | Err(_) => {
                self.news.hung_up = Some(Refused::XlGone);
                return Ok(self.news);
            }
        };
        let mut received = Ok(self.news);
        self.incoming.take(&chunk[..length], |message| {
            received = match (&received, message) {
                (Ok(known), Ok(message)) => after(message, *known),
                (Ok(_), Err(bad)) => Err(io::Error::other(format!("the transport sent {bad}"))),
                (Err(_), _) => return,
            };
        });
        self.news = received?;
        Ok(self.news)
    }

    /// The descriptor to poll for messages, while any may come.
    pub fn wake_on(&self) -> Option<BorrowedFd<'_>> {
        let listens = self.landing.is_fast() && self.news.hung_up.is_none();
        listens.then(|| self.socket.as_fd())
    }
}

/// What is known after `message`. Each message comes at most once and in its turn, and
/// nothing comes after the transport has hung up.
fn after(message: ToEngine, known: News) -> io::Result<News> {
    match message {
        _ if known.hung_up.is_some() => {}
        ToEngine::TargetReady if known.target_ready => {}
        ToEngine::TargetReady => {
            return Ok(News {
                target_ready: true,
                ..known
            });
        }
        ToEngine::HandedOver if known.target_ready && !known.handed_over => {
            return Ok(News {
                handed_over: true,
                ..known
            });
        }
        ToEngine::Start if known.handed_over && !known.may_start => {
            return Ok(News {
                may_start: true,
                ..known
            });
        }
        ToEngine::HandedOver | ToEngine::Start => {}
        ToEngine::HungUp { why } => {
            return Ok(News {
                hung_up: Some(why),
                ..known
            });
        }
    }
    Err(io::Error::other("the transport spoke out of turn"))
}

/// Whether the process at the other end of this socket has closed it.
pub fn has_ended(socket: &UnixStream) -> bool {
    let mut end = [PollFd::new(socket, PollFlags::RDHUP)];
    ready::wait(&mut end, Some(Duration::ZERO)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use lull_wire::gate::LINE_MAX;

    use super::*;

    const READY: ToEngine = ToEngine::TargetReady;
    const HUNG_UP: ToEngine = ToEngine::HungUp {
        why: Refused::PeerGone,
    };

    fn fast() -> (Transport, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Transport::new(ours, Landing::Fast).unwrap(), theirs)
    }

    fn news_of(messages: &[ToEngine]) -> io::Result<News> {
        let (mut transport, mut theirs) = fast();
        for message in messages {
            theirs.write_all(&encode(*message)).unwrap();
        }
        transport.poll()
    }

    #[test]
    fn ready_and_the_end_arrive_and_stay_known() {
        let (mut transport, mut theirs) = fast();
        assert_eq!(transport.poll().unwrap(), News::default());
        theirs.write_all(&encode(READY)).unwrap();
        let ready = News {
            target_ready: true,
            ..News::default()
        };
        assert_eq!(transport.poll().unwrap(), ready);
        assert_eq!(transport.poll().unwrap(), ready);
        theirs.write_all(&encode(HUNG_UP)).unwrap();
        drop(theirs);
        let over = News {
            hung_up: Some(Refused::PeerGone),
            ..ready
        };
        assert_eq!(transport.poll().unwrap(), over);
        assert_eq!(transport.poll().unwrap(), over);
        assert!(transport.wake_on().is_none());
    }

    #[test]
    fn an_end_without_a_word_means_that_xl_has_gone() {
        let (mut transport, theirs) = fast();
        assert!(!has_ended(&transport.socket));
        drop(theirs);
        assert!(has_ended(&transport.socket));
        assert_eq!(transport.poll().unwrap().hung_up, Some(Refused::XlGone));
    }

    #[test]
    fn each_message_has_its_turn() {
        const HANDED: ToEngine = ToEngine::HandedOver;
        const START: ToEngine = ToEngine::Start;
        for turns in [
            &[][..],
            &[READY],
            &[HUNG_UP],
            &[READY, HUNG_UP],
            &[READY, HANDED, HUNG_UP],
            &[READY, HANDED, START],
        ] {
            news_of(turns).unwrap();
        }
        for others in [
            &[READY, READY][..],
            &[HUNG_UP, READY],
            &[HUNG_UP, HUNG_UP],
            &[READY, HUNG_UP, READY],
            &[HANDED],
            &[START],
            &[READY, START],
            &[READY, HANDED, HANDED],
            &[READY, HANDED, START, START],
            &[READY, HANDED, HUNG_UP, START],
        ] {
            let error = news_of(others).unwrap_err().to_string();
            assert_eq!(error, "the transport spoke out of turn", "{others:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for nonsense in [&b"}{\n"[..], &[b'x'; LINE_MAX + 1]] {
            let (mut transport, mut theirs) = fast();
            theirs.write_all(nonsense).unwrap();
            let error = transport.poll().unwrap_err().to_string();
            assert!(error.starts_with("the transport sent a line"), "{error}");
        }
    }

    #[test]
    fn libxls_helper_sends_and_does_not_receive() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut helper = Transport::new(ours, Landing::Classic).unwrap();
        theirs.write_all(&encode(READY)).unwrap();
        assert_eq!(helper.poll().unwrap(), News::default());
        assert!(helper.wake_on().is_none());
        helper.emit(&Event::RanOn(lull_wire::events::RanOn {
            at_ms: 1,
            pause_ms: 1,
            reason: String::new(),
        }));
        let mut said = [0; CHUNK];
        let length = theirs.read(&mut said).unwrap();
        assert_eq!(said[..length], encode(FromEngine::RanOn));
    }
}
