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
            self.recv_news()?;
            // The limit comes first: this process may have been held up since the permission
            // was given.
            let left = self.until_too_late();
            if left == Some(Duration::ZERO) {
                return Err(Failure::Deadline);
            }
            if self.news.may_start {
                break;
            }
            self.wait(left.unwrap_or(TICK).min(TICK))
                .doing("waiting failed")?;
        }
        if !self.is_suspended()? {
            return Err(Failure::ResumedByAnother);
        }
        // `lull land` gives the copy up after three minutes of silence. If this process was held
        // up for so long, the message that says so must be read while the guest can still be
        // resumed here.
        self.recv_landing()?;
        // The guard gets its report before the destination gets Start: it must not resume the
        // guest if this process dies in between.
        self.host.commit();
        let started = self.start_and_await_answer();
        if let Err(why) = &started {
            self.log("error", format!("the copy was not seen to run: {why}"));
        }
        self.host.report_started(started.is_ok());
        Ok(End::Complete)
    }

    /// Time left until the guest must be resumed here to keep the limit.
    fn until_too_late(&self) -> Option<Duration> {
        let resume = self.peer.machine().config().costs.resume;
        let longest = Duration::from_micros(self.limit_in_force()?.since(resume).0);
        let pause = self.pause?;
        Some(longest.saturating_sub(pause.requested.elapsed()))
    }

    /// Sends Start, and waits for the answer that the copy runs. Otherwise returns why that
    /// answer did not come.
    fn start_and_await_answer(&mut self) -> Result<(), String> {
        self.landing.start(&mut self.queue);
        let until = Instant::now() + STARTING;
        loop {
            match self.landing.recv().map_err(words)? {
                Some(Received::Started) => return Ok(()),
                None | Some(Received::Noted | Received::Narrowed) if Instant::now() < until => {}
                None | Some(Received::Noted | Received::Narrowed) => {
                    let longest = STARTING.as_secs();
                    return Err(format!("the destination did not answer for {longest} s"));
                }
                Some(_) => return Err("the destination spoke out of turn".to_owned()),
            }
            self.write().map_err(words)?;
            self.wait(TICK).map_err(|error| error.to_string())?;
        }
    }
}

/// The destination's own words, if it gave any: nothing is left to be brought up to date.
fn words(failure: Failure) -> String {
    match failure {
        Failure::Land(why) => why,
        other => other.to_string(),
    }
}
