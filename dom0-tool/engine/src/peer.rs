//! The stub at the other end of the link. dom0 trusts nothing it says.
//!
//! dom0 steps a machine of its own with every event it sends. Each action that the stub
//! reports must be the action of that machine. A stub that lies can therefore end an
//! attempt, and do nothing else.

use std::collections::VecDeque;

use lull_core::link::{ActionKind, BadMessage, Consumer, Corrupt, Link, Producer, ToDom0, ToStub};
use lull_core::machine::{Action, Config, Event, Machine, ProtocolError, State};
use lull_core::refusal::Refusal;
use lull_core::units::Micros;
use lull_wire::trace::Recorder;

use super::slots::Batch;

/// The ways in which a stub breaks the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolViolation {
    /// The words do not decode to a message.
    #[error("it sent a message that is none: {0}")]
    Message(#[from] BadMessage),
    /// A ring index is out of range.
    #[error("its ring is corrupt")]
    Ring,
    /// The reported action is not the one that follows from the events.
    #[error("it decided {said:?} where the events lead to {right:?}")]
    Action {
        /// The action that the stub reported.
        said: ActionKind,
        /// The action that follows from the events; `None` when none does.
        right: Option<ActionKind>,
    },
    /// The slot is not in the state that the message requires.
    #[error("it used slot {0} out of turn")]
    Slot(u8),
    /// The frame lies outside the guest, or is out of order.
    #[error("it asked for frame {0:#x}, which was not its turn or is not the guest's")]
    Frame(u64),
    /// The number of frames differs from the number that the hypervisor counted dirty.
    #[error("it asked for {asked} frames of a round of {counted}")]
    Count {
        /// The frames that the stub asked for in this round.
        asked: u64,
        /// The dirty pages that the hypervisor counted.
        counted: u64,
    },
    /// The stub's message ring is full, because the stub does not read it.
    #[error("it does not read its messages")]
    NotReading,
    /// The stub sent a second hello, or a message before the first.
    #[error("it spoke out of turn")]
    Turn,
}

impl From<Corrupt> for ProtocolViolation {
    fn from(_: Corrupt) -> Self {
        Self::Ring
    }
}

/// A message of the stub, checked as far as this module can check it.
#[derive(Debug)]
pub enum StubMessage {
    /// The stub has started.
    Hello,
    /// The stub took this action, which is the expected one.
    Did(Box<Action>),
    /// The stub asks for frames to be mapped.
    Map {
        /// The slot whose window is to show them.
        slot: u8,
        /// The number of frames.
        count: u32,
    },
    /// The stub has copied a window.
    Filled {
        /// The slot of that window.
        slot: u8,
    },
    /// The stub has scanned the bitmap to its end.
    Scanned,
}

/// dom0's end of the rings, and its own machine.
pub struct Peer<'l> {
    events: Producer<'l>,
    answers: Consumer<'l>,
    machine: Machine,
    recorder: &'l mut dyn Recorder,
    /// Actions that dom0's machine has taken and the stub has not reported yet, with their
    /// times.
    expected: VecDeque<(Micros, Action)>,
}

/// The room, in messages, that a tick leaves for those that must get through.
const ROOM_FOR_OTHERS: usize = 32;

impl<'l> Peer<'l> {
    /// dom0's end of a link that is still unused.
    pub fn new(link: &'l Link, config: Config, recorder: &'l mut dyn Recorder) -> Self {
        Self {
            events: Producer::new(&link.to_stub),
            answers: Consumer::new(&link.to_dom0),
            machine: Machine::new(config),
            recorder,
            expected: VecDeque::new(),
        }
    }

    /// dom0's own machine, for reading.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The refusal that follows from the events, and when it was due. `None` if the stub
    /// has reported it already.
    pub fn pending_refusal(&self) -> Option<(Micros, Refusal)> {
        self.expected.iter().find_map(|(at, action)| match action {
            Action::Resume(refusal) | Action::Refuse(refusal) => Some((*at, *refusal)),
            _ => None,
        })
    }

    /// The decision to give up the pause and go on with the attempt, if the stub has not
    /// reported it yet.
    pub fn pending_run_on(&self) -> Option<Refusal> {
        self.expected.iter().find_map(|(_, action)| match action {
            Action::RunOn(refusal) => Some(*refusal),
            _ => None,
        })
    }

