//! Why an attempt ended without a decision of its own.

use std::io;

use lull_core::refusal::Refusal;
use lull_wire::events::{How, Refused};

use super::explain::Verdict;
use super::log_dirty::{LogDirtyError, LogReset, Unread};
use super::peer::{Lie, Unheard};
use crate::stub::StubError;
use crate::stub::room::NoRoom;

/// Why an attempt ended without a decision of its own.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the stream cannot be written: {0}")]
    Stream(io::Error),
    #[error("the stub domain is not to be trusted: {0}")]
    Lie(#[from] Lie),
    #[error("the stub domain died: {0}")]
    StubDied(String),
    #[error("the stub domain has not done its part for {} s", super::clock::STUB_SILENCE.as_secs())]
    StubSilent,
    #[error("the stub domain does next to nothing: less than 16 MiB in a minute")]
    StubSlow,
    #[error(transparent)]
    Stub(#[from] StubError),
    /// Of memory.
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
    /// Gate 3.
    #[error("the last pages and the CPU state were not sent in time")]
    Deadline,
    /// One that the stub has not come to in time.
    #[error("refused")]
    Refused(Box<Refusal>),
    /// The destination's part of a fast landing.
    #[error("the destination cannot bring its copy up to date: {0}")]
    Land(String),
    /// A fast landing began with a state that cannot be replaced any more.
    #[error("the guest has changed since its first pass: {0}")]
    Stale(String),
    /// `--debug` found something.
    #[error("{differing} pages of the destination's copy differ, frame {first:#x} first")]
    Differ { differing: u64, first: u64 },
    /// The transport of a fast landing has hung up.
    #[error("{}", hung_up(*.0))]
    HungUp(Refused),
    /// Before the guest was asked to stop.
    #[error("the timeout was over before the guest could be asked to stop")]
    OutOfTime,
    /// Stock's sender fails for it, too.
    #[error("the guest's page at frame {0:#x} cannot be mapped")]
    Unmappable(u64),
    /// Memory is given to the guest, or taken from it.
    #[error("the guest's memory was being changed when the guest was to be stopped")]
    Ballooning,
    /// Beyond what was listed at first.
    #[error("the guest has more memory than when the attempt began")]
    Grown,
    /// Not by this attempt.
    #[error("the guest is suspended already, by somebody else")]
    SuspendedByAnother,
    /// Not by this attempt.
    #[error("somebody has resumed the guest while it was being handed over")]
    ResumedByAnother,
    /// So that it will never run again.
    #[error("the guest {0}")]
    Died(String),
    #[error("a mistake in lull: {0}")]
    Bug(String),
}

impl Failure {
    /// The dirty log could not be read while that was being done.
    pub fn unread(doing: &'static str, why: Unread) -> Self {
        match why {
            Unread::Reset(reset) => Self::LogReset(reset),
            Unread::Xen(error) => Self::Xen { doing, error },
        }
    }
}

impl From<Unheard> for Failure {
    fn from(unheard: Unheard) -> Self {
        match unheard {
            Unheard::Lie(lie) => Self::Lie(lie),
            Unheard::Ours(error) => Self::Bug(error.to_string()),
        }
    }
}

/// Names what was being done when Xen said no.
pub trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Xen { doing, error })
    }
}

const fn hung_up(why: Refused) -> &'static str {
    match why {
        Refused::PeerGone => "the destination closed the connection",
        Refused::XlGone => "xl gave up, or was killed",
        Refused::NotReady | Refused::ReadyTooLate | Refused::PauseUnknown => {
            "the last pages and the CPU state were not in place in time"
        }
        Refused::RunsHere => "somebody has resumed the guest while it was being handed over",
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
            Failure::Land(_) => (
                How::TargetFailed,
                "Look at the link and at the destination; `--landing classic` does without this \
                 connection.",
            ),
            Failure::Stream(_) | Failure::Differ { .. } | Failure::HungUp(Refused::PeerGone) => (
                How::TargetFailed,
                "Look at the link and at the destination.",
            ),
            Failure::Stale(_) => (How::SourceFailed, "Try again, or with `--landing classic`."),
            Failure::HungUp(Refused::XlGone) => (How::SourceFailed, ""),
            Failure::SuspendedByAnother | Failure::ResumedByAnother | Failure::LogReset(_) => (
                How::SourceFailed,
                "Look who else saves, moves or resumes it, and try again.",
            ),
            Failure::HungUp(Refused::RunsHere) => (How::SourceFailed, ""),
            Failure::Ballooning => (
                How::RefusedDowntime,
                "Wait until its memory comes to rest (`xl list`; who runs `xl mem-set`?), or use `--landing classic`.",
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
            Failure::StubDied(_) | Failure::StubSilent | Failure::StubSlow | Failure::Lie(_) => (
                How::SourceFailed,
                "Try again; if it happens again, report it with this line.",
            ),
            _ => (How::SourceFailed, ""),
        };
        Self::plain(how, failure.to_string(), advice)
    }
}
