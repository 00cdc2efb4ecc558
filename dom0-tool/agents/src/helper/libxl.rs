//! The conversation with libxl (`tools/libs/light/libxl_save_msgs_gen.pl`,
//! 4.17 to 4.22): messages on standard output, answers on standard input.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use lull_base::ready;
use lull_engine::SuspendAnswer;
use lull_wire::events::How;
use lull_xen::DomId;
use rustix::event::{PollFd, PollFlags};

use super::toolstack::{Toolstack, errno};

/// Message numbers of the protocol.
mod message {
    pub const LOG: u16 = 1;
    pub const SUSPEND: u16 = 3;
    pub const SWITCH_QEMU_LOGDIRTY: u16 = 7;
    pub const COMPLETE: u16 = 10;
}

/// The values of `XTL_WARN` and `XTL_ERROR` (`tools/include/xentoollog.h`).
const LEVEL_WARN: u32 = 7;
const LEVEL_ERROR: u32 = 8;

/// Longest text of one log message, in bytes; the frame allows 64 KiB.
const TEXT_MAX: usize = 4096;

/// Both ends of the conversation.
pub struct Libxl {
    to: io::Stdout,
    from: io::Stdin,
    /// A request was sent whose answer has not arrived.
    asked: bool,
    domid: DomId,
}

impl Libxl {
    /// Takes standard input and output; nothing else in this process may use them.
    pub fn new(domid: DomId) -> Self {
        Self {
            to: io::stdout(),
            from: io::stdin(),
            asked: false,
            domid,
        }
    }

    /// Writes a warning to libxl's log, which xl prints. libxl sends no answer, so a
    /// program that replaces this process finds the conversation at its start.
    ///
    /// # Errors
    /// When libxl has closed its end.
    pub fn warn(&mut self, text: &str) -> io::Result<()> {
        self.log(LEVEL_WARN, text)
    }

    fn log(&mut self, level: u32, text: &str) -> io::Result<()> {
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut body = Body::new(message::LOG);
        body.u32(level);
        body.u32(u32::MAX); // errno: -1, or libxl adds ": Success"
        body.string("lull");
        body.string(&text[..end]);
        self.send(body)
    }

    fn is_readable(&self) -> io::Result<bool> {
        Ok(self.ready()?.intersects(PollFlags::IN | PollFlags::HUP))
    }

    fn ready(&self) -> io::Result<PollFlags> {
        let mut fds = [PollFd::new(&self.from, PollFlags::IN)];
        ready::wait(&mut fds, Some(Duration::ZERO))?;
        Ok(fds[0].revents())
    }

    fn answer(&mut self) -> io::Result<i32> {
        let mut answer = [0; 4];
        self.from.lock().read_exact(&mut answer)?;
        Ok(i32::from_ne_bytes(answer))
    }

    fn send(&mut self, body: Body) -> io::Result<()> {
        let mut out = self.to.lock();
        out.write_all(&body.frame())?;
        out.flush()
    }
}

impl Toolstack for Libxl {
    fn ask_to_suspend(&mut self) -> io::Result<()> {
        self.send(Body::new(message::SUSPEND))?;
        self.asked = true;
        Ok(())
    }

    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>> {
        if !self.asked || !self.is_readable()? {
            return Ok(None);
        }
        // If libxl has gone, this fails, and so does every later call.
        let answer = self.answer()?;
        self.asked = false;
        Ok(Some(match answer {
            0 => SuspendAnswer::Failed,
            _ => SuspendAnswer::Stopped,
        }))
    }

    fn cancel_suspend_request(&mut self) -> io::Result<bool> {
        // libxl has sent the request, and would take one that vanished for acknowledged.
        Ok(false)
    }

    fn look(&self) -> io::Result<()> {
        // A hang-up alone means that libxl has closed its end.
        match self.ready() {
            Ok(PollFlags::HUP) => Err(io::Error::other("it closed the conversation")),
            _ => Ok(()),
        }
    }

    fn log_devices(&mut self, on: bool) -> io::Result<()> {
        if self.asked {
            return Err(io::Error::other(
                "it has not answered the request to suspend",
            ));
        }
        self.send(switch_qemu_logdirty(self.domid, on))?;
        match self.answer()? {
            0 => Ok(()),
            _ => Err(io::Error::other("QEMU does not answer it, or refuses")),
        }
    }

    fn first_pass_done(&mut self) -> io::Result<()> {
        Err(io::Error::other("a classic landing has no first pass"))
    }

    fn report_failure(&mut self, words: &str) {
        let _ = self.log(LEVEL_ERROR, words);
    }

    fn end(&mut self, how: How) -> io::Result<()> {
        let errno = errno(how);
        let result = if errno == 0 { 0 } else { -1_i32 };
        let mut body = Body::new(message::COMPLETE);
        body.u32(result as u32);
        body.u32(errno as u32);
        self.send(body)?;
        self.answer().map(|_| ())
    }

    fn wake_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.from.as_fd())
    }
}

fn switch_qemu_logdirty(domid: DomId, on: bool) -> Body {
    let mut body = Body::new(message::SWITCH_QEMU_LOGDIRTY);
    body.u32(domid.into());
    body.u32(on.into());
    body
}

/// A message under construction: packed, in the host's byte order.
struct Body(Vec<u8>);

impl Body {
    fn new(number: u16) -> Self {
        Self(number.to_ne_bytes().to_vec())
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_ne_bytes());
    }

    /// Writes the length including the closing NUL, then text and NUL. A NUL within the
    /// text would end it early and becomes a space.
    fn string(&mut self, text: &str) {
        let text = text.replace('\0', " ");
        self.u32(text.len() as u32 + 1);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// The message, preceded by its length.
    fn frame(self) -> Vec<u8> {
        let length = u16::try_from(self.0.len()).expect("messages are short");
        [&length.to_ne_bytes()[..], &self.0].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_libxl_reads_them() {
        let mut body = Body::new(message::COMPLETE);
        body.u32(-1_i32 as u32);
        body.u32(16);
        let expected = [10, 0, 10, 0, 255, 255, 255, 255, 16, 0, 0, 0];
        assert_eq!(body.frame(), expected);

        let expected = [10, 0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(switch_qemu_logdirty(9, true).frame(), expected);

        let mut body = Body::new(message::LOG);
        body.string("a\0b");
        assert_eq!(body.frame(), [10, 0, 1, 0, 4, 0, 0, 0, b'a', b' ', b'b', 0]);
    }
}