    /// When the oldest action that the stub still has to report was due.
    pub fn awaited_since(&self) -> Option<Micros> {
        self.expected.front().map(|(at, _)| *at)
    }

    /// Whether the machine has reached its end. No further event is sent then.
    fn is_over(&self) -> bool {
        let state = self.machine.state();
        matches!(state, State::Finished | State::Refused | State::Resumed)
    }

    /// Reports an event to the stub, and steps this copy of the state machine.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn feed(&mut self, at: Micros, event: Event) -> Result<(), SendError> {
        if self.is_over() {
            return Ok(());
        }
        self.push(ToStub::Event(at, event))?;
        self.step(at, event)
    }

    /// Whether the stub keeps up with its messages. A message that can wait must wait until
    /// it does.
    pub fn has_room(&self) -> bool {
        self.events.room() > ROOM_FOR_OTHERS
    }

    /// Whether the operator's timeout has passed.
    pub fn is_out_of_time(&self, at: Micros) -> bool {
        let timeout = self.machine.config().limits.timeout;
        timeout.is_some_and(|timeout| at >= timeout.micros())
    }

    /// Tells the stub the time, unless it is behind with its messages. The tick at which the
    /// timeout is over gets through: a stub that does not listen cannot hold the timeout up.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn tick(&mut self, at: Micros, dirty: Option<u64>) -> Result<(), SendError> {
        // While pages are being copied this tick ends the attempt, so it is the last one.
        let ends = dirty.is_some() && self.is_out_of_time(at);
        if !self.has_room() && !ends {
            return Ok(());
        }
        self.feed(at, Event::Tick { dirty })
    }

    /// Tells the stub that a slot's batch is in the stream.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn sent(&mut self, at: Micros, slot: usize, batch: Batch) -> Result<(), SendError> {
        if self.is_over() {
            return Ok(());
        }
        let Batch {
            requested,
            pages,
            zeros,
        } = batch;
        self.push(ToStub::Sent {
            at,
            slot: slot as u8,
            requested,
            pages,
            zeros,
        })?;
        let sent = Event::Sent {
            requested,
            pages,
            zeros,
        };
        self.step(at, sent)
    }

    /// Tells the stub that a slot's window is mapped, and whether it is to mark the pages that
    /// are all zero.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn mapped(&mut self, slot: u8, pages: u32, marks_zeros: bool) -> Result<(), SendError> {
        self.push(ToStub::Mapped {
            slot,
            pages,
            marks_zeros,
        })
    }

    fn push(&mut self, message: ToStub) -> Result<(), SendError> {
        let pushed = self.events.push(message.encode());
        pushed.map_err(|_| SendError::ProtocolViolation(ProtocolViolation::NotReading))
    }

    fn step(&mut self, at: Micros, event: Event) -> Result<(), SendError> {
        let action = self.machine.step(at, event).map_err(SendError::Ours)?;
        self.recorder.record(at, event, &action, &self.machine);
        if action != Action::None {
            self.expected.push_back((at, action));
        }
        Ok(())
    }

    /// The next message of the stub, if there is one.
    ///
    /// # Errors
    /// When the stub breaks the protocol.
    pub fn recv(&mut self) -> Result<Option<StubMessage>, ProtocolViolation> {
        let Some(words) = self.answers.pop()? else {
            return Ok(None);
        };
        Ok(Some(match ToDom0::decode(words)? {
            ToDom0::Hello => StubMessage::Hello,
            ToDom0::Map { slot, count } => StubMessage::Map { slot, count },
            ToDom0::Filled { slot } => StubMessage::Filled { slot },
            ToDom0::Scanned => StubMessage::Scanned,
            ToDom0::Did(said) => {
                let expected = self.expected.pop_front().map(|(_, action)| action);
                let right = expected.as_ref().and_then(ActionKind::of);
                match expected {
                    Some(action) if right == Some(said) => StubMessage::Did(Box::new(action)),
                    _ => return Err(ProtocolViolation::Action { said, right }),
                }
            }
        }))
    }
}

/// Why an event could not be delivered.
#[derive(Debug)]
pub enum SendError {
    /// The stub is at fault.
    ProtocolViolation(ProtocolViolation),
    /// dom0 is at fault: the event cannot follow on the ones before.
    Ours(ProtocolError),
}
