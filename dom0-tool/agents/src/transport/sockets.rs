//! The sockets of the front end and of the engine. What the gate goes by comes in; events
//! go out to the front end, and what a fast landing waits for to its engine.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use lull_base::inherited_fd;
use lull_wire::events::{self, Line, SCHEMA};
use lull_wire::gate::{BadMessage, FromEngine, GateCommand, Incoming, ToEngine, encode};
use lull_wire::json;
use rustix::event::PollFlags;
use serde::de::DeserializeOwned;

use super::gate::{Event, Landing};
use super::{ENGINE_FD, FRONT_END_FD};

/// A `lull migrate` that follows this migration, and its engine.
pub struct Sockets {
    front_end: Socket<GateCommand>,
    engine: Socket<FromEngine>,
    /// What the end of the engine's socket means.
    engine_gone: Option<Event>,
}

/// A socket that delivers messages.
struct Socket<T> {
    socket: Option<UnixStream>,
    incoming: Incoming<T>,
}

impl Sockets {
    /// Connects, if the environment names a socket.
    pub fn connect(landing: Landing) -> Self {
        let socket = |variable| inherited_fd::named(variable).map(UnixStream::from);
        Self::new(socket(FRONT_END_FD), socket(ENGINE_FD), landing)
    }

    /// Uses these two sockets.
    pub fn new(
        front_end: Option<UnixStream>,
        engine: Option<UnixStream>,
        landing: Landing,
    ) -> Self {
        Self {
            front_end: Socket::new(front_end),
            engine: Socket::new(engine),
            engine_gone: match landing {
                // xl closes the connection when its helper has died.
                Landing::Classic => None,
                Landing::Fast | Landing::FastHandshakeLast => Some(Event::EngineGone),
            },
        }
    }

    /// The descriptors to poll for messages.
    pub fn wake_on(&self) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        [self.front_end.wake_on(), self.engine.wake_on()]
    }

    /// Reads everything that has arrived, without blocking. An engine that sends what is no
    /// message counts as dead. From a front end such lines are ignored: the operator's
    /// request to cancel may follow them.
    pub fn recv(&mut self, mut each: impl FnMut(Event)) {
        // The engine's socket comes first, so that its progress is known before the front
        // end's commands.
        let mut bad = false;
        let mut gone = self.engine.recv(|message| match message {
            Ok(message) if !bad => each(message.into()),
            _ => bad = true,
        });
        if bad {
            self.engine.socket = None;
            gone = true;
        }
        if gone && let Some(event) = self.engine_gone {
            each(event);
        }
        let gone = self.front_end.recv(|command| {
            if let Ok(command) = command {
                each(command.into());
            }
        });
        if gone {
            each(Event::FrontEndGone);
        }
    }

    /// Sends an event to the front end without blocking, because the guest may be stopped.
    pub fn emit(&mut self, event: events::Event) {
        let line = Line {
            schema: SCHEMA,
            event,
        };
        if let Ok(line) = json::line(&line) {
            self.front_end.send(&line);
        }
    }

    /// Sends a message to the engine without blocking.
    pub fn send_to_engine(&mut self, message: ToEngine) {
        self.engine.send(&encode(message));
    }
}

impl<T: DeserializeOwned> Socket<T> {
    fn new(socket: Option<UnixStream>) -> Self {
        Self {
            socket: socket.filter(|socket| socket.set_nonblocking(true).is_ok()),
            incoming: Incoming::default(),
        }
    }

    fn wake_on(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        Some((self.socket.as_ref()?.as_fd(), PollFlags::IN))
    }

    /// Reads everything that has arrived. Returns true, once, when the socket has ended.
    fn recv(&mut self, mut each: impl FnMut(Result<T, BadMessage>)) -> bool {
        let mut chunk = [0; 1024];
        while let Some(socket) = &mut self.socket {
            match socket.read(&mut chunk) {
                Ok(length @ 1..) => self.incoming.take(&chunk[..length], &mut each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.socket = None;
                    return true;
                }
            }
        }
        false
    }

    /// Only a few short lines are ever sent: a write fails only if the socket has no reader.
    fn send(&mut self, line: &[u8]) {
        if let Some(socket) = &mut self.socket {
            let _ = socket.write(line);
        }
    }
}

impl From<GateCommand> for Event {
    fn from(command: GateCommand) -> Self {
        match command {
            GateCommand::Cancel => Self::Cancel,
            GateCommand::HangUp => Self::HangUp,
        }
    }
}

impl From<FromEngine> for Event {
    fn from(message: FromEngine) -> Self {
        match message {
            FromEngine::Begun => Self::HelperBegun,
            FromEngine::Suspended {
                requested_monotonic_ns: since,
                limit_us,
            } => Self::Suspended {
                since,
                limit_ns: limit_us.map(super::nanos),
            },
            FromEngine::RanOn => Self::RanOn,
            FromEngine::HandOver => Self::HandOver,
            FromEngine::Committed => Self::Committed,
            FromEngine::Started => Self::Started,
            FromEngine::Unanswered => Self::EngineGone,
            FromEngine::GivenUp => Self::GivenUp,
        }
    }
}
