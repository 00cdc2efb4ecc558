//! What the helper needs of whoever has it move the guest.

use std::io;
use std::os::fd::BorrowedFd;

use lull_wire::events::How;

use crate::engine::SuspendAnswer;

/// libxl, or what stands in its place once its own part is over.
pub trait Toolstack {
    /// Asks for the guest to be suspended; does not wait.
    ///
    /// # Errors
    /// When nobody is there to ask.
    fn ask_to_suspend(&mut self) -> io::Result<()>;

    /// The answer, once.
    ///
    /// # Errors
    /// When nobody will answer any more.
    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>>;

    /// Takes the request back, if it is ours to take and the guest has not acknowledged
    /// it; says whether it did. Then there is no answer.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn withdraw(&mut self) -> io::Result<bool>;

    /// Looks whether it is still there.
    ///
    /// # Errors
    /// When it is not.
    fn look(&self) -> io::Result<()>;

    /// Of a fast landing: libxl may end its stream.
    ///
    /// # Errors
    /// When nobody is there to tell.
    fn first_pass_done(&mut self) -> io::Result<()>;

    /// Why the guest was not moved, for the toolstack's log. Whether it is heard
    /// does not matter.
    fn tell_why(&mut self, words: &str);

    /// The end.
    ///
    /// # Errors
    /// When nobody is there to tell.
    fn end(&mut self, how: How) -> io::Result<()>;

    /// Its descriptor, if it may have something to say.
    fn wake_on(&self) -> Option<BorrowedFd<'_>>;
}

/// As `errno`, and 0 for success.
pub const fn errno(how: How) -> i32 {
    match how {
        How::StreamComplete => 0,
        How::RefusedDowntime | How::RefusedTimeout => 110, // ETIMEDOUT
        How::Cancelled => 125,                             // ECANCELED
        How::TargetFailed => 32,                           // EPIPE
        How::SourceFailed => 5,                            // EIO
    }
}
