//! One migration, as dom0 does its part of it: map, copy, send; suspend or
//! refuse; and undo.
//!
//! An [`attempt`] is [prepared](prepare) and runs as a [`session`]: a loop that
//! answers the stub ([`peer`], [`slots`]), injects windows ([`windows`]), writes
//! the stream ([`saved`], [`stream`](crate::stream)), watches the [`guest`] and
//! the [`clock`], and leaves one running guest whatever happens. Of a fast
//! [`landing`] only the first pass goes into the stream, and the [`balloon`] is
//! watched. It does not know who hosts it: xl's helper, or `lull migrate`
//! ([`Host`]).

mod attempt;
mod balloon;
mod channel;
mod clock;
mod explain;
mod failure;
mod frames;
mod going;
mod guest;
mod landing;
pub mod log_dirty;
mod pause;
mod peer;
mod prepare;
mod process;
mod saved;
mod session;
mod slots;
mod steering;
mod telling;
mod throttle;
mod windows;

use std::io;
use std::os::fd::BorrowedFd;

use lull_core::machine::{self, Action, Machine};
use lull_core::units::Micros;
use lull_wire::events::{Event, Refused};

pub use attempt::{Attempt, NotBegun, Order, Verify, never_begun};
pub use channel::Channel;
pub use explain::{DID_NOT_SUSPEND, Verdict};
pub use steering::{Reply, Wish};

/// Whoever hosts the engine.
pub trait Host {
    /// Asks for the guest to be suspended; does not wait.
    ///
    /// # Errors
    /// When nobody is there to ask.
    fn ask_to_suspend(&mut self) -> io::Result<()>;

    /// The answer, once: whether the guest was suspended.
    ///
    /// # Errors
    /// When nobody will answer any more.
    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>>;

    /// Takes the request back, if the guest has not acknowledged it and it is not
    /// libxl's; says whether it did. Then there is no answer.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn withdraw_suspend(&mut self) -> io::Result<bool>;

    /// Whether the attempt is to be given up. Stays true.
    ///
    /// # Errors
    /// When there is nobody left to do it for.
    fn is_cancelled(&mut self) -> io::Result<bool>;

    /// Of a fast landing: whether the transport has hung up, and why.
    fn has_hung_up(&self) -> Option<Refused>;

    /// What the operator wants changed, if anything. Each wish has one
    /// [`Self::reply`], unless the attempt ends before.
    fn wish(&mut self) -> Option<Wish>;

    /// What became of it.
    fn reply(&mut self, reply: Reply);

    /// Descriptors whose readiness may change one of the above.
    fn wake_on(&self) -> Vec<BorrowedFd<'_>>;

    /// Takes note of what happens.
    fn tell(&mut self, event: Event);

    /// Of a fast landing: the first pass is sent, and the stream may be ended.
    ///
    /// # Errors
    /// When nobody is there to tell.
    fn first_pass_done(&mut self) -> io::Result<()>;

    /// Of a fast landing: whether the destination has set the guest up and waits
    /// for permission to start it.
    fn is_target_ready(&mut self) -> bool;

    /// The guest has acknowledged a request to suspend that is not wanted any more,
    /// and may follow it when this attempt is over: its guard is to stay for that.
    fn leave_request(&mut self);

    /// The stream is complete; from here on the guest may run elsewhere, and
    /// nobody here may resume it.
    fn commit(&mut self);
}

/// Whoever writes down what dom0's machine is told and what it says.
pub trait Recorder {
    /// The machine was told of `event` at `at` and said `action`. Must not
    /// wait: the guest may be stopped.
    fn record(&mut self, at: Micros, event: machine::Event, action: &Action, machine: &Machine);
}

/// See [`Host::suspend_answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspendAnswer {
    /// The guest has stopped.
    Stopped,
    /// It never did.
    Failed,
}
