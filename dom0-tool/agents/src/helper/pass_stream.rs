//! The helper of a fast landing. libxl's helper has long ended when the guest stops, so the
//! engine is a process of `lull migrate`. The helper that libxl starts only passes the stream
//! to it, waits until the first pass is written, and lets libxl go on.
//!
//! ```text
//! lull migrate ──starts──▶ engine ◀── stream, a socket ── helper ◀──starts── libxl
//!      └───── events, commands ─┘ ──── how it went ────────▶ └── complete ────▶
//! ```

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lull_base::lines::Lines;
use lull_base::{inherited_fd, passed_fds, ready};
use lull_engine::{SuspendAnswer, Verify};
use lull_wire::events::How;
use lull_wire::json;
use lull_xen::domain::{ask_to_suspend, cancel_suspend_request};
use lull_xen::{DomId, Xen};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::args::LiveSave;
use super::libxl::Libxl;
use super::toolstack::Toolstack;
use super::transport::has_ended;

/// Environment variable with the number of an inherited socket that leads to the engine.
pub const ENGINE_FD: &str = "LULL_ENGINE_FD";

/// Time that the guest has to acknowledge a request to suspend, and the same again to stop;
/// these are libxl's own limits (`libxl_dom_suspend.c`, 4.17).
const ACKNOWLEDGING: Duration = Duration::from_secs(60);

/// Longest line with which the engine answers, in bytes.
const LINE_MAX: usize = 64 << 10;

/// The message that passes the stream. Two descriptors accompany it: the stream, and the
/// socket for the reply.
#[derive(Debug, Serialize, Deserialize)]
struct StreamMessage {
    domain: DomId,
    verify: bool,
}

/// How the engine's part of libxl's stream ended.
#[derive(Debug, Serialize, Deserialize)]
struct FirstPass {
    how: How,
    /// Text for libxl's log; may be empty.
    words: String,
}

/// The socket to the engine, if there is one.
pub(super) fn engine() -> Option<OwnedFd> {
    inherited_fd::named(ENGINE_FD)
}

/// The main function of the thin helper.
///
/// # Errors
/// When the engine or libxl has gone.
pub(super) fn pass_stream(save: &LiveSave, engine: OwnedFd) -> io::Result<ExitCode> {
    let stream = inherited_fd::adopt(save.io_fd)?;
    // Closed unread: it is not this process's to read.
    drop(inherited_fd::adopt(save.recv_fd));
    let (mut ours, theirs) = UnixStream::pair()?;
    let words = serde_json::to_vec(&StreamMessage {
        domain: save.domain,
        verify: save.verify == Verify::Yes,
    })?;
    let fds = [stream.as_fd(), theirs.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        &engine,
        &[IoSlice::new(&words)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    drop((stream, theirs, engine));

    // The socket closes when the engine ends, whatever it dies of.
    let received = Lines::of(LINE_MAX).read(&mut ours);
    let first_pass = received
        .ok()
        .flatten()
        .and_then(|line| serde_json::from_slice(&line.ok()?).ok())
        .unwrap_or(FirstPass {
            how: How::SourceFailed,
            words: String::new(),
        });
    let mut libxl = Libxl::new(save.domain);
    if !first_pass.words.is_empty() {
        libxl.report_failure(&first_pass.words);
    }
    libxl.end(first_pass.how)?;
    Ok(ExitCode::SUCCESS)
}

/// The stream and the task that the engine received.
pub(super) struct PassedStream {
    /// The descriptor of libxl's stream.
    pub stream: OwnedFd,
    /// The domid of the guest.
    pub domain: DomId,
    /// Set by `xl migrate --debug`.
    pub verify: Verify,
    helper: UnixStream,
}

impl PassedStream {
    /// Waits for the helper. Returns `None` if libxl never starts one, or if `front_end`
    /// has gone.
    ///
    /// # Errors
    /// When the message passes no stream.
    pub(super) fn wait(
        from: &OwnedFd,
        front_end: Option<BorrowedFd<'_>>,
    ) -> io::Result<Option<Self>> {
        loop {
            let mut fds = vec![PollFd::new(from, PollFlags::IN)];
            // Commands can wait; only a hang-up matters here.
            fds.extend(front_end.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)));
            if !ready::wait(&mut fds, None)? {
                continue;
            }
            if !fds[0].revents().is_empty() {
                return Self::take(from);
            }
            return Ok(None);
        }
    }

    fn take(from: &OwnedFd) -> io::Result<Option<Self>> {
        let mut bytes = [0; 256];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let (count, fds) = passed_fds::receive(from, &mut bytes, &mut space)?;
        if count == 0 {
            return Ok(None);
        }
        let message: StreamMessage = serde_json::from_slice(&bytes[..count])?;
        let [stream, helper] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|_| io::Error::other("the helper handed over no stream"))?;
        Ok(Some(Self {
            stream,
            domain: message.domain,
            verify: match message.verify {
                true => Verify::Yes,
                false => Verify::No,
            },
            helper: helper.into(),
        }))
    }

    /// The toolstack that replaces libxl, and the stream.
    ///
    /// # Errors
    /// When Xen cannot be reached.
    pub(super) fn into_toolstack(self) -> io::Result<(DirectToolstack, OwnedFd)> {
        let toolstack = DirectToolstack {
            xen: Xen::open_here()?,
            domid: self.domain,
            helper: Some(self.helper),
            words: String::new(),
            asked: None,
        };
        Ok((toolstack, self.stream))
    }
}

