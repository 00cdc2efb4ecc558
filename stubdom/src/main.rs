//! The stub domain: it scans, estimates, decides, and copies what dom0 has mapped.
//!
//! The stub is a freestanding 64-bit PV kernel with one vCPU, no heap, no interrupts and
//! five hypercalls. It boots on the layout of [`lull_core::link`], says hello, and from
//! then on only answers dom0's messages:
//!
//! - events go to the [`Machine`], and its action is sent back;
//! - a round's bitmap is scanned, and the frames found are requested ([`copier`]);
//! - frames that dom0 has mapped are copied to the payload.
//!
//! It edits no page table, reads no clock and has neither network nor disk. Anything that
//! it cannot handle ends it with a crash record, which dom0 prints. dom0 then ends the
//! attempt, and the guest runs on.
#![no_std]
#![no_main]

mod abi;
mod copier;
mod crash;

use lull_core::link::{ActionKind, Consumer, CrashKind, Link, Producer, Settings, ToDom0, ToStub};
use lull_core::machine::{Action, Event, Machine};
use lull_core::units::Micros;

use abi::events::Channel;
use abi::{hypercall, logger, memory, traps};
use copier::Copier;
use crash::die;

/// The first Rust function, entered from `_start`.
extern "C" fn main() -> ! {
    traps::install();
    let mut stub = Stub::boot(memory::link());
    stub.send(ToDom0::Hello);
    defmt::info!(
        "linked, guest of {} pages",
        stub.machine.config().guest_pages
    );
    loop {
        stub.channel.notify();
        stub.channel.wait();
        stub.channel.clear();
        stub.answer();
    }
}

/// The complete state of the stub.
struct Stub {
    link: &'static Link,
    channel: Channel,
    events: Consumer<'static>,
    answers: Producer<'static>,
    machine: Machine,
    copier: Copier,
}

impl Stub {
    fn boot(link: &'static Link) -> Self {
        let Some(startup) = Settings::read(&link.settings) else {
            die(
                CrashKind::Link,
                format_args!("dom0 speaks another version of the link"),
            );
        };
        Self {
            link,
            channel: Channel::new(startup.port),
            events: Consumer::new(&link.to_stub),
            answers: Producer::new(&link.to_dom0),
            machine: Machine::new(startup.config),
            copier: Copier::new(startup.guest_pfns),
        }
    }

    /// Handles every message in the ring.
    fn answer(&mut self) {
        loop {
            let message = match self.events.pop() {
                Ok(Some(words)) => ToStub::decode(words),
                Ok(None) => return,
                Err(_) => die(CrashKind::Link, format_args!("dom0's ring index cannot be")),
            };
            match message {
                Ok(ToStub::Event(at, event)) => self.step(at, event),
                Ok(ToStub::Sent {
                    at,
                    slot,
                    requested,
                    pages,
                    zeros,
                }) => {
                    self.copier.free(slot);
                    let sent = Event::Sent {
                        requested,
                        pages,
                        zeros,
                    };
                    self.step(at, sent);
                }
                Ok(ToStub::Mapped {
                    slot,
                    pages,
                    marks_zeros,
                }) => {
                    hypercall::flush_tlb();
                    let zeros = marks_zeros.then(|| &self.link.zeros[usize::from(slot)]);
                    let filled = self.copier.copy(slot, pages, zeros);
                    self.send(filled);
                    // This lets dom0 write while the next slot is copied.
                    self.channel.notify();
                }
                Err(bad) => die(CrashKind::Link, format_args!("{bad}")),
            }
            let answers = &mut self.answers;
            self.copier.want(self.link, |wanted| push(answers, wanted));
        }
    }

    fn step(&mut self, at: Micros, event: Event) {
        logger::set_time(at.0);
        let action = match self.machine.step(at, event) {
            Ok(action) => action,
            Err(error) => die(CrashKind::Link, format_args!("{error}: {event:?}")),
        };
        match action {
            Action::None => return,
            Action::Copy { pages, .. } | Action::CopyFinal { pages } => self.copier.start(pages),
            _ => {}
        }
        defmt::debug!("{} -> {}", event, action);
        if let Some(kind) = ActionKind::of(&action) {
            self.send(ToDom0::Did(kind));
        }
    }

    fn send(&mut self, message: ToDom0) {
        push(&mut self.answers, message);
    }
}

/// Puts a message into the ring. The ring cannot be full while dom0 follows the protocol,
/// because only a few messages per slot are under way.
fn push(answers: &mut Producer<'_>, message: ToDom0) {
    if answers.push(message.encode()).is_err() {
        die(
            CrashKind::Link,
            format_args!("dom0 does not read its messages"),
        );
    }
}
