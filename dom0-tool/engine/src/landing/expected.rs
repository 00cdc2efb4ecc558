//! The copy of a guest with emulated devices: its QEMU waits for the one state that there
//! is, which is saved once the guest has stopped.
//!
//! libxl gives QEMU its state before it lets it run, so the stream brings the beginning of
//! a state only. `lull land` has to see to it that QEMU waits for the rest, and must be
//! ready for that before the stream ends.

use std::time::{Duration, Instant};

use lull_wire::channel::{self, Expect};

/// How far the destination is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unannounced,
    Announced,
    Armed,
}

/// A copy that the destination is to expect.
#[derive(Debug)]
pub struct Expected {
    copy: Expect,
    stage: Stage,
    /// Whether the state of its devices is sent.
    sent: bool,
    /// Since when the end of the stream waits for the destination.
    awaited: Option<Instant>,
    /// Whether that wait was reported.
    reported: bool,
}

/// The time after which the wait for the destination is reported.
const LONG: Duration = Duration::from_secs(2);

impl Expected {
    pub const fn new(copy: Expect) -> Self {
        Self {
            copy,
            stage: Stage::Unannounced,
            sent: false,
            awaited: None,
            reported: false,
        }
    }

    /// Records that the stream could end now but for the destination. Returns true once, when
    /// that has lasted long.
    pub fn wait(&mut self, now: Instant) -> bool {
        let since = *self.awaited.get_or_insert(now);
        let is_long = now.duration_since(since) >= LONG;
        is_long && !std::mem::replace(&mut self.reported, true)
    }

    /// Since when the stream waits.
    pub fn awaited_since(&self) -> Option<Instant> {
        self.awaited.filter(|_| !self.is_armed())
    }

    /// Whether a wait was reported that is over now. Returns true once.
    pub fn take_over(&mut self) -> bool {
        self.is_armed() && std::mem::take(&mut self.reported)
    }

    /// The message that announces the copy, once.
    pub fn announcement(&mut self) -> Option<Vec<u8>> {
        let is_first = self.stage == Stage::Unannounced;
        if is_first {
            self.stage = Stage::Announced;
        }
        is_first.then(|| channel::expect(&self.copy))
    }

    /// Records that the destination is armed. Returns whether that answer was due.
    pub fn arm(&mut self) -> bool {
        let is_due = self.stage == Stage::Announced;
        if is_due {
            self.stage = Stage::Armed;
        }
        is_due
    }

    /// Whether the destination owes an answer.
    pub fn is_due(&self) -> bool {
        self.stage == Stage::Announced
    }

    /// Whether the stream may end.
    pub fn is_armed(&self) -> bool {
        self.stage == Stage::Armed
    }

    /// The messages that carry the state of its devices.
    pub fn devices(&mut self, state: &[u8]) -> Vec<u8> {
        self.sent = true;
        channel::devices(state)
    }

    /// Whether they were sent.
    pub const fn has_devices(&self) -> bool {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected::new(Expect {
            uuid: [7; 16],
            name: "web1".into(),
            unpause: true,
        })
    }

    /// xl may hold the copy up for as long as it receives another guest.
    #[test]
    fn a_long_wait_is_reported_once_and_so_is_its_end() {
        let mut expected = expected();
        let begun = Instant::now();
        assert_eq!(expected.awaited_since(), None);
        assert!(expected.announcement().is_some());
        assert!(!expected.wait(begun) && !expected.take_over());
        assert_eq!(expected.awaited_since(), Some(begun));
        assert!(expected.wait(begun + LONG));
        assert!(!expected.wait(begun + 2 * LONG), "twice");
        assert!(expected.arm());
        assert_eq!(expected.awaited_since(), None);
        assert!(expected.take_over());
        assert!(!expected.take_over(), "twice");
    }

    #[test]
    fn a_copy_is_announced_once_and_armed_after_that() {
        let mut expected = expected();
        assert!(!expected.arm() && !expected.is_due());
        assert!(expected.announcement().is_some());
        assert_eq!(expected.announcement(), None);
        assert!(expected.is_due() && !expected.is_armed());
        assert!(expected.arm());
        assert!(!expected.arm(), "twice");
        assert!(expected.is_armed() && !expected.is_due());
    }
}
