//! Why an attempt ended without a decision of its own.

use std::io;

use lull_core::refusal::Refusal;

use super::explain::Verdict;
use super::log_dirty::LogDirtyError;
use super::peer::{Lie, Unheard};
use crate::events::How;
use crate::stub::StubError;

/// Why an attempt ended without a decision of its own.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the stream cannot be written: {0}")]
    Stream(io::Error),
    #[error("the stub domain is not to be trusted: {0}")]
    Lie(#[from] Lie),
    #[error("the stub domain died: {0}")]
    StubDied(String),
    #[error("the stub domain has said nothing for {} s", super::clock::STUB_SILENCE.as_secs())]
    StubSilent,
    #[error(transparent)]
    Stub(#[from] StubError),
    #[error(transparent)]
    LogDirty(#[from] LogDirtyError),
    #[error("{doing}: {error}")]
    Xen {
        doing: &'static str,
        error: io::Error,
    },
    /// Gate 3.
    #[error("the last pages and the CPU state were not sent in time")]
    Deadline,
    /// Gate 2, which the stub has not come to in time.
    #[error("refused")]
    Refused(Box<Refusal>),
    #[error("a mistake in lull: {0}")]
    Bug(String),
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

impl From<&Failure> for Verdict {
    fn from(failure: &Failure) -> Self {
        if let Failure::Refused(refusal) = failure {
            return Self::from(&**refusal);
        }
        let (how, advice) = match failure {
            Failure::Stream(_) => (
                How::TargetFailed,
                "Look at the link and at the destination.",
            ),
            Failure::Deadline => (
                How::RefusedDowntime,
                "The link slowed down while the guest was stopped: try again, or with a higher limit.",
            ),
            Failure::StubDied(_) | Failure::StubSilent | Failure::Lie(_) => (
                How::SourceFailed,
                "Try again; if it happens again, report it with this line.",
            ),
            _ => (How::SourceFailed, ""),
        };
        Self::plain(how, failure.to_string(), advice)
    }
}
