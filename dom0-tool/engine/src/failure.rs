//! The reasons for which an attempt ends without a decision of the machine.

use std::io;
use std::time::Duration;

use lull_core::refusal::Refusal;
use lull_wire::events::{How, Refused};

use super::explain::Verdict;
use super::log_dirty::{LogDirtyError, LogReset, Unread};
use super::peer::{ProtocolViolation, SendError};
use crate::stub::StubError;
use crate::stub::room::NoRoom;

/// Why an attempt ended without a decision of the machine.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the stream cannot be written: {0}")]
    Stream(io::Error),
    #[error("the stub domain is not to be trusted: {0}")]
    ProtocolViolation(#[from] ProtocolViolation),
    #[error("the stub domain died: {0}")]
    StubDied(String),
    #[error("the stub domain has not done its part for {} s", .0.as_secs())]
    StubSilent(Duration),
    #[error("the stub domain does next to nothing: less than 16 MiB in a minute")]
    StubSlow,
    #[error(transparent)]
    Stub(#[from] StubError),
    /// There is too little memory for the stub.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    LogDirty(#[from] LogDirtyError),
    #[error(transparent)]
    LogReset(#[from] LogReset),
    #[error("{doing}: {error}")]
    Xen {
        doing: &'static str,
        error: io::Error,
    },
    /// Gate 3 has found the deadline passed.
    #[error("the last pages and the CPU state were not sent in time")]
    Deadline,
    /// The machine's refusal, which the stub did not reach in time.
    #[error("refused")]
    Refused(Box<Refusal>),
    /// `lull land` reports that it cannot apply what it was sent.
    #[error("the destination cannot bring its copy up to date: {0}")]
    Land(String),
    /// The connection to `lull land` has ended, or is silent.
    #[error("the connection to lull land was lost: {0}")]
    LandLost(String),
    /// The guest's state no longer matches the provisional state that a fast landing sent,
    /// in a part that cannot be replaced.
    #[error("the guest has changed since its first pass: {0}")]
    Stale(String),
    /// `--debug` has found pages that differ.
    #[error("{differing} pages of the destination's copy differ, frame {first:#x} first")]
    Differ { differing: u64, first: u64 },
    /// The transport of a fast landing has hung up, for this reason.
    #[error("{}", hung_up(*.0))]
    HungUp(Refused),
    /// READY came before the destination had the first pass.
    #[error("the destination says that it is ready before it has the guest")]
    EarlyReady,
    /// The timeout passed before the guest was asked to stop.
    #[error("the timeout was over before the guest could be asked to stop")]
    OutOfTime,
    #[error("its QEMU cannot be made to log what it writes into the guest's memory: {0}")]
    DevicesNotLogged(io::Error),
    /// QEMU was asked to stop and to save its state, and did not. The field holds a clause
    /// that says why, and is empty if that is not known.
    #[error("the guest's QEMU could not be stopped and its state saved{}", because(.0))]
    DevicesNotSaved(String),
    /// The guest has stopped, and its QEMU has not within the limit.
    #[error("the guest's QEMU did not stop and save its state in time")]
    DevicesSlow,
    /// Stock's sender fails on such a page, too.
    #[error("the guest's page at frame {0:#x} cannot be mapped")]
    Unmappable(u64),
    /// The copy would keep what Xen handed out for a frame: the stub has left it out.
    #[error("frame {0:#x} of the guest was never sent")]
    NeverSent(u64),
    /// The guest's memory was growing or shrinking when the pause was due.
    #[error("the guest's memory was being changed when the guest was to be stopped")]
    Ballooning,
    /// The guest has frames above the highest one listed at the start.
    #[error("the guest has more memory than when the attempt began")]
    Grown,
    /// The guest's QEMU hangs, or has ended; with a clause that says which.
    #[error("the guest could not be asked to suspend: {0}")]
    Devices(String),
    /// The suspend did not come from this attempt.
    #[error("the guest is suspended already, by another program")]
    SuspendedByAnother,
    /// The resume did not come from this attempt.
    #[error("another program has resumed the guest while it was being handed over")]
    ResumedByAnother,
    /// The guest has died and will never run again.
    #[error("the guest {0}")]
    Died(String),
    #[error("a mistake in lull: {0}")]
    Bug(String),
}

impl Failure {
    /// The dirty log could not be read during the step `doing`.
    pub fn unread(doing: &'static str, why: Unread) -> Self {
        match why {
            Unread::Reset(reset) => Self::LogReset(reset),
            Unread::Xen(error) => Self::Xen { doing, error },
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::ProtocolViolation(violation) => Self::ProtocolViolation(violation),
            SendError::Ours(error) => Self::Bug(error.to_string()),
        }
    }
}

/// Adds the failed step to an error of Xen or the kernel.
pub trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Xen { doing, error })
    }
}

