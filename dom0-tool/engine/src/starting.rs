//! The end of a fast landing in which xl's handshake is over before the guest stops: `lull
//! land` starts the copy on the engine's word.

use std::time::{Duration, Instant};

use super::clock::TICK;
use super::failure::{Doing, Failure};
use super::landing::Received;
use super::session::{End, Session};

/// Time that the destination has to start the copy, which takes one hypercall. Whatever it
/// does, the guest is not resumed here afterwards.
const STARTING: Duration = Duration::from_secs(60);

impl Session<'_> {
    /// Has the copy started. Everything is in place. Without the transport's permission the
    /// guest is resumed here. With it nothing resumes the guest any more, whatever becomes of
    /// the copy.
    pub(super) fn start_copy(&mut self) -> Result<End, Failure> {
        self.host.ask_to_start();
        loop {
            self.hear_others()?;
            if self.news.may_start {
                break;
            }
            let left = self.until_too_late();
            if left == Some(Duration::ZERO) {
                return Err(Failure::Deadline);
            }
            self.wait(left.unwrap_or(TICK).min(TICK))
                .doing("waiting failed")?;
        }
        if !self.is_suspended()? {
            return Err(Failure::ResumedByAnother);
        }
        // The guard is told before the destination: it must not resume the guest if this
        // process dies in between.
        self.host.commit();
        let started = self.start_and_hear();
        self.host.tell_started(started);
        Ok(End::Complete)
    }

    /// Time left until the guest must be resumed here to keep the limit.
    fn until_too_late(&self) -> Option<Duration> {
        let resume = self.peer.machine().config().costs.resume;
        let longest = Duration::from_micros(self.limit_in_force()?.since(resume).0);
        let pause = self.pause?;
        Some(longest.saturating_sub(pause.requested.elapsed()))
    }

    /// Sends the word, and waits for the answer. Returns whether the copy runs.
    fn start_and_hear(&mut self) -> bool {
        self.landing.start(&mut self.queue);
        let until = Instant::now() + STARTING;
        loop {
            match self.landing.recv() {
                Ok(Some(Received::Started)) => return true,
                Ok(None | Some(Received::Noted | Received::Narrowed)) if Instant::now() < until => {
                }
                Ok(_) | Err(_) => return false,
            }
            if self.write().is_err() || self.wait(TICK).is_err() {
                return false;
            }
        }
    }
}
