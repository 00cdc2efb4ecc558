//! The copy of a guest with emulated devices: its QEMU waits for the one state that there
//! is, which is saved once the guest has stopped.
//!
//! libxl gives QEMU its state before it lets it run, so the stream brings the beginning of
//! a state only. `lull land` has to see to it that QEMU waits for the rest, and must be
//! ready for that before the stream ends.

use lull_wire::channel::{self, Expect};

/// How far the destination is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Untold,
    Told,
    Armed,
}

/// A copy that the destination is to expect.
#[derive(Debug)]
pub struct Expected {
    copy: Expect,
    stage: Stage,
    /// Whether the state of its devices is sent.
    sent: bool,
}

impl Expected {
    pub const fn new(copy: Expect) -> Self {
        Self {
            copy,
            stage: Stage::Untold,
            sent: false,
        }
    }

    /// The message that announces the copy, once.
    pub fn announcement(&mut self) -> Option<Vec<u8>> {
        let untold = self.stage == Stage::Untold;
        if untold {
            self.stage = Stage::Told;
        }
        untold.then(|| channel::expect(&self.copy))
    }

    /// The destination is armed. Returns whether it was to say so now.
    pub fn arm(&mut self) -> bool {
        let told = self.stage == Stage::Told;
        if told {
            self.stage = Stage::Armed;
        }
        told
    }

    /// Whether the destination owes an answer.
    pub fn is_due(&self) -> bool {
        self.stage == Stage::Told
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

    #[test]
    fn a_copy_is_announced_once_and_armed_after_that() {
        let mut expected = Expected::new(Expect {
            uuid: [7; 16],
            name: "web1".into(),
            unpause: true,
        });
        assert!(!expected.arm() && !expected.is_due());
        assert!(expected.announcement().is_some());
        assert_eq!(expected.announcement(), None);
        assert!(expected.is_due() && !expected.is_armed());
        assert!(expected.arm());
        assert!(!expected.arm(), "twice");
        assert!(expected.is_armed() && !expected.is_due());
    }
}
