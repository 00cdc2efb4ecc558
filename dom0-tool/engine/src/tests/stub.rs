//! A stub without a domain. Its machine, its scan and its messages are the real core's.

use std::sync::atomic::Ordering;

use lull_core::batch::Batch;
use lull_core::bitmap::{Bitmap, Progress, Scan};
use lull_core::link::{
    ActionKind, Consumer, Link, LogWriter, Producer, SLOTS, Settings, ToDom0, ToStub,
};
use lull_core::machine::{Action, Event, Machine};
use lull_core::units::Micros;

use super::world::{Fault, Phase, Stub, World};

/// What the stub finds in its memory.
pub trait Memory {
    /// The bitmap that dom0 has put in place.
    fn bitmap(&self) -> Vec<u64>;

    /// Copies the window of a slot to its payload. Pages that are all zero are marked
    /// instead, if they are to be.
    fn copy(&self, slot: u8, marks_zeros: bool);
}

/// A line of the log that cannot be decoded. Lines end with a zero.
const LOG_LINE: [u8; 4] = [1, 2, 3, 0];

pub struct FakeStub<'l> {
    link: &'l Link,
    world: &'l World,
    events: Consumer<'l>,
    answers: Producer<'l>,
    log: LogWriter,
    machine: Machine,
    guest_pfns: u64,
    scan: Option<(Scan, Vec<u64>)>,
    free: [bool; SLOTS],
    said: u32,
}

impl<'l> FakeStub<'l> {
    /// Boots, and says hello.
    pub fn boot(link: &'l Link, world: &'l World) -> Self {
        let startup = Settings::read(&link.settings).unwrap();
        let mut stub = Self {
            link,
            world,
            events: Consumer::new(&link.to_stub),
            answers: Producer::new(&link.to_dom0),
            log: LogWriter::new(),
            machine: Machine::new(startup.config),
            guest_pfns: startup.guest_pfns,
            scan: None,
            free: [true; SLOTS],
            said: 0,
        };
        world.enter(Phase::Start);
        stub.say(ToDom0::Hello);
        stub
    }

    /// Answers all messages. Returns whether it has said anything.
    pub fn answer(&mut self, memory: &dyn Memory) -> bool {
        let before = self.said;
        while self.world.stub.get() == Stub::Alive {
            let Some(words) = self.events.pop().unwrap() else {
                break;
            };
            match ToStub::decode(words).unwrap() {
                ToStub::Event(at, event) => self.step(at, event, memory),
                ToStub::Sent {
                    at,
                    slot,
                    requested,
                    pages,
                    zeros,
                } => {
                    self.free[usize::from(slot)] = true;
                    let sent = Event::Sent {
                        requested,
                        pages,
                        zeros,
                    };
                    self.step(at, sent, memory);
                }
                ToStub::Mapped {
                    slot, marks_zeros, ..
                } => {
                    memory.copy(slot, marks_zeros);
                    self.say(ToDom0::Filled { slot });
                }
            }
            self.want();
        }
        self.said != before
    }

    fn step(&mut self, at: Micros, event: Event, memory: &dyn Memory) {
        self.log.write(&self.link.log, &LOG_LINE);
        let action = self.machine.step(at, event).unwrap();
        let (phase, scans) = match action {
            Action::None => return,
            Action::Copy { round: 0, .. } => (Some(Phase::FirstPass), true),
            Action::Copy { .. } => (Some(Phase::Rounds), true),
            Action::HandOver => (Some(Phase::HandingOver), false),
            Action::Suspend => (Some(Phase::Suspending), false),
            Action::CopyFinal { .. } => (Some(Phase::LastPages), true),
            Action::Finish => (Some(Phase::Finishing), false),
            _ => (None, false),
        };
        let fault = phase.and_then(|phase| self.world.enter(phase));
        if scans {
            let mut bitmap = memory.bitmap();
            if fault == Some(Fault::StubSkips) {
                assert_eq!(bitmap[0] & 0b1000_0001, 1, "frame 7 has no page");
                bitmap[0] ^= 0b1000_0001;
            }
            self.scan = Some((Scan::new(), bitmap));
        }
        let kind = ActionKind::of(&action).unwrap();
        self.say(ToDom0::Did(match (fault, kind) {
            (Some(Fault::StubLies), ActionKind::Finish) => ActionKind::Copy,
            (Some(Fault::StubLies), _) => ActionKind::Finish,
            (_, kind) => kind,
        }));
    }

    fn want(&mut self) {
        while let Some((scan, words)) = &mut self.scan {
            let Some(slot) = self.free.iter().position(|free| *free) else {
                return;
            };
            let bitmap = Bitmap::new(words, self.guest_pfns).unwrap();
            let mut batch = Batch::new();
            let progress = scan.fill(&bitmap, &mut batch);
            if !batch.is_empty() {
                for (wanted, pfn) in self.link.wanted[slot].pfns.iter().zip(batch.as_slice()) {
                    wanted.store(pfn.0, Ordering::Relaxed);
                }
                self.free[slot] = false;
                self.say(ToDom0::Map {
                    slot: slot as u8,
                    count: batch.len() as u32,
                });
            }
            if progress == Progress::Done {
                self.scan = None;
                self.say(ToDom0::Scanned);
            }
        }
    }

    fn say(&mut self, message: ToDom0) {
        if self.world.stub.get() == Stub::Alive {
            self.answers.push(message.encode()).unwrap();
            self.said += 1;
        }
    }
}
