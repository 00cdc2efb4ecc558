//! What the helper needs from the toolstack that starts the migration.

use std::io;
use std::os::fd::BorrowedFd;

use lull_engine::SuspendAnswer;
use lull_wire::events::How;

/// libxl, or its replacement once libxl's own part is over.
pub trait Toolstack {
    /// Asks for the guest to be suspended; does not wait.
    ///
    /// # Errors
    /// When the toolstack is gone.
    fn ask_to_suspend(&mut self) -> io::Result<()>;

    /// The answer to the request, returned once.
    ///
    /// # Errors
    /// When no answer can arrive any more.
    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>>;

    /// Withdraws the request to suspend, if this side may and the guest has not
    /// acknowledged it. Returns whether it was withdrawn; there is no answer then.
    ///
    /// # Errors
    /// When the outcome is unknown.
    fn cancel_suspend_request(&mut self) -> io::Result<bool>;

    /// Checks that the toolstack is still there.
    ///
    /// # Errors
    /// When it has ended.
    fn look(&self) -> io::Result<()>;

    /// Has the guest's QEMU log what it writes into the guest's memory, or no longer log it.
    /// Waits for the answer, ten seconds at most.
    ///
    /// # Errors
    /// When QEMU cannot be asked or does not do it, or when the toolstack is gone.
    fn log_devices(&mut self, on: bool) -> io::Result<()>;

    /// Reports that the first pass of a fast landing is done, so libxl may end its stream.
    ///
    /// # Errors
    /// When the toolstack is gone.
    fn first_pass_done(&mut self) -> io::Result<()>;

    /// Reports why the guest was not moved, for the toolstack's log. A failure is ignored.
    fn report_failure(&mut self, words: &str);

    /// Reports how the attempt ended.
    ///
    /// # Errors
    /// When the toolstack is gone.
    fn end(&mut self, how: How) -> io::Result<()>;

    /// The descriptor to poll, if the toolstack may send something.
    fn wake_on(&self) -> Option<BorrowedFd<'_>>;
}

/// The `errno` for an outcome; 0 for success.
pub const fn errno(how: How) -> i32 {
    match how {
        How::StreamComplete => 0,
        How::RefusedDowntime | How::RefusedTimeout => 110, // ETIMEDOUT
        How::Cancelled => 125,                             // ECANCELED
        How::TargetFailed => 32,                           // EPIPE
        How::SourceFailed => 5,                            // EIO
    }
}
