//! A destination that accepts the connection and reads nothing.
//!
//! With autoballoon xl takes one guest at a time: a second receiver waits for xl's lock until
//! the first guest has been received, which may take minutes. It has sent its banner by then,
//! so the source writes until the pipes between the hosts are full. That says nothing about
//! the link.

use std::time::{Duration, Instant};

use lull_core::machine::{Event, State};
use lull_core::service::ServiceCurve;
use lull_core::units::PAGE_SIZE;

use super::explain::Verdict;
use super::failure::Failure;
use super::session::Session;
use lull_base::fmt::Millis;

/// The time without progress after which the stream is said to stand still.
const LONG: Duration = Duration::from_secs(2);

/// The most bytes that pipes, ssh and sockets hold together. A destination that has taken
/// more reads, and a later standstill is the link's.
const BUFFERS: u64 = ServiceCurve::UNSETTLED as u64 * ServiceCurve::WINDOW_PAGES * PAGE_SIZE;

/// What a look at the stream has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It is too early to tell.
    Nothing,
    /// The stream stands still.
    Stands,
    /// Bytes were written since the last look.
    GoesOn,
}

/// The stream's progress at its beginning.
#[derive(Debug)]
pub struct Standstill {
    written: u64,
    /// When a byte was last written, or nothing was there to be written.
    moved: Instant,
    stands: bool,
}

impl Standstill {
    pub fn new(now: Instant) -> Self {
        Self {
            written: 0,
            moved: now,
            stands: false,
        }
    }

    /// Looks at the number of bytes `written` so far. `waits` says whether more could be
    /// written if the destination read.
    fn look(&mut self, now: Instant, written: u64, waits: bool) -> Seen {
        let moves = written > self.written;
        if moves || !waits {
            self.written = written;
            self.moved = now;
        }
        if self.stands && moves {
            self.stands = false;
            return Seen::GoesOn;
        }
        let stands = now.duration_since(self.moved) >= LONG && written <= BUFFERS;
        if stands && !self.stands {
            self.stands = true;
            return Seen::Stands;
        }
        Seen::Nothing
    }

    /// How long the stream has been standing still.
    fn since(&self) -> Option<Duration> {
        self.stands.then(|| self.moved.elapsed())
    }
}

impl Session<'_> {
    /// Detects a destination that does not read yet, reports it, and keeps its wait out of
    /// the link's rate. Must be called before batches are reported as sent.
    pub(super) fn look_at_the_stream(&mut self) -> Result<(), Failure> {
        let machine = self.peer.machine();
        let begins = matches!(machine.state(), State::Waiting | State::Copying);
        if !begins || machine.round() > 0 || self.landing.has_first_pass() {
            return Ok(());
        }
        let now = Instant::now();
        let allowed = self.throttle.as_mut().map(|throttle| throttle.allowed(now));
        let waits = !self.queue.is_empty() && allowed != Some(0);
        match self.standstill.look(now, self.queue.written(), waits) {
            Seen::Nothing => {}
            Seen::Stands => self.log(
                "info",
                "the destination reads nothing yet: its xl may be receiving another guest, and \
                 takes one at a time where it makes room for guests (autoballoon)"
                    .into(),
            ),
            Seen::GoesOn => {
                self.log("info", "the destination reads".into());
                self.peer.feed(self.now(), Event::PathChanged)?;
                self.notify()?;
            }
        }
        Ok(())
    }

    /// Adds to the verdict that the destination was still waiting.
    pub(super) fn explain_standstill(&self, verdict: &mut Verdict) {
        if let Some(since) = self.standstill.since() {
            verdict.advise(&format!(
                "The destination had read nothing for {}: its xl may have been receiving another \
                 guest (autoballoon).",
                Millis(since.as_millis() as u64)
            ));
        }
        if let Some(since) = self.landing.awaits_copy() {
            verdict.advise(&format!(
                "For {} the destination had all that it needs to build the guest, and had not \
                 begun: its xl may have been receiving another guest (autoballoon).",
                Millis(since.elapsed().as_millis() as u64)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_does_not_read_yet_is_told_from_a_link_that_stalls() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut stream = Standstill::new(begun);
        assert_eq!(stream.look(at(1), 1 << 20, true), Seen::Nothing);
        assert_eq!(stream.look(at(2), 1 << 20, true), Seen::Nothing);
        assert_eq!(stream.look(at(4), 1 << 20, true), Seen::Stands);
        assert_eq!(stream.look(at(60), 1 << 20, true), Seen::Nothing);
        assert!(stream.since().is_some());
        assert_eq!(stream.look(at(61), 2 << 20, true), Seen::GoesOn);
        assert!(stream.since().is_none());
        // It has read since.
        assert_eq!(stream.look(at(62), 2 * BUFFERS, true), Seen::Nothing);
        assert_eq!(stream.look(at(90), 2 * BUFFERS, true), Seen::Nothing);
    }

    #[test]
    fn a_stream_with_nothing_to_send_stands_for_nobody() {
        let begun = Instant::now();
        let mut stream = Standstill::new(begun);
        for seconds in 0..60 {
            let now = begun + Duration::from_secs(seconds);
            assert_eq!(stream.look(now, 1 << 20, false), Seen::Nothing);
        }
    }
}
