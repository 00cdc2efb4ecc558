//! How an attempt ended, judged from what was seen of it.

use std::process::ExitCode;

use lull_wire::events::{Ended, How, Refused};
use lull_wire::xl::handshake::{Failure, Handshake, Step};

/// The table of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs at the destination.
    Moved,
    /// The pause would have been longer than allowed.
    RefusedDowntime,
    /// Out of time, or no round could ever have fitted.
    RefusedTimeout,
    /// The operator said so.
    Cancelled,
    /// The destination, or the way to it.
    TargetFailed,
    /// The stub, Xen, xl or the helper.
    SourceFailed,
    /// The guest died at the source, and the destination was never told to
    /// start it.
    GuestDied,
    /// Nobody can say where the guest runs; nothing was destroyed.
    Unknown,
}

impl Outcome {
    /// The exit code. 2, for what was never begun, is the caller's.
    pub const fn code(self) -> u8 {
        match self {
            Self::Moved => 0,
            Self::RefusedDowntime => 3,
            Self::RefusedTimeout => 4,
            Self::Cancelled => 5,
            Self::TargetFailed => 6,
            Self::SourceFailed | Self::GuestDied => 7,
            Self::Unknown => 8,
        }
    }

    /// As far as who watches the source can tell: of a destination that was told
    /// to go, that it has the guest.
    pub const fn how(self) -> How {
        match self {
            Self::Moved | Self::Unknown => How::StreamComplete,
            Self::RefusedDowntime => How::RefusedDowntime,
            Self::RefusedTimeout => How::RefusedTimeout,
            Self::Cancelled => How::Cancelled,
            Self::TargetFailed => How::TargetFailed,
            Self::SourceFailed | Self::GuestDied => How::SourceFailed,
        }
    }

    /// The name in `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::RefusedDowntime => "refused-downtime",
            Self::RefusedTimeout => "refused-timeout",
            Self::Cancelled => "cancelled",
            Self::TargetFailed => "target-failed",
            Self::SourceFailed | Self::GuestDied => "source-failed",
            Self::Unknown => "unknown",
        }
    }

    /// Where the guest runs.
    pub const fn running_on(self) -> RunningOn {
        match self {
            Self::Moved => RunningOn::Destination,
            Self::GuestDied => RunningOn::Nowhere,
            Self::Unknown => RunningOn::Unknown,
            _ => RunningOn::Source,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}

/// Where the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunningOn {
    /// Here.
    Source,
    /// There.
    Destination,
    /// It is dead.
    Nowhere,
    /// Nobody can say.
    Unknown,
}

impl RunningOn {
    /// The name in `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Nowhere => "nowhere",
            Self::Unknown => "unknown",
        }
    }
}

/// How xl ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XlEnd {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// What was heard from the helper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HelperSeen {
    /// Nothing: xl never came so far.
    #[default]
    Never,
    /// It has begun.
    Begun,
}

/// Whether the operator asked to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// To move the guest.
    #[default]
    Move,
    /// To give up.
    Cancel,
    /// To move it, but the timeout was over before a helper was heard.
    OutOfTime,
}

/// Whether the transport has passed READY on to xl, without which xl gives no
/// permission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passed {
    /// It has.
    Yes,
    /// It has not.
    #[default]
    No,
    /// It died without a word.
    Unknown,
}

impl Passed {
    /// How far xl came: as far as it says, but no further than lull let it come.
    pub fn step(self, handshake: &Handshake) -> Step {
        match self {
            Self::Yes | Self::Unknown => handshake.step,
            Self::No => handshake.step.min(Step::Acknowledged),
        }
    }
}

/// Everything the judgement rests on.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Was there a helper?
    pub helper: HelperSeen,
    /// Its last word.
    pub ended: Option<&'a Ended>,
    /// Why the transport hung up before READY, if it did.
    pub hung_up: Option<Refused>,
    /// Whether READY was passed on.
    pub ready: Passed,
    /// xl's words.
    pub handshake: &'a Handshake,
    /// xl's end.
    pub xl: XlEnd,
    /// The operator's wish.
    pub wish: Wish,
}

/// The outcome, and the sentence that explains it: empty when all went well,
/// and when the helper has explained it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Which.
    pub outcome: Outcome,
    /// Why, without a full stop.
    pub why: &'static str,
}