/// The toolstack of an engine without libxl; it asks the guest to suspend itself.
pub(super) struct DirectToolstack {
    xen: Xen,
    domid: DomId,
    /// The socket to the helper, until the first pass is done.
    helper: Option<UnixStream>,
    words: String,
    /// When the guest was asked to suspend; `None` once that is answered.
    asked: Option<Instant>,
}

impl DirectToolstack {
    fn report(&mut self, how: How) -> io::Result<()> {
        let Some(mut helper) = self.helper.take() else {
            return Ok(());
        };
        let words = std::mem::take(&mut self.words);
        helper.write_all(&json::line(&FirstPass { how, words })?)
    }
}

impl Toolstack for DirectToolstack {
    fn ask_to_suspend(&mut self) -> io::Result<()> {
        ask_to_suspend(self.domid)?;
        self.asked = Some(Instant::now());
        Ok(())
    }

    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>> {
        let Some(asked) = self.asked else {
            return Ok(None);
        };
        let state = self.xen.domain_state(self.domid)?;
        let answer = if state.is_some_and(|state| state.is_suspended()) {
            Some(SuspendAnswer::Stopped)
        } else if state.is_none()
            || asked.elapsed() > 2 * ACKNOWLEDGING
            || (asked.elapsed() > ACKNOWLEDGING && cancel_suspend_request(self.domid)?)
        {
            Some(SuspendAnswer::Failed)
        } else {
            None
        };
        if answer.is_some() {
            self.asked = None;
        }
        Ok(answer)
    }

    fn cancel_suspend_request(&mut self) -> io::Result<bool> {
        let withdrawn = cancel_suspend_request(self.domid)?;
        if withdrawn {
            self.asked = None;
        }
        Ok(withdrawn)
    }

    fn look(&self) -> io::Result<()> {
        match self.helper.as_ref().is_some_and(has_ended) {
            true => Err(io::Error::other("its helper has ended")),
            false => Ok(()),
        }
    }

    fn log_devices(&mut self, _: bool) -> io::Result<()> {
        Err(io::Error::other("no libxl is there to switch it"))
    }

    fn first_pass_done(&mut self) -> io::Result<()> {
        self.report(How::StreamComplete)
    }

    fn report_failure(&mut self, words: &str) {
        words.clone_into(&mut self.words);
    }

    fn end(&mut self, how: How) -> io::Result<()> {
        self.report(how)
    }

    fn wake_on(&self) -> Option<BorrowedFd<'_>> {
        self.helper.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Hands over as the helper does, without the conversation with libxl.
    fn received() -> (PassedStream, io::PipeReader) {
        let (helpers, engines) = UnixStream::pair().unwrap();
        let (read, stream) = io::pipe().unwrap();
        let (_, theirs) = UnixStream::pair().unwrap();
        let words = br#"{"domain":7,"verify":true}"#;
        let fds = [stream.as_fd(), theirs.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = sendmsg(
            &helpers,
            &[IoSlice::new(words)],
            &mut control,
            SendFlags::empty(),
        );
        sent.unwrap();
        let engine = OwnedFd::from(engines);
        let received = PassedStream::wait(&engine, None)
            .unwrap()
            .expect("a helper");
        (received, read)
    }

    #[test]
    fn the_stream_is_handed_over_with_what_is_asked() {
        let (received, mut read) = received();
        assert_eq!((received.domain, received.verify), (7, Verify::Yes));
        std::fs::File::from(received.stream)
            .write_all(b"pages")
            .unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pages");
    }

    #[test]
    fn where_no_helper_comes_there_is_nothing_to_do() {
        let (helpers, engines) = UnixStream::pair().unwrap();
        drop(helpers);
        assert!(PassedStream::wait(&engines.into(), None).unwrap().is_none());
        let (_helpers, engines) = UnixStream::pair().unwrap();
        let (front_end, gone) = UnixStream::pair().unwrap();
        drop(gone);
        let waited = PassedStream::wait(&engines.into(), Some(front_end.as_fd()));
        assert!(waited.unwrap().is_none());
    }

    #[test]
    fn what_passes_no_stream_is_an_error() {
        let (mut helpers, engines) = UnixStream::pair().unwrap();
        helpers.write_all(b"garbage").unwrap();
        assert!(PassedStream::wait(&engines.into(), None).is_err());
    }
}
