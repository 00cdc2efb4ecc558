//! The line to the transport: from `lull migrate`, and of a fast landing from its
//! engine too, which tells by itself how far the guest is. Nobody between the two
//! can then hold up what a paused guest waits for.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use lull_wire::events::{Event, How, Order};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::gate::Landing;

/// How long a transport that reads nothing is waited for. Its socket holds
/// many times what is ever said to it.
const PATIENCE: Duration = Duration::from_millis(100);

/// See the module. What cannot be said to the transport is lost: it is gone then,
/// or was never there.
#[derive(Debug, Clone)]
pub struct Orders {
    socket: Arc<UnixStream>,
    landing: Landing,
}

impl Orders {
    /// Over `socket`.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub fn new(socket: UnixStream, landing: Landing) -> io::Result<Self> {
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket: Arc::new(socket),
            landing,
        })
    }

    /// Gives an order.
    pub fn give(&self, order: Order) {
        let mut line = serde_json::to_vec(&order).unwrap_or_default();
        line.push(b'\n');
        let _ = (&*self.socket).write_all(&line);
    }

    /// Whether the transport has ended.
    pub fn is_gone(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut end = [PollFd::new(&*self.socket, PollFlags::RDHUP)];
        matches!(poll(&mut end, Some(&now)), Ok(1..))
    }

    /// Passes on what the gate must know of the helper's news.
    pub fn pass_on(&self, event: &Event) {
        let order = match event {
            Event::Started(_) => Order::HelperBegun,
            Event::Suspended(suspended) => Order::Suspended {
                requested_monotonic_ns: suspended.requested_monotonic_ns,
                limit_us: suspended.limit_us,
            },
            Event::RanOn(_) => Order::RanOn,
            Event::Ended(ended) if ended.how == How::StreamComplete => Order::Committed,
            // Of a classic one libxl hears so from its helper, and closes.
            Event::Ended(_) if self.landing == Landing::Fast => Order::GivenUp,
            _ => return,
        };
        self.give(order);
    }
}
