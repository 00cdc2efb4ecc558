//! Finds out how a migration ended, from its helper's last report and from the guest's
//! present state. Neither alone is enough. A helper may die, and a helper that has sent
//! everything does not know whether the guest landed.

use std::io;
use std::time::Duration;

use lull_wire::control::End;
use lull_wire::events::How;
use lull_xen::DomainState;

use crate::control::{DONE, UNKNOWN};

/// How long a landing may take before it counts as lost.
const LANDING: Duration = Duration::from_secs(150);

/// How long a guest that was given back may take until it runs. xl waits two seconds before
/// it begins to resume it.
const RESUMING: Duration = Duration::from_secs(10);

/// How the helper's part ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The helper reported this end.
    Reported(End),
    /// The helper went without a report.
    Died,
    /// This lull does not understand the helper's answer; the migration may go on.
    NotUnderstood(String),
}

/// The final report on a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The outcome, as in `lull migrate --json`.
    pub outcome: &'static str,
    /// The exit code that goes with the outcome.
    pub code: u8,
    /// The report in a sentence or two.
    pub said: String,
}

/// Where Xen shows the guest to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    /// The guest is free to run on this host.
    Running,
    /// The domain is no longer there, or is being destroyed.
    Gone,
    /// The guest does not run; the text says why.
    Stopped(&'static str),
    /// Xen cannot be asked.
    Unseen,
}

impl Here {
    fn of(state: &io::Result<Option<DomainState>>) -> Self {
        match state {
            Err(_) => Self::Unseen,
            Ok(None) => Self::Gone,
            Ok(Some(state)) if state.dying => Self::Gone,
            Ok(Some(state)) if state.is_suspended() => Self::Stopped("is suspended"),
            Ok(Some(state)) if state.shutdown.is_some() => Self::Stopped("has shut down"),
            Ok(Some(state)) if state.paused => Self::Stopped("is paused"),
            Ok(Some(_)) => Self::Running,
        }
    }
}

/// The outcome of `title`, whose helper ended like this, `since` ago. `None` while the
/// outcome may still change.
pub fn of(
    title: &str,
    ending: &Ending,
    state: &io::Result<Option<DomainState>>,
    since: Duration,
) -> Option<Last> {
    let here = Here::of(state);
    let patience = match ending {
        Ending::Reported(end) if end.how == How::StreamComplete => LANDING,
        _ => RESUMING,
    };
    if matches!(here, Here::Stopped(_)) && since < patience {
        return None;
    }
    let (outcome, code) = verdict(ending, here);
    let said = match ending {
        Ending::Reported(end) if end.how == How::StreamComplete => landed(here),
        Ending::Reported(end) => {
            let [reason, advice] = [&end.reason, &end.advice].map(|text| sentence(text));
            format!("given up: {reason}{} {advice}", runs(here))
        }
        Ending::Died => format!("its helper died or was killed. {}", runs(here)),
        Ending::NotUnderstood(why) => {
            format!("{why}. Whether its migration goes on is not known: `lull status` shows it.")
        }
    };
    Some(Last {
        outcome,
        code,
        said: format!("{title}: {}", said.trim_end()),
    })
}

fn verdict(ending: &Ending, here: Here) -> (&'static str, u8) {
    let how = match ending {
        Ending::Reported(end) => end.how,
        Ending::Died => How::SourceFailed,
        Ending::NotUnderstood(_) => return ("unknown", UNKNOWN),
    };
    match (how, here) {
        (How::StreamComplete, Here::Gone) => ("moved", DONE),
        // Only the attempt's report knows why the guest was not started there.
        (How::StreamComplete, Here::Running) => ("target-failed", 6),
        (How::StreamComplete, _) | (_, Here::Gone | Here::Stopped(_)) => ("unknown", UNKNOWN),
        (How::SourceFailed, Here::Unseen) if *ending == Ending::Died => ("unknown", UNKNOWN),
        (How::RefusedDowntime, _) => ("refused-downtime", 3),
        (How::RefusedTimeout, _) => ("refused-timeout", 4),
        (How::Cancelled, _) => ("cancelled", 5),
        (How::TargetFailed, _) => ("target-failed", 6),
        (How::SourceFailed, _) => ("source-failed", 7),
    }
}

