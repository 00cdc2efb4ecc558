//! The front end's socket, and that of a fast landing's engine: what the gate goes
//! by comes in, and what it did goes out to the front end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use lull_base::inherited_fd;
use lull_wire::events::{self, Line, Order, SCHEMA};
use rustix::event::PollFlags;

use super::gate::Event;
use super::{ENGINE_FD, FRONT_END_FD};
use crate::helper::handed;

/// Longest line an order may have.
const LONGEST: usize = 4096;

/// A `lull migrate` that watches, and its engine.
pub struct FrontEnd {
    front_end: Orders,
    engine: Orders,
}

/// Where orders come from.
struct Orders {
    socket: Option<UnixStream>,
    line: Vec<u8>,
    /// What its end means.
    end: Event,
}

impl FrontEnd {
    /// Connects, if the environment names a socket. The helper's, which come
    /// along, are closed: they would keep others from seeing its end.
    pub fn connect() -> Self {
        drop(inherited_socket(events::FRONT_END_FD));
        drop(inherited_socket(handed::ENGINE_FD));
        Self::new(inherited_socket(FRONT_END_FD), inherited_socket(ENGINE_FD))
    }

    /// Over these sockets.
    pub fn new(front_end: Option<UnixStream>, engine: Option<UnixStream>) -> Self {
        Self {
            front_end: Orders::new(front_end, Event::FrontEndGone),
            engine: Orders::new(engine, Event::GivenUp),
        }
    }

    /// What to wait on for orders.
    pub fn wake_on(&self) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        [&self.front_end, &self.engine]
            .map(|orders| Some((orders.socket.as_ref()?.as_fd(), PollFlags::IN)))
    }

    /// Everything that has come, without waiting. What is no order is passed
    /// over.
    pub fn hear(&mut self, mut each: impl FnMut(Event)) {
        // The engine first: whoever has both to read knows how far it is.
        self.engine.hear(&mut each);
        self.front_end.hear(&mut each);
    }

    /// Tells what happened, without waiting: the guest may be stopped.
    pub fn tell(&mut self, event: events::Event) {
        let Some(socket) = &mut self.front_end.socket else {
            return;
        };
        let line = Line {
            schema: SCHEMA,
            event,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        // A few short lines in all: there is room, or nobody to read them.
        let _ = socket.write(&text);
    }
}

impl Orders {
    fn new(socket: Option<UnixStream>, end: Event) -> Self {
        Self {
            socket: socket.filter(|socket| socket.set_nonblocking(true).is_ok()),
            line: Vec::new(),
            end,
        }
    }

    fn hear(&mut self, each: &mut impl FnMut(Event)) {
        let mut chunk = [0; 1024];
        while let Some(socket) = &mut self.socket {
            let length = match socket.read(&mut chunk) {
                Ok(length @ 1..) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => {
                    self.socket = None;
                    return each(self.end);
                }
            };
            for &byte in &chunk[..length] {
                if byte != b'\n' {
                    self.line.push(byte);
                    if self.line.len() > LONGEST {
                        self.line.clear();
                    }
                    continue;
                }
                if let Ok(order) = serde_json::from_slice::<Order>(&self.line) {
                    each(order.into());
                }
                self.line.clear();
            }
        }
    }
}

fn inherited_socket(variable: &str) -> Option<UnixStream> {
    inherited_fd::named(variable).map(UnixStream::from)
}

impl From<Order> for Event {
    fn from(order: Order) -> Self {
        match order {
            Order::HelperBegun => Self::HelperBegun,
            Order::Suspended {
                requested_monotonic_ns: since,
                limit_us,
            } => Self::Suspended {
                since,
                limit_ns: limit_us.map(super::nanos),
            },
            Order::RanOn => Self::RanOn,
            Order::Committed => Self::Committed,
            Order::Cancel => Self::Cancel,
            Order::HangUp => Self::HangUp,
            Order::GivenUp => Self::GivenUp,
        }
    }
}
