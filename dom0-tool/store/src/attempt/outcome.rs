//! Judges how an attempt ended, from what was observed of it.

use std::process::ExitCode;

use lull_wire::events::{Ended, How, Refused};
use lull_wire::xl::handshake::{Failure, Handshake, Step};

/// The outcome of an attempt; it determines the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs at the destination.
    Moved,
    /// The pause would have been longer than allowed.
    RefusedDowntime,
    /// The timeout was over, or no round could ever have met the limit.
    RefusedTimeout,
    /// The operator cancelled the attempt.
    Cancelled,
    /// The destination failed, or the connection to it.
    TargetFailed,
    /// The stub, Xen, xl or the helper failed.
    SourceFailed,
    /// The guest died at the source, and the destination was never told to
    /// start it.
    GuestDied,
    /// It is unknown where the guest runs; nothing was destroyed.
    Unknown,
}

impl Outcome {
    /// The exit code. The caller returns 2 for an attempt that was never begun.
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

    /// The outcome as the source can tell it. A destination that was sent GO counts as
    /// having the guest.
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

    /// The host on which the guest runs after this outcome.
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

/// The host on which the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunningOn {
    /// The guest runs at the source.
    Source,
    /// The guest runs at the destination.
    Destination,
    /// The guest is dead.
    Nowhere,
    /// It is unknown where the guest runs.
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

/// How the process of xl ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XlEnd {
    /// It exited with this code.
    Exited(i32),
    /// It was killed by this signal.
    Killed(i32),
}

/// What the helper has reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HelperSeen {
    /// The helper has reported nothing: xl did not get that far.
    #[default]
    Never,
    /// The helper has started.
    Begun,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Intent {
    /// The guest is to move.
    #[default]
    Move,
    /// The attempt is to be given up.
    Cancel,
    /// Move the guest, but the timeout was over before a helper reported.
    OutOfTime,
}

/// Whether the transport has passed READY on to xl. Without READY xl does not send GO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passed {
    /// READY was passed on.
    Yes,
    /// READY was not passed on.
    #[default]
    No,
    /// The transport died without a report.
    Unknown,
}

impl Passed {
    /// How far xl got: as far as it reports, but no further than lull let it get.
    pub fn step(self, handshake: &Handshake) -> Step {
        match self {
            Self::Yes | Self::Unknown => handshake.step,
            Self::No => handshake.step.min(Step::Acknowledged),
        }
    }
}

/// Everything that the judgement is based on.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Whether a helper has reported.
    pub helper: HelperSeen,
    /// The helper's final event.
    pub ended: Option<&'a Ended>,
    /// Why the transport hung up before READY, if it did.
    pub hung_up: Option<Refused>,
    /// Whether the destination was permitted to start the guest.
    pub ready: Passed,
    /// Whether xl's handshake precedes that, so that xl's steps tell nothing before it.
    pub handshake_first: bool,
    /// The steps that xl has printed.
    pub handshake: &'a Handshake,
    /// How the process of xl ended.
    pub xl: XlEnd,
    /// What the operator wants.
    pub intent: Intent,
}

/// The outcome, and the sentence that explains it. The sentence is empty when all went
/// well, and when the helper has explained it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The outcome of the attempt.
    pub outcome: Outcome,
    /// The explanation, without a full stop.
    pub why: &'static str,
}

/// Judges the attempt. The result is [`Outcome::Unknown`] wherever the destination may have
/// been told to start the guest.
pub fn judge(evidence: Evidence<'_>) -> Judgement {
    let judged = |outcome, why| Judgement { outcome, why };
    let handshake = evidence.handshake;
    let is_ahead = evidence.handshake_first && evidence.ready != Passed::Yes;
    match handshake.step {
        Step::Streaming | Step::Acknowledged => {}
        Step::PermissionGiven | Step::StartFailed | Step::GivenBack if is_ahead => {}
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
    if handshake.failure == Some(Failure::Undefined) && !is_ahead {
        return judged(
            Outcome::Unknown,
            "xl lost the destination in the final handshake",
        );
    }
    // A helper that had just started when lull hung up only saw the connection break, which
    // proves nothing about the destination.
    let given_up = evidence.hung_up == Some(Refused::Cancelled);
    let last_word = evidence.ended.map(|ended| ended.how);
    match last_word.filter(|how| !(given_up && *how == How::TargetFailed)) {
        Some(How::RefusedDowntime) => judged(Outcome::RefusedDowntime, ""),
        Some(How::RefusedTimeout) => judged(Outcome::RefusedTimeout, ""),
        Some(How::Cancelled) => judged(Outcome::Cancelled, ""),
        // What the helper saw is a consequence.
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

/// A helper that has started enforces the timeout itself.
const TOO_LATE_TO_BEGIN: (Outcome, &str) = (
    Outcome::RefusedTimeout,
    "the timeout was over before anything was copied",
);

/// Judges an attempt that the transport ended: the destination was never told to start the
/// guest, however xl ended.
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
            "it was not known how long the guest had been paused when the destination was ready",
        ),
        Refused::RunsHere => (
            Outcome::SourceFailed,
            "another program resumed the guest at the source while it was being handed over",
        ),
        Refused::StateUnread => (
            Outcome::SourceFailed,
            "Xen did not say whether the guest ran at the source when the destination was ready",
        ),
        Refused::GaveBack => (
            Outcome::TargetFailed,
            "the destination could not take the guest's name and gave the guest back",
        ),
        Refused::Cancelled if evidence.intent == Intent::OutOfTime => TOO_LATE_TO_BEGIN,
        Refused::Cancelled => match evidence.helper {
            HelperSeen::Never => (Outcome::Cancelled, "cancelled before anything was copied"),
            HelperSeen::Begun => (
                Outcome::Cancelled,
                "cancelled before the destination was told to start the guest",
            ),
        },
        // These are consequences; the cause is judged as without a transport.
        Refused::GivenUp | Refused::FrontEndGone | Refused::XlGone | Refused::PeerGone => {
            return None;
        }
    };
    Some(Judgement { outcome, why })
}