fn landed(here: Here) -> String {
    match here {
        Here::Gone => "moved: it is gone from here, and the destination had all of it.".to_owned(),
        Here::Running => "not moved: it runs here again. `lull report --last` says why.".to_owned(),
        Here::Stopped(how) => format!(
            "the destination had all of it, and for {} s it has been seen neither to start there nor to run here: it {how}. Look at the destination before `lull resume`.",
            LANDING.as_secs()
        ),
        Here::Unseen => "the destination had all of it; Xen cannot be asked whether it is gone from here. Look at both hosts.".to_owned(),
    }
}

fn runs(here: Here) -> String {
    match here {
        Here::Running => "It runs here.".to_owned(),
        Here::Gone => {
            "It is gone from here. Look at the destination (`xl list`) and at `lull report --last`."
                .to_owned()
        }
        Here::Stopped(how) => {
            format!("It {how} here. Look at the destination before `lull resume`.")
        }
        Here::Unseen => "Xen cannot be asked whether it runs here: look at `xl list`.".to_owned(),
    }
}

/// The text with a full stop and a space after it.
fn sentence(text: &str) -> String {
    match text.trim() {
        "" => String::new(),
        text if text.ends_with('.') => format!("{text} "),
        text => format!("{text}. "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(how: How) -> Ending {
        Ending::Reported(End {
            how,
            reason: "because".to_owned(),
            advice: "Try 2 s.".to_owned(),
        })
    }

    fn state(shutdown: Option<u8>) -> io::Result<Option<DomainState>> {
        Ok(Some(DomainState {
            shutdown,
            ..DomainState::IDLE
        }))
    }

    fn last(ending: &Ending, state: io::Result<Option<DomainState>>, seconds: u64) -> Option<Last> {
        of("web1 (7)", ending, &state, Duration::from_secs(seconds))
    }

    #[test]
    fn only_a_guest_seen_to_run_or_gone_is_called_so() {
        let complete = reported(How::StreamComplete);
        let no_xen = || Err(io::Error::other("no Xen"));
        for (ending, state, code) in [
            (&complete, Ok(None), 0),
            (&complete, state(None), 6),
            (&complete, no_xen(), 8),
            (&reported(How::RefusedDowntime), state(None), 3),
            (&reported(How::RefusedTimeout), state(None), 4),
            (&reported(How::Cancelled), state(None), 5),
            (&reported(How::TargetFailed), no_xen(), 6),
            (&reported(How::SourceFailed), no_xen(), 7),
            (&reported(How::SourceFailed), Ok(None), 8),
            (&Ending::Died, state(None), 7),
            (&Ending::Died, Ok(None), 8),
            (&Ending::Died, no_xen(), 8),
        ] {
            let last = last(ending, state, 0).unwrap();
            assert_eq!(last.code, code, "{last:?}");
        }
    }

    #[test]
    fn a_suspended_guest_is_waited_for_but_not_for_ever() {
        for (ending, patience) in [
            (reported(How::StreamComplete), LANDING),
            (reported(How::Cancelled), RESUMING),
            (Ending::Died, RESUMING),
        ] {
            let patience = patience.as_secs();
            assert_eq!(last(&ending, state(Some(2)), patience - 1), None);
            let last = last(&ending, state(Some(2)), patience).unwrap();
            assert_eq!(last.code, 8);
            assert!(last.said.contains("t is suspended"), "{}", last.said);
        }
    }

    #[test]
    fn reason_and_advice_follow() {
        assert_eq!(
            last(&reported(How::Cancelled), state(None), 0)
                .unwrap()
                .said,
            "web1 (7): given up: because. It runs here. Try 2 s."
        );
    }
}
