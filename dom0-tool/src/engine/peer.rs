//! The stub at the other end of the link, trusted in nothing.
//!
//! dom0 steps a machine of its own with every event it sends. What the stub
//! says it did must be what that machine did; so a stub that lies can make an
//! attempt end, and nothing else.

use std::collections::VecDeque;

use lull_core::link::{ActionKind, BadMessage, Consumer, Corrupt, Link, Producer, ToDom0, ToStub};
use lull_core::machine::{Action, Config, Event, Machine, ProtocolError, State};
use lull_core::refusal::Refusal;
use lull_core::units::Micros;

use super::Recorder;

/// What an honest stub would not do.
#[derive(Debug, thiserror::Error)]
pub enum Lie {
    /// Words that are no message.
    #[error("it sent a message that is none: {0}")]
    Message(#[from] BadMessage),
    /// A ring index that cannot be.
    #[error("its ring is corrupt")]
    Ring,
    /// Another action than the one that follows from the events.
    #[error("it decided {said:?} where the events lead to {right:?}")]
    Action {
        /// The stub's.
        said: ActionKind,
        /// The one that follows; `None` when none does.
        right: Option<ActionKind>,
    },
    /// A slot it could not use in that way.
    #[error("it used slot {0} out of turn")]
    Slot(u8),
    /// A frame outside the guest, or out of order.
    #[error("it asked for frame {0:#x}, which was not its turn or is not the guest's")]
    Frame(u64),
    /// Not as many frames as the hypervisor counted dirty.
    #[error("it asked for {asked} frames of a round of {counted}")]
    Count {
        /// By the stub.
        asked: u64,
        /// By the hypervisor.
        counted: u64,
    },
    /// It does not take its messages.
    #[error("it does not read its messages")]
    Deaf,
    /// It said hello again, or something before it.
    #[error("it spoke out of turn")]
    Turn,
}

impl From<Corrupt> for Lie {
    fn from(_: Corrupt) -> Self {
        Self::Ring
    }
}

/// What the stub said, checked as far as this module can.
#[derive(Debug)]
pub enum Said {
    /// It runs.
    Hello,
    /// It took this action, as it had to.
    Did(Box<Action>),
    /// It wants frames.
    Map {
        /// In this slot.
        slot: u8,
        /// So many.
        count: u32,
    },
    /// It has copied a window.
    Filled {
        /// This one.
        slot: u8,
    },
    /// It has scanned to the end.
    Scanned,
}

/// dom0's end of the rings, and its own machine.
pub struct Peer<'l> {
    events: Producer<'l>,
    answers: Consumer<'l>,
    machine: Machine,
    recorder: &'l mut dyn Recorder,
    /// Actions our machine took and the stub has not yet.
    expected: VecDeque<(Micros, Action)>,
}

/// Room a tick leaves for the messages that must get through.
const ROOM_FOR_OTHERS: usize = 32;

impl<'l> Peer<'l> {
    /// The end of a link nobody has used yet.
    pub fn new(link: &'l Link, config: Config, recorder: &'l mut dyn Recorder) -> Self {
        Self {
            events: Producer::new(&link.to_stub),
            answers: Consumer::new(&link.to_dom0),
            machine: Machine::new(config),
            recorder,
            expected: VecDeque::new(),
        }
    }

    /// The machine, for what it knows.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The refusal that follows from the events, if the stub has not come to it
    /// yet, and since when.
    pub fn pending_refusal(&self) -> Option<(Micros, Refusal)> {
        self.expected.iter().find_map(|(at, action)| match action {
            Action::Resume(refusal) | Action::Refuse(refusal) => Some((*at, *refusal)),
            _ => None,
        })
    }

    /// The pause to be given up, with the attempt going on, if the stub has not come to
    /// it yet.
    pub fn pending_run_on(&self) -> Option<Refusal> {
        self.expected.iter().find_map(|(_, action)| match action {
            Action::RunOn(refusal) => Some(*refusal),
            _ => None,
        })
    }

    /// Since when the stub has an action to take.
    pub fn awaited_since(&self) -> Option<Micros> {
        self.expected.front().map(|(at, _)| *at)
    }

    /// Whether the machine has come to its end: there is nothing more to tell.
    fn is_over(&self) -> bool {
        let state = self.machine.state();
        matches!(state, State::Finished | State::Refused | State::Resumed)
    }

    /// Tells the stub what happened.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub fn tell(&mut self, at: Micros, event: Event) -> Result<(), Unheard> {
        if self.is_over() {
            return Ok(());
        }
        self.push(ToStub::Event(at, event))?;
        self.step(at, event)
    }

    /// Whether the stub keeps up with its messages: whatever can wait, must
    /// wait until then.
    pub fn has_room(&self) -> bool {
        self.events.room() > ROOM_FOR_OTHERS
    }

    /// Tells the stub that time passes, unless it is behind with its messages.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub fn tick(&mut self, at: Micros, dirty: Option<u64>) -> Result<(), Unheard> {
        if !self.has_room() {
            return Ok(());
        }
        self.tell(at, Event::Tick { dirty })
    }

    /// Tells the stub that a slot's batch is in the stream.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub fn sent(
        &mut self,
        at: Micros,
        slot: usize,
        requested: u32,
        pages: u32,
    ) -> Result<(), Unheard> {
        if self.is_over() {
            return Ok(());
        }
        self.push(ToStub::Sent {
            at,
            slot: slot as u8,
            requested,
            pages,
        })?;
        self.step(at, Event::Sent { requested, pages })
    }

    /// Tells the stub that a slot's window is there.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub fn mapped(&mut self, slot: u8, pages: u32) -> Result<(), Unheard> {
        self.push(ToStub::Mapped { slot, pages })
    }

    fn push(&mut self, message: ToStub) -> Result<(), Unheard> {
        let pushed = self.events.push(message.encode());
        pushed.map_err(|_| Unheard::Lie(Lie::Deaf))
    }

    fn step(&mut self, at: Micros, event: Event) -> Result<(), Unheard> {
        let action = self.machine.step(at, event).map_err(Unheard::Ours)?;
        self.recorder.record(at, event, &action, &self.machine);
        if action != Action::None {
            self.expected.push_back((at, action));
        }
        Ok(())
    }

    /// What the stub said next.
    ///
    /// # Errors
    /// When it lied.
    pub fn hear(&mut self) -> Result<Option<Said>, Lie> {
        let Some(words) = self.answers.pop()? else {
            return Ok(None);
        };
        Ok(Some(match ToDom0::decode(words)? {
            ToDom0::Hello => Said::Hello,
            ToDom0::Map { slot, count } => Said::Map { slot, count },
            ToDom0::Filled { slot } => Said::Filled { slot },
            ToDom0::Scanned => Said::Scanned,
            ToDom0::Did(said) => {
                let expected = self.expected.pop_front().map(|(_, action)| action);
                let right = expected.as_ref().and_then(ActionKind::of);
                match expected {
                    Some(action) if right == Some(said) => Said::Did(Box::new(action)),
                    _ => return Err(Lie::Action { said, right }),
                }
            }
        }))
    }
}

/// Why an event could not be told.
#[derive(Debug)]
pub enum Unheard {
    /// The stub's fault.
    Lie(Lie),
    /// Our own: the event cannot follow on the ones before.
    Ours(ProtocolError),
}
