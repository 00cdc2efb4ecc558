//! What keeps a guest from being stopped, although its pause would fit.

/// How far the handover to the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handover {
    /// It has not begun, and must be over before the guest may be asked to stop.
    Due,
    /// It takes place while rounds are sent.
    UnderWay,
    /// It is over, or this landing needs none.
    Done,
}

/// The reasons to send another round first. Each is lifted by an event of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holds {
    /// Pages use another path now, and no round has used it yet.
    new_path: bool,
    /// The guest's memory size has changed since the last bitmap.
    unsettled: bool,
    handover: Handover,
}

impl Holds {
    /// The holds at the start of an attempt.
    pub(crate) const fn new(hands_over: bool) -> Self {
        Self {
            new_path: false,
            unsettled: false,
            handover: if hands_over {
                Handover::Due
            } else {
                Handover::Done
            },
        }
    }

    /// Pages use another path from now on.
    pub(crate) const fn path_changed(&mut self) {
        self.new_path = true;
    }

    /// The guest's memory size has changed.
    pub(crate) const fn unsettled(&mut self) {
        self.unsettled = true;
    }

    /// A round has sent this many pages.
    pub(crate) const fn sent(&mut self, pages: u64) {
        if pages > 0 {
            self.new_path = false;
        }
    }

    /// A decision is due. The next bitmap includes the changed memory, so that hold counts
    /// for this decision only.
    pub(crate) const fn take(&mut self) -> Held {
        let held = Held {
            new_path: self.new_path,
            unsettled: self.unsettled,
        };
        self.unsettled = false;
        held
    }

    /// How far the handover is.
    pub(crate) const fn handover(&self) -> Handover {
        self.handover
    }

    /// Notes that the handover has begun.
    pub(crate) const fn hand_over(&mut self) {
        self.handover = Handover::UnderWay;
    }

    /// The handover is over. Returns whether it was under way.
    pub(crate) const fn handed_over(&mut self) -> bool {
        let was_under_way = matches!(self.handover, Handover::UnderWay);
        if was_under_way {
            self.handover = Handover::Done;
        }
        was_under_way
    }
}

/// The holds that count for one decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Held {
    /// No round has used the path that the last pages will use.
    pub new_path: bool,
    /// The guest's memory size has changed since the last bitmap was taken.
    pub unsettled: bool,
}

impl Held {
    /// Whether another round is to be sent first, if there is time for it.
    pub const fn any(self) -> bool {
        self.new_path || self.unsettled
    }
}
