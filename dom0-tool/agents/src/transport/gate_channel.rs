//! The front end's connection to the transport's gate: what the operator asks for.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lull_wire::gate::{GateCommand, encode};

/// Write timeout towards a transport that reads nothing. Its socket holds many times what
/// is ever sent to it.
const TIMEOUT: Duration = Duration::from_millis(100);

/// See the module. A failed write is ignored: the transport has ended then, or never ran.
#[derive(Debug)]
pub struct GateChannel(UnixStream);

impl GateChannel {
    /// Sends commands over `socket`.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self(socket))
    }

    /// Sends a command; a failure is ignored.
    pub fn send(&self, command: GateCommand) {
        let _ = (&self.0).write_all(&encode(command));
    }
}
