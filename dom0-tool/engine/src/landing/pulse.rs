//! Finds out whether the other end of a silent connection still answers.

use std::time::Instant;

use lull_wire::channel::{PING, SILENCE};

/// What to do about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The other end has answered lately.
    Fine,
    /// Send a ping.
    Ask,
    /// The other end has owed an answer for too long.
    Dead,
}

/// When the other end of a connection last answered.
#[derive(Debug)]
pub struct Pulse {
    /// When its last message came, or when no answer was due any more.
    last_message_at: Instant,
    /// When it was last asked, if no message came since.
    asked: Option<Instant>,
}

impl Pulse {
    /// An end whose last message came at this moment.
    pub fn new(now: Instant) -> Self {
        Self {
            last_message_at: now,
            asked: None,
        }
    }

    /// Records that a message came.
    pub fn received(&mut self, now: Instant) {
        self.last_message_at = now;
        self.asked = None;
    }

    /// Decides what to do. `is_due` says whether it owes another answer, so that it need not
    /// be asked.
    pub fn look(&mut self, now: Instant, is_due: bool) -> Beat {
        let silent = now.duration_since(self.last_message_at);
        if self.asked.is_none() && is_due {
            // It owes that answer from now on.
            self.asked = Some(now);
        }
        match self.asked {
            Some(asked) if now.duration_since(asked) >= SILENCE => Beat::Dead,
            Some(_) => Beat::Fine,
            None if silent >= PING => {
                self.asked = Some(now);
                Beat::Ask
            }
            None => Beat::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_end_is_asked_and_then_given_up() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(begun);
        assert_eq!(pulse.look(at(begun, 1), false), Beat::Fine);
        assert_eq!(pulse.look(begun + PING, false), Beat::Ask);
        assert_eq!(pulse.look(begun + PING, false), Beat::Fine, "asked once");
        let last = begun + PING + SILENCE;
        assert_eq!(
            pulse.look(last - Duration::from_millis(1), false),
            Beat::Fine
        );
        assert_eq!(pulse.look(last, false), Beat::Dead);
    }

    #[test]
    fn an_end_that_answers_lives_however_long_it_takes() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(begun);
        for seconds in 1..1_000 {
            let now = at(begun, seconds);
            match pulse.look(now, seconds % 7 == 0) {
                Beat::Dead => panic!("after {seconds} s"),
                Beat::Ask | Beat::Fine => {}
            }
            if seconds % 10 == 0 {
                pulse.received(now);
            }
        }
    }

    #[test]
    fn an_end_that_owes_an_answer_is_not_asked_besides() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(begun);
        for seconds in 0..SILENCE.as_secs() {
            assert_eq!(pulse.look(at(begun, seconds), true), Beat::Fine);
        }
        assert_eq!(pulse.look(begun + SILENCE, true), Beat::Dead);
    }
}
