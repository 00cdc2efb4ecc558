//! The sockets of the front end and of a fast landing's engine. Orders for the gate come
//! in, and events go out to the front end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use lull_base::inherited_fd;
use lull_wire::events::{self, Line, Order, SCHEMA};
use rustix::event::PollFlags;

use super::gate::Event;
use super::{ENGINE_FD, FRONT_END_FD};
use crate::helper::handed;

/// Longest line of an order, in bytes.
const LONGEST: usize = 4096;

/// A `lull migrate` that follows this migration, and its engine.
pub struct FrontEnd {
    front_end: Orders,
    engine: Orders,
}

/// A socket that delivers orders.
struct Orders {
    socket: Option<UnixStream>,
    line: Vec<u8>,
    /// The event that its end of file stands for.
    end: Event,
}

impl FrontEnd {
    /// Connects, if the environment names a socket. The helper's sockets, which are
    /// inherited too, are closed: a copy held here would hide the helper's end.
    pub fn connect() -> Self {
        drop(inherited_socket(events::FRONT_END_FD));
        drop(inherited_socket(handed::ENGINE_FD));
        Self::new(inherited_socket(FRONT_END_FD), inherited_socket(ENGINE_FD))
    }

    /// Uses these two sockets.
    pub fn new(front_end: Option<UnixStream>, engine: Option<UnixStream>) -> Self {
        Self {
            front_end: Orders::new(front_end, Event::FrontEndGone),
            engine: Orders::new(engine, Event::GivenUp),
        }
    }

    /// The descriptors to poll for orders.
    pub fn wake_on(&self) -> [Option<(BorrowedFd<'_>, PollFlags)>; 2] {
        [&self.front_end, &self.engine]
            .map(|orders| Some((orders.socket.as_ref()?.as_fd(), PollFlags::IN)))
    }

    /// Reads everything that has arrived, without blocking. Lines that are not orders are
    /// ignored.
    pub fn hear(&mut self, mut each: impl FnMut(Event)) {
        // The engine's socket comes first, so that its progress is known before the front
        // end's orders.
        self.engine.hear(&mut each);
        self.front_end.hear(&mut each);
    }

    /// Sends an event without blocking, because the guest may be stopped.
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
        // Only a few short lines are ever sent: the write fails only if the socket has no
        // reader.
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
