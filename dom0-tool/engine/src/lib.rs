//! dom0's part of a migration: map, copy and send pages; suspend the guest or refuse to;
//! and undo what was done.
//!
//! An [`attempt`] is [prepared](prepare) and runs as a [`session`]. That is a loop that
//! answers the stub ([`peer`], [`slots`]), injects windows ([`windows`]), sends batches
//! ([`sending`], [`stream`]) and watches the [`guest`] and the [`clock`]. It
//! leaves one running guest whatever happens. How the guest lands, classic or fast, is
//! known to the [`landing`] alone, and what is asked of Xen goes through [`domains`]. The
//! stub domain itself is [`stub`]. The engine does not know which process hosts it: xl's
//! helper, or `lull migrate` ([`Host`]).

#![forbid(unsafe_code)]

mod attempt;
mod clock;
mod dirty;
mod domains;
mod emit;
mod explain;
mod failure;
mod frames;
mod guest;
mod landing;
pub mod log_dirty;
mod on_xen;
mod pause;
mod peer;
mod prepare;
mod process;
mod saved;
mod sending;
mod session;
mod slots;
mod standstill;
mod starting;
mod steering;
pub mod stream;
pub mod stub;
#[cfg(test)]
mod tests;
mod throttle;
mod verify;
mod windows;

use std::io;
use std::os::fd::BorrowedFd;

use lull_wire::events::{Event, Refused};
use lull_xen::device_model::MakeRun;

pub use attempt::{Attempt, MigrationRequest, NotBegun, Verify, never_begun};
pub use explain::Verdict;
pub use landing::{Channel, Connection};
pub use steering::{OperatorRequest, Reply};

/// The process that hosts the engine.
pub trait Host {
    /// Asks for the guest to be suspended, and does not wait.
    ///
    /// # Errors
    /// When the process that should do so has gone.
    fn ask_to_suspend(&mut self) -> io::Result<()>;

    /// The answer to the request, returned once: whether the guest was suspended. A QEMU has
    /// stopped then, too, and its state is saved.
    ///
    /// # Errors
    /// When no answer can come any more.
    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>>;

    /// Takes the request back, if the guest has not acknowledged it and the request is not
    /// libxl's. Returns whether it was taken back; no answer follows then.
    ///
    /// # Errors
    /// When the state of the request cannot be read.
    fn cancel_suspend_request(&mut self) -> io::Result<bool>;

    /// Reads what has arrived, without blocking.
    ///
    /// # Errors
    /// When the process that requested the attempt has gone, or one of them sends what it may
    /// not send now.
    fn poll(&mut self) -> io::Result<News>;

    /// The operator's next request for a change, if there is one. Each gets one
    /// [`Self::reply`], unless the attempt ends first.
    fn request(&mut self) -> Option<OperatorRequest>;

    /// Reports the outcome of the last request.
    fn reply(&mut self, reply: Reply);

    /// The descriptors that become readable when [`Self::poll`] may have news, or an answer to
    /// the request to suspend may have come.
    fn wake_on(&self) -> Vec<BorrowedFd<'_>>;

    /// Has the guest's QEMU log what it writes into the guest's memory, or no longer log it.
    ///
    /// # Errors
    /// When QEMU cannot be asked or does not do it.
    fn log_devices(&mut self, on: bool) -> io::Result<()>;

    /// In a fast landing: the state of the guest's QEMU, which is saved.
    ///
    /// # Errors
    /// When it cannot be read, or is no state of a QEMU's.
    fn saved_devices(&mut self) -> io::Result<Vec<u8>>;

    /// The guest's emulated devices, to make them run.
    fn emulated(&mut self) -> &mut dyn MakeRun;

    /// The emulated devices do not run although the guest does. The guard must stay, and
    /// makes them run as soon as they can.
    fn leave_devices(&mut self);

    /// Reports an event of the attempt to all readers: the front end, the clients of
    /// the control socket, the record.
    fn emit(&mut self, event: Event);

    /// In a fast landing: the first pass is sent, and the stream may be ended.
    ///
    /// # Errors
    /// When the process that should end it has gone.
    fn first_pass_done(&mut self) -> io::Result<()>;

    /// In a fast landing: xl's handshake is to take place while the guest runs. Does not
    /// wait.
    ///
    /// # Errors
    /// When the process that would give the guest its name back has gone.
    fn hand_over(&mut self) -> io::Result<()>;

    /// In a fast landing: everything is in place. Asks whether the copy may be started, and
    /// does not wait.
    fn ask_to_start(&mut self);

    /// In a fast landing: reports what became of the copy that was to be started, that is,
    /// whether the destination has said that it runs.
    fn report_started(&mut self, started: bool);

    /// The guest has acknowledged a request to suspend that is no longer wanted, and may
    /// follow it after this attempt is over; or it is suspended and could not be resumed. The
    /// guard must stay.
    fn leave_guest(&mut self);

    /// The stream is complete, or the copy is about to be started. From here on the guest may
    /// run elsewhere, so no process on this host may resume it.
    fn commit(&mut self);
}

/// All that has arrived so far. Nothing in it is taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// The attempt is cancelled.
    pub cancelled: bool,
    /// In a fast landing: the destination has set the guest up and waits for permission to
    /// start it.
    pub target_ready: bool,
    /// In a fast landing: xl's handshake is over, and the guest may be asked to suspend.
    pub handed_over: bool,
    /// In a fast landing: the copy may be started.
    pub may_start: bool,
    /// In a fast landing: the transport has hung up, for this reason.
    pub hung_up: Option<Refused>,
}

/// The answer to a request to suspend: see [`Host::suspend_answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspendAnswer {
    /// The guest has stopped.
    Stopped,
    /// The guest never stopped.
    Failed,
}