/// Judges an attempt with a complete stream whose destination was never told to start the
/// guest.
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
        // xl printed none of the known messages. An xl with different messages may have
        // sent GO.
        (XlEnd::Exited(_), None) => (
            Outcome::Unknown,
            "xl failed without a word that tells how far it came",
        ),
    };
    Judgement { outcome, why }
}

/// Judges an attempt whose helper sent no final event.
fn helper_silent(evidence: Evidence<'_>) -> Judgement {
    let handshake = evidence.handshake;
    let (outcome, why) = match (evidence.helper, evidence.xl) {
        (HelperSeen::Never, XlEnd::Exited(_)) if evidence.intent == Intent::Cancel => {
            (Outcome::Cancelled, "cancelled before anything was copied")
        }
        (HelperSeen::Never, XlEnd::Exited(_)) if evidence.intent == Intent::OutOfTime => {
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
        // The destination has nothing yet; its messages are a consequence.
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

    const REFUSALS: [Refused; 10] = [
        Refused::GaveBack,
        Refused::RunsHere,
        Refused::StateUnread,
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
        for (hung_up, intent, outcome) in [
            (None, Intent::Move, Outcome::TargetFailed),
            (Some(Refused::PeerGone), Intent::Move, Outcome::TargetFailed),
            (
                Some(Refused::Cancelled),
                Intent::OutOfTime,
                Outcome::RefusedTimeout,
            ),
            (Some(Refused::Cancelled), Intent::Cancel, Outcome::Cancelled),
        ] {
            let judgement = judge(Evidence {
                helper: HelperSeen::Begun,
                ended: Some(&ended),
                hung_up,
                ready: Passed::No,
                handshake_first: false,
                handshake: &Handshake::default(),
                xl: XlEnd::Exited(1),
                intent,
            });
            assert_eq!(judgement.outcome, outcome);
        }
    }

    proptest! {
        /// Once GO may have been sent, the source is reported only if the destination gave
        /// the guest back, whatever else was seen.
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
            handshake_first: bool,
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
                ready: if died && !handshake_first { Passed::Unknown } else { Passed::Yes },
                handshake_first,
                handshake: &handshake,
                xl: if killed { XlEnd::Killed(9) } else { XlEnd::Exited(code) },
                intent: if cancel { Intent::Cancel } else { Intent::Move },
            });
            prop_assert_eq!(judgement.outcome, Outcome::Unknown);
        }

        /// Where lull has not passed READY on, the guest has not moved, whatever xl prints.
        #[test]
        fn without_ready_no_guest_has_moved(
            how in proptest::option::of(proptest::sample::select(&ALL[..])),
            code in 0..256i32,
            killed: bool,
            step in proptest::sample::select(&STEPS[..]),
            died: bool,
            handshake_first: bool,
        ) {
            let ended = how.map(Ended::so);
            let handshake = Handshake { step, ..Handshake::default() };
            let judgement = judge(Evidence {
                helper: HelperSeen::Begun,
                ended: ended.as_ref(),
                hung_up: None,
                ready: if died { Passed::Unknown } else { Passed::No },
                handshake_first,
                handshake: &handshake,
                xl: if killed { XlEnd::Killed(9) } else { XlEnd::Exited(code) },
                intent: Intent::Move,
            });
            // A killed transport reports nothing; xl's own end counts then.
            let may = died && !killed && code == 0;
            prop_assert!(judgement.outcome != Outcome::Moved || may);
        }

        /// Where the handshake precedes the stop, xl's own steps are no permission: the guest
        /// is at the source, and what ended the attempt is said.
        #[test]
        fn a_handshake_ahead_is_no_permission(
            how in proptest::option::of(proptest::sample::select(&ALL[1..])),
            code in 1..256i32,
            killed: bool,
            step in proptest::sample::select(&STEPS[..5]),
            hung_up in proptest::option::of(proptest::sample::select(&REFUSALS[..])),
            failure in proptest::sample::select(&[Failure::AtTarget, Failure::Undefined][..]),
        ) {
            let ended = how.map(Ended::so);
            let handshake = Handshake { step, failure: Some(failure), ..Handshake::default() };
            let judgement = judge(Evidence {
                helper: HelperSeen::Begun,
                ended: ended.as_ref(),
                hung_up,
                ready: Passed::No,
                handshake_first: true,
                handshake: &handshake,
                xl: if killed { XlEnd::Killed(9) } else { XlEnd::Exited(code) },
                intent: Intent::Move,
            });
            prop_assert_eq!(judgement.outcome.running_on(), RunningOn::Source);
        }

        /// Before permission the guest is at the source, and no outcome says otherwise.
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
                handshake_first: false,
                handshake: &handshake,
                xl: XlEnd::Exited(code),
                intent: Intent::Move,
            });
            prop_assert_eq!(judgement.outcome.running_on(), RunningOn::Source);
        }
    }
}