/// Judges. Errs on the side of [`Outcome::Unknown`] wherever the destination
/// may have been told to start the guest.
pub fn judge(evidence: Evidence<'_>) -> Judgement {
    let judged = |outcome, why| Judgement { outcome, why };
    let handshake = evidence.handshake;
    match handshake.step {
        Step::Streaming | Step::Acknowledged => {}
        _ if evidence.ready == Passed::No => {
            return judged(
                Outcome::Unknown,
                "xl says that it gave the destination permission, and lull passed on no READY",
            );
        }
        Step::TargetStarted if evidence.ready == Passed::Yes || evidence.xl == XlEnd::Exited(0) => {
            return judged(Outcome::Moved, "");
        }
        Step::TargetStarted => {
            return judged(
                Outcome::Unknown,
                "xl says that the guest runs at the destination, and lull's own part, which \
                 would know, was killed",
            );
        }
        Step::GivenBack => {
            return judged(
                Outcome::TargetFailed,
                "the destination could not start the guest and gave it back",
            );
        }
        Step::StartFailed if handshake.failure == Some(Failure::AtTarget) => {
            return judged(
                Outcome::TargetFailed,
                "the destination could not start the guest and gave it back",
            );
        }
        Step::PermissionGiven | Step::StartFailed => {
            return judged(
                Outcome::Unknown,
                "the destination was told to start the guest and did not report back",
            );
        }
    }
    match (evidence.xl, evidence.ready) {
        (XlEnd::Exited(0), Passed::Yes | Passed::Unknown) => return judged(Outcome::Moved, ""),
        (XlEnd::Exited(0), Passed::No) => {
            return judged(
                Outcome::Unknown,
                "xl ended as if the guest had moved, and lull never passed on that the \
                 destination was ready",
            );
        }
        _ => {}
    }
    if handshake.failure == Some(Failure::Undefined) {
        return judged(
            Outcome::Unknown,
            "xl lost the destination in the final handshake",
        );
    }
    // A helper that was just beginning when lull hung up only saw the connection
    // break: that says nothing of the destination.
    let given_up = evidence.hung_up == Some(Refused::Cancelled);
    let last_word = evidence.ended.map(|ended| ended.how);
    match last_word.filter(|how| !(given_up && *how == How::TargetFailed)) {
        Some(How::RefusedDowntime) => judged(Outcome::RefusedDowntime, ""),
        Some(How::RefusedTimeout) => judged(Outcome::RefusedTimeout, ""),
        Some(How::Cancelled) => judged(Outcome::Cancelled, ""),
        // What the helper saw is the consequence.
        Some(How::TargetFailed) if handshake.transport_killed => judged(
            Outcome::SourceFailed,
            "`lull transport` was killed while pages were being sent",
        ),
        Some(How::TargetFailed) => judged(Outcome::TargetFailed, ""),
        Some(How::SourceFailed) => judged(Outcome::SourceFailed, ""),
        Some(How::StreamComplete) => {
            at_the_gate(evidence).unwrap_or_else(|| stream_complete(evidence))
        }
        None => at_the_gate(evidence).unwrap_or_else(|| helper_silent(evidence)),
    }
}

/// Once it has begun, a helper keeps the timeout itself.
const TOO_LATE_TO_BEGIN: (Outcome, &str) = (
    Outcome::RefusedTimeout,
    "the timeout was over before anything was copied",
);

/// The transport hung up of its own accord: the destination was never told to
/// start, whatever became of xl.
fn at_the_gate(evidence: Evidence<'_>) -> Option<Judgement> {
    let (outcome, why) = match evidence.hung_up? {
        Refused::NotReady => (
            Outcome::RefusedDowntime,
            "the destination was not ready to start the guest in time",
        ),
        Refused::ReadyTooLate => (
            Outcome::RefusedDowntime,
            "the destination was ready too late to start the guest in time",
        ),
        Refused::PauseUnknown => (
            Outcome::RefusedDowntime,
            "nobody knew how long the guest had been paused when the destination was ready",
        ),
        Refused::RunsHere => (
            Outcome::SourceFailed,
            "somebody resumed the guest at the source while it was being handed over",
        ),
        Refused::Cancelled if evidence.wish == Wish::OutOfTime => TOO_LATE_TO_BEGIN,
        Refused::Cancelled => match evidence.helper {
            HelperSeen::Never => (Outcome::Cancelled, "cancelled before anything was copied"),
            HelperSeen::Begun => (
                Outcome::Cancelled,
                "cancelled before the destination was told to start the guest",
            ),
        },
        // Consequences: what caused them is judged as without a transport.
        Refused::GivenUp | Refused::FrontEndGone | Refused::XlGone | Refused::PeerGone => {
            return None;
        }
    };
    Some(Judgement { outcome, why })
}