/// A clause with QEMU as its subject, if there is one.
fn because(words: &str) -> String {
    match words {
        "" => String::new(),
        words => format!(": it {words}"),
    }
}

const fn hung_up(why: Refused) -> &'static str {
    match why {
        Refused::PeerGone => "the destination closed the connection",
        Refused::GaveBack => "the destination could not take the guest's name and gave it back",
        Refused::XlGone => "xl gave up, or was killed",
        Refused::NotReady | Refused::ReadyTooLate | Refused::PauseUnknown => {
            "the last pages and the CPU state were not in place in time"
        }
        Refused::RunsHere => "another program has resumed the guest while it was being handed over",
        Refused::StateUnread => "Xen did not say whether the guest runs here",
        _ => "the attempt was given up",
    }
}

impl From<&Failure> for Verdict {
    fn from(failure: &Failure) -> Self {
        if let Failure::Refused(refusal) = failure {
            return Self::from(&**refusal);
        }
        if let Failure::NoRoom(NoRoom::Short(short)) = failure {
            return Self::plain(How::SourceFailed, short.to_string(), short.cure());
        }
        let (how, advice) = match failure {
            Failure::Land(_) | Failure::LandLost(_) => (
                How::TargetFailed,
                "Look at the link and at the destination; `--landing classic` does without this \
                 connection.",
            ),
            Failure::Stream(_)
            | Failure::Differ { .. }
            | Failure::EarlyReady
            | Failure::HungUp(Refused::PeerGone | Refused::GaveBack) => (
                How::TargetFailed,
                "Look at the link and at the destination.",
            ),
            Failure::Devices(_) => (
                How::SourceFailed,
                "QEMU's own log is /var/log/xen/qemu-dm-*.log.",
            ),
            Failure::Stale(_) => (How::SourceFailed, "Try again, or with `--landing classic`."),
            Failure::HungUp(Refused::XlGone) => (How::SourceFailed, ""),
            Failure::SuspendedByAnother | Failure::ResumedByAnother | Failure::LogReset(_) => (
                How::SourceFailed,
                "Find the program that saves, moves or resumes it, and try again.",
            ),
            Failure::HungUp(Refused::RunsHere | Refused::StateUnread) => (How::SourceFailed, ""),
            Failure::DevicesNotLogged(_) | Failure::DevicesNotSaved(_) => (
                How::SourceFailed,
                "Look at its QEMU (/var/log/xen/qemu-dm-NAME.log): a guest whose QEMU has ended must be shut down and started again.",
            ),
            Failure::DevicesSlow => (
                How::RefusedDowntime,
                "QEMU writes the guest's disks back when it stops: look at the storage and at /var/log/xen/qemu-dm-NAME.log, or try again with a higher limit.",
            ),
            Failure::Ballooning => (
                How::RefusedDowntime,
                "Wait until its memory no longer changes (`xl list`; does a program run `xl mem-set`?), or use `--landing classic`.",
            ),
            Failure::OutOfTime => (How::RefusedTimeout, "Give it more time, or try again."),
            Failure::Grown => (
                How::RefusedDowntime,
                "Try again: lull then knows all of it.",
            ),
            Failure::Deadline
            | Failure::HungUp(Refused::NotReady | Refused::ReadyTooLate | Refused::PauseUnknown) => {
                (
                    How::RefusedDowntime,
                    "The link slowed down while the guest was stopped: try again, or with a higher limit.",
                )
            }
            Failure::HungUp(_) | Failure::NoRoom(NoRoom::Cancelled) => (How::Cancelled, ""),
            Failure::StubDied(_)
            | Failure::NeverSent(_)
            | Failure::StubSilent(_)
            | Failure::StubSlow
            | Failure::ProtocolViolation(_) => (
                How::SourceFailed,
                "Try again; if it happens again, report it with this line.",
            ),
            _ => (How::SourceFailed, ""),
        };
        Self::plain(how, failure.to_string(), advice)
    }
}
