//! The connection to the transport. `lull migrate` uses it, and in a fast landing the
//! engine too: it reports its own progress, so no process in between can delay what a
//! paused guest waits for.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use lull_wire::events::{Event, How, Order};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::gate::Landing;

/// Write timeout towards a transport that reads nothing. Its socket holds many times what
/// is ever sent to it.
const PATIENCE: Duration = Duration::from_millis(100);

/// See the module. A failed write is ignored: the transport has ended then, or never ran.
#[derive(Debug, Clone)]
pub struct Orders {
    socket: Arc<UnixStream>,
    landing: Landing,
}

impl Orders {
    /// Sends orders over `socket`.
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

    /// Sends an order; a failure is ignored.
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

    /// Forwards the events of the helper that the gate needs.
    pub fn pass_on(&self, event: &Event) {
        let order = match event {
            Event::Started(_) => Order::HelperBegun,
            Event::Suspended(suspended) => Order::Suspended {
                requested_monotonic_ns: suspended.requested_monotonic_ns,
                limit_us: suspended.limit_us,
            },
            Event::RanOn(_) => Order::RanOn,
            Event::Ended(ended) if ended.how == How::StreamComplete => Order::Committed,
            // In a classic landing libxl learns this from its helper, and closes the
            // connection.
            Event::Ended(_) if self.landing == Landing::Fast => Order::GivenUp,
            _ => return,
        };
        self.give(order);
    }
}