/// The stream was complete, but the destination was never told to start.
fn stream_complete(evidence: Evidence<'_>) -> Judgement {
    let (outcome, why) = match (evidence.xl, evidence.handshake.failure) {
        (XlEnd::Killed(_), _) => (
            Outcome::SourceFailed,
            "xl was killed before it told the destination to start the guest",
        ),
        (XlEnd::Exited(_), Some(_)) if evidence.handshake.transport_killed => (
            Outcome::SourceFailed,
            "`lull transport` was killed before the destination was ready",
        ),
        (XlEnd::Exited(_), Some(_)) => (
            Outcome::TargetFailed,
            "the destination failed before it was ready to start the guest",
        ),
        // No word of those known: an xl that words its steps differently may
        // have said GO.
        (XlEnd::Exited(_), None) => (
            Outcome::Unknown,
            "xl failed without a word that tells how far it came",
        ),
    };
    Judgement { outcome, why }
}

/// The helper left no last word.
fn helper_silent(evidence: Evidence<'_>) -> Judgement {
    let handshake = evidence.handshake;
    let (outcome, why) = match (evidence.helper, evidence.xl) {
        (HelperSeen::Never, XlEnd::Exited(_)) if evidence.wish == Wish::Cancel => {
            (Outcome::Cancelled, "cancelled before anything was copied")
        }
        (HelperSeen::Never, XlEnd::Exited(_)) if evidence.wish == Wish::OutOfTime => {
            TOO_LATE_TO_BEGIN
        }
        (_, XlEnd::Killed(_)) => (Outcome::SourceFailed, "xl was killed"),
        (HelperSeen::Begun, XlEnd::Exited(_)) => {
            (Outcome::SourceFailed, "lull's helper died without a word")
        }
        (HelperSeen::Never, XlEnd::Exited(_)) if handshake.transport_killed => (
            Outcome::SourceFailed,
            "`lull transport` was killed before anything was copied",
        ),
        // The destination has none yet, and what it says is the consequence.
        (HelperSeen::Never, XlEnd::Exited(_)) if handshake.helper_killed => (
            Outcome::SourceFailed,
            "lull's helper was killed before anything was copied",
        ),
        (HelperSeen::Never, XlEnd::Exited(_)) if handshake.target_failed => (
            Outcome::TargetFailed,
            "the destination could not create the domain",
        ),
        (HelperSeen::Never, XlEnd::Exited(_)) if handshake.transport_failed => (
            Outcome::TargetFailed,
            "the destination's `xl migrate-receive` could not be reached",
        ),
        (HelperSeen::Never, XlEnd::Exited(_)) => (
            Outcome::SourceFailed,
            "xl failed before anything was copied",
        ),
    };
    Judgement { outcome, why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [How; 6] = [
        How::StreamComplete,
        How::RefusedDowntime,
        How::RefusedTimeout,
        How::Cancelled,
        How::TargetFailed,
        How::SourceFailed,
    ];

    const STEPS: [Step; 6] = [
        Step::Streaming,
        Step::Acknowledged,
        Step::PermissionGiven,
        Step::StartFailed,
        Step::GivenBack,
        Step::TargetStarted,
    ];

    const REFUSALS: [Refused; 8] = [
        Refused::RunsHere,
        Refused::NotReady,
        Refused::ReadyTooLate,
        Refused::PauseUnknown,
        Refused::Cancelled,
        Refused::FrontEndGone,
        Refused::XlGone,
        Refused::PeerGone,
    ];

    #[test]
    fn codes_are_those_of_the_table() {
        let table = [
            (Outcome::Moved, 0),
            (Outcome::RefusedDowntime, 3),
            (Outcome::RefusedTimeout, 4),
            (Outcome::Cancelled, 5),
            (Outcome::TargetFailed, 6),
            (Outcome::SourceFailed, 7),
            (Outcome::Unknown, 8),
        ];
        for (outcome, code) in table {
            assert_eq!(outcome.code(), code);
        }
    }

    #[test]
    fn a_connection_that_lull_hung_up_is_no_fault_of_the_destinations() {
        let ended = Ended::so(How::TargetFailed);
        for (hung_up, wish, outcome) in [
            (None, Wish::Move, Outcome::TargetFailed),
            (Some(Refused::PeerGone), Wish::Move, Outcome::TargetFailed),
            (
                Some(Refused::Cancelled),
                Wish::OutOfTime,
                Outcome::RefusedTimeout,
            ),
            (Some(Refused::Cancelled), Wish::Cancel, Outcome::Cancelled),
        ] {
            let judgement = judge(Evidence {
                helper: HelperSeen::Begun,
                ended: Some(&ended),
                hung_up,
                ready: Passed::No,
                handshake: &Handshake::default(),
                xl: XlEnd::Exited(1),
                wish,
            });
            assert_eq!(judgement.outcome, outcome);
        }
    }

    proptest! {
        /// Whatever else was seen: once GO may have been said, the source is
        /// claimed only if the destination gave the guest back.
        #[test]
        fn after_permission_the_source_is_never_assumed(
            how in proptest::option::of(proptest::sample::select(&ALL[..])),
            code in 1..256i32,
            killed: bool,
            begun: bool,
            cancel: bool,
            started: bool,
            died: bool,
            hung_up in proptest::option::of(proptest::sample::select(&REFUSALS[..])),
            failure in proptest::sample::select(&[None, Some(Failure::Resuming), Some(Failure::Undefined)][..]),
        ) {
            let ended = how.map(Ended::so);
            let handshake = Handshake {
                step: if started { Step::StartFailed } else { Step::PermissionGiven },
                failure,
                ..Handshake::default()
            };
            let judgement = judge(Evidence {
                helper: if begun { HelperSeen::Begun } else { HelperSeen::Never },
                ended: ended.as_ref(),
                hung_up,
                ready: if died { Passed::Unknown } else { Passed::Yes },
                handshake: &handshake,
                xl: if killed { XlEnd::Killed(9) } else { XlEnd::Exited(code) },
                wish: if cancel { Wish::Cancel } else { Wish::Move },
            });
            prop_assert_eq!(judgement.outcome, Outcome::Unknown);
        }

        /// Whatever xl is made to say: where lull passed no READY on, the guest has
        /// not moved.
        #[test]
        fn without_ready_nobody_has_moved(
            how in proptest::option::of(proptest::sample::select(&ALL[..])),
            code in 0..256i32,
            killed: bool,
            step in proptest::sample::select(&STEPS[..]),
            died: bool,
        ) {
            let ended = how.map(Ended::so);
            let handshake = Handshake { step, ..Handshake::default() };
            let judgement = judge(Evidence {
                helper: HelperSeen::Begun,
                ended: ended.as_ref(),
                hung_up: None,
                ready: if died { Passed::Unknown } else { Passed::No },
                handshake: &handshake,
                xl: if killed { XlEnd::Killed(9) } else { XlEnd::Exited(code) },
                wish: Wish::Move,
            });
            // Of a transport that was killed nobody knows: then xl's own end counts.
            let may = died && !killed && code == 0;
            prop_assert!(judgement.outcome != Outcome::Moved || may);
        }

        /// Before it, the guest is at the source, and nobody says otherwise.
        #[test]
        fn before_permission_a_refusal_stays_a_refusal(
            how in proptest::sample::select(&ALL[1..]),
            code in 1..256i32,
            hung_up in proptest::option::of(proptest::sample::select(&REFUSALS[..])),
        ) {
            let ended = Ended::so(how);
            let handshake = Handshake {
                failure: Some(Failure::FailedToSuspend),
                ..Handshake::default()
            };
            let judgement = judge(Evidence {
                helper: HelperSeen::Begun,
                ended: Some(&ended),
                hung_up,
                ready: Passed::No,
                handshake: &handshake,
                xl: XlEnd::Exited(code),
                wish: Wish::Move,
            });
            prop_assert_eq!(judgement.outcome.running_on(), RunningOn::Source);
        }
    }
}
