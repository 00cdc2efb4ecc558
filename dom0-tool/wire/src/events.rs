//! The events that an attempt reports, one JSON object per line.
//!
//! The helper writes these to the front end (`lull migrate`) over the socket named by
//! [`FRONT_END_FD`]; with `--json` the front end passes them on to standard output.
//! Every object has `type` and `schema`; the last one of a `lull migrate` is a
//! [`Event::Result`]. Times are in milliseconds from the start of the attempt, and
//! durations in milliseconds, unless a name says otherwise.

use lull_base::bandwidth::Bandwidth;
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use serde::{Deserialize, Serialize};

/// Version of these objects; raised when the meaning of a field changes.
pub const SCHEMA: u32 = 1;

/// Environment variable that holds the number of an inherited socket. The helper writes
/// [`Event`] lines to it and reads [`Command`] lines from it.
pub const FRONT_END_FD: &str = "LULL_FRONT_END_FD";

/// The reason given when a guest did not stop. The next migration of the guest searches for
/// this text.
pub const DID_NOT_SUSPEND: &str = "the guest did not suspend itself when asked to";

/// One line on the socket: an event and the schema version it is written in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Schema version of the line; see [`SCHEMA`].
    pub schema: u32,
    /// The event that happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The order in which a guest lands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landing {
    /// Stock's order: the whole stream, then the devices, all while the guest is
    /// paused.
    #[default]
    Classic,
    /// The destination is ready, with all devices attached, and xl's handshake is over
    /// before the guest stops.
    Fast,
    /// The destination is ready, with all devices attached, before the guest stops; xl's
    /// handshake follows. This is the fast landing of a destination with an older lull.
    FastHandshakeLast,
}

impl Landing {
    /// The landing's name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Fast => "fast",
            Self::FastHandshakeLast => "fast-handshake-last",
        }
    }

    /// Whether the destination attaches the devices before the guest stops.
    pub const fn is_fast(self) -> bool {
        !matches!(self, Self::Classic)
    }

    /// Whether xl's handshake is over before the guest stops.
    pub const fn is_handshake_first(self) -> bool {
        matches!(self, Self::Fast)
    }
}

/// What can happen in an attempt, in the usual order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// The first line of a record, which identifies the attempt. Not part of `--json`.
    Begun(Begun),
    /// The stub runs, log-dirty mode is on, and copying begins.
    Started(Started),
    /// A connection of a fast landing was lost. The others carry its part.
    ConnectionLost(ConnectionLost),
    /// How far copying has come; sent several times a second.
    Progress(Progress),
    /// A round has been sent and judged.
    Round(Round),
    /// The guest has suspended.
    Suspended(Suspended),
    /// The limit on the pause could not be kept. The pause was given up, the guest runs
    /// on, and lull will try again.
    RanOn(RanOn),
    /// The helper's part is over: the stream is complete, or the attempt was
    /// given up and undone.
    Ended(Ended),
    /// lull could not begin, and no limit is set. Xen's own helper migrates the guest
    /// instead, and reports nothing.
    LeftToStock(LeftToStock),
    /// Fast landing: the destination is ready and waits for permission, while the guest
    /// still runs at the source.
    TargetReady(TargetReady),
    /// The destination was ready in time, and READY was passed on to xl. From here on
    /// there is no way back.
    Ready(Ready),
    /// Fast landing: xl's handshake is over, while the guest still runs at the source. Its
    /// domain there is called NAME--migratedaway until the guest has moved or stays.
    HandedOver(HandedOver),
    /// The destination has answered xl's GO. In a fast landing: it has started the guest.
    Answered(Answered),
    /// The transport closed the connection before GO; the guest stays at the source.
    HungUp(HungUp),
    /// New limits are in force (`lull set`).
    Limits(InForce),
    /// The operator asked the helper to cancel (`lull cancel`).
    CancelAsked,
    /// A log line for the operator, with its level.
    Log(Log),
    /// A rehearsal is over. This is the last event of `lull rehearse`, and an early one
    /// of `lull migrate --rehearse`.
    Rehearsed(Rehearsed),
    /// The outcome, the last event of the front end.
    Result(Box<Outcome>),
}

/// See [`Event::Begun`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Version of lull that wrote the record.
    pub lull: String,
    /// Start time by dom0's wall clock, for people to read.
    pub started: String,
    /// The guest's name when the attempt began.
    pub guest: String,
    /// The guest's domain id at the source.
    pub domid: u16,
    /// The destination as the operator named it. Absent under libxl, which does not
    /// tell its helper.
    pub destination: Option<String>,
    /// What started the attempt: `lull migrate`, or `libxl` for any other toolstack.
    pub through: String,
}

/// See [`Event::LeftToStock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftToStock {
    /// Why lull could not migrate the guest.
    pub reason: String,
}

/// See [`Event::Started`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    /// The guest's domain id at the source.
    pub domid: u16,
    /// Process id of the helper.
    pub helper_pid: u32,
    /// Number of populated pages of the guest.
    pub guest_pages: u64,
    /// The order in which the guest is to land.
    #[serde(default)]
    pub landing: Landing,
    /// The number of connections that carry the guest in a fast landing.
    #[serde(default)]
    pub connections: Option<u8>,
    /// The limit on the pause in milliseconds, rounded down, if there is one.
    pub limit_ms: Option<u64>,
    /// The limit on the time until the suspend in milliseconds, if there is one.
    pub timeout_ms: Option<u64>,
    /// The bandwidth cap until the suspend in bytes a second, if there is one.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// The accepted risk: the share of pauses that may be given up, in tenths of a per
    /// cent.
    #[serde(default)]
    pub risk_per_mille: Option<u16>,
    /// Domain id of the stub.
    pub stub_domid: u16,
    /// Memory of the stub domain, in bytes.
    pub stub_memory_bytes: u64,
    /// Time from the helper's start until the stub was started.
    pub stub_boot_ms: u64,
    /// Upper bounds assumed for the parts of the pause that do not depend on the
    /// guest's pages.
    pub fixed_costs: PauseParts,
}

/// See [`Event::ConnectionLost`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionLost {
    /// The number of connections that are left.
    pub left: u8,
    /// Why it was lost, as a clause.
    pub reason: String,
}

/// The parts of a pause, predicted or observed, in milliseconds. An absent part is not
/// (yet) known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseParts {
    /// Time from the suspend request until the guest has stopped.
    pub suspend_ms: Option<u64>,
    /// Time to read the final dirty bitmap.
    pub final_bitmap_ms: Option<u64>,
    /// Time to send the pages of the final round.
    pub pages_ms: Option<u64>,
    /// Time to send the CPU state, the parameters and the end of the stream.
    pub cpu_state_ms: Option<u64>,
    /// Time from the end of the stream until the guest runs at the destination.
    pub landing_ms: Option<u64>,
}

/// See [`Event::Progress`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When these figures were taken.
    pub at_ms: u64,
    /// Number of the current round. Round 0 is the full pass.
    pub round: u32,
    /// Pages of this round sent so far.
    pub round_sent: u64,
    /// Number of pages in this round.
    pub round_pages: u64,
    /// Pages sent in all rounds so far.
    pub pages_sent: u64,
    /// Pages dirtied since the dirty bitmap was last read.
    pub dirty_pages: Option<u64>,
    /// Lower bound of the transfer rate, in bytes a second.
    pub transfer_rate: Option<u64>,
    /// Upper bound of the dirty rate, in pages a second.
    pub dirty_rate: Option<u64>,
    /// Upper bound of the pause if the guest were suspended now.
    pub predicted_downtime_ms: Option<u64>,
    /// Expected pause if the guest were suspended now.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
}

/// See [`Event::Round`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When the round ended.
    pub at_ms: u64,
    /// Number of the round, counted from 0.
    pub round: u32,
    /// Pages sent in this round.
    pub pages_sent: u64,
    /// Pages that the guest dirtied during this round.
    pub pages_dirtied: u64,
    /// Duration of the round.
    pub duration_ms: u64,
    /// Lower bound of the transfer rate, in bytes a second.
    pub transfer_rate: Option<u64>,
    /// Upper bound of the dirty rate, in pages a second.
    pub dirty_rate: Option<u64>,
    /// Upper bound of the pause if the guest had been suspended at the end of this
    /// round.
    pub predicted_downtime_ms: Option<u64>,
    /// Expected pause if the guest had been suspended at the end of this round.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
    /// The slowest stretch of the link, which determines the link's part of the bound.
    #[serde(default)]
    pub rests_on: Option<RestsOn>,
    /// The decision: `another-round`, `hand-over`, `suspend`, `finish` or `refuse`. The guest
    /// is asked to suspend after `suspend`, and never without it.
    pub decision: String,
}

/// The slowest stretch of the link that a bound rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestsOn {
    /// Bytes of pages sent in a row.
    pub bytes: u64,
    /// Time that sending them took.
    pub took_ms: u64,
    /// The round in which they were sent, counted from 0.
    pub round: u32,
}

/// See [`Event::Suspended`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Suspended {
    /// When the guest was asked to suspend. The pause counts from here.
    pub requested_at_ms: u64,
    /// When the guest was seen to have stopped.
    pub stopped_at_ms: u64,
    /// Exact number of pages of the final round.
    pub dirty_pages: u64,
    /// Expected time for the pages of the final round, including those that the guest
    /// dirties while it stops.
    #[serde(default)]
    pub likely_pages_ms: Option<u64>,
    /// Pages that the guest's programs were expected to dirty from the request until the final
    /// bitmap. The rest of what came is its kernel's, or a surprise.
    #[serde(default)]
    pub load_pages: Option<u64>,
    /// `CLOCK_MONOTONIC` of the request in nanoseconds. The front end subtracts it from
    /// the moment at which the destination reports that the guest runs.
    pub requested_monotonic_ns: u64,
    /// The exact limit on the pause when the guest was asked, in microseconds. The
    /// transport enforces this limit, whatever limit it was given before.
    #[serde(default)]
    pub limit_us: Option<u64>,
    /// The predicted parts of the pause on which the decision to suspend was based.
    pub predicted: PauseParts,
    /// The sum of the predicted parts.
    pub predicted_downtime_ms: Option<u64>,
}

/// See [`Event::RanOn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanOn {
    /// When the guest ran again.
    pub at_ms: u64,
    /// Duration of the pause.
    pub pause_ms: u64,
    /// Why the pause was given up, as a sentence.
    pub reason: String,
}

/// See [`Event::Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// When the limits came into force.
    pub at_ms: u64,
    /// The limit on the pause in milliseconds, rounded down, if there is one.
    pub limit_ms: Option<u64>,
    /// The limit on the time until the suspend in milliseconds, if there is one.
    pub timeout_ms: Option<u64>,
    /// The bandwidth cap until the suspend in bytes a second, if there is one.
    #[serde(default)]
    pub bandwidth: Option<u64>,
}

impl InForce {
    /// The limits as they are reported.
    pub fn new(at_ms: u64, limits: Limits, bandwidth: Bandwidth) -> Self {
        Self {
            at_ms,
            limit_ms: limits.max_suspend.map(DowntimeLimit::as_millis),
            timeout_ms: limits.timeout.map(Timeout::as_millis),
            bandwidth: Some(bandwidth.bytes()).filter(|bytes| *bytes > 0),
        }
    }
}

/// See [`Event::Ended`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// When the helper's part ended.
    pub at_ms: u64,
    /// How the helper's part ended.
    pub how: How,
    /// The reason as one sentence for the operator; empty when the stream is complete.
    pub reason: String,
    /// What would have worked, or what to do next; may be empty.
    pub advice: String,
    /// The smallest limit that would have fitted.
    pub smallest_limit_ms: Option<u64>,
    /// The transfer rate that would have been needed, in bytes a second.
    pub needed_rate: Option<u64>,
    /// The pause of the refused attempt itself, if the guest had been suspended.
    pub refused_pause_ms: Option<u64>,
    /// Time from the decision to resume the guest until it ran again.
    #[serde(default)]
    pub resume_ms: Option<u64>,
    /// The observed parts of the pause that belong to the helper.
    pub observed: PauseParts,
    /// The round trip with which the final round began. Zero where it was not measured.
    #[serde(default)]
    pub round_trip_ms: u64,
    /// Observed time for the pages of the final round without the round trip, per mille of what
    /// the path's curve said of them once the guest had stopped. `None` if not all of them were
    /// sent, or if the curve knew the path under a cap only.
    #[serde(default)]
    pub last_pages_per_mille: Option<u64>,
    /// Number of guest pages sent.
    pub pages_sent: u64,
    /// Number of bytes written to the stream.
    pub bytes_sent: u64,
    /// `CLOCK_MONOTONIC` of the end in nanoseconds: the end of the stream if that was
    /// complete, otherwise the end of the helper's part.
    pub monotonic_ns: u64,
    /// User and system CPU time of the helper, in milliseconds.
    pub helper_cpu_ms: u64,
    /// Peak resident memory of the helper, in bytes.
    pub helper_peak_bytes: u64,
    /// CPU time of the stub domain, in milliseconds.
    pub stub_cpu_ms: Option<u64>,
    /// The connection to lull land was lost, which a classic landing does without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub land_lost: bool,
}

#[cfg(feature = "test-support")]
impl Ended {
    /// An end with this outcome and all other fields empty.
    pub fn so(how: How) -> Self {
        Self {
            at_ms: 0,
            how,
            reason: String::new(),
            advice: String::new(),
            smallest_limit_ms: None,
            needed_rate: None,
            refused_pause_ms: None,
            resume_ms: None,
            observed: PauseParts::default(),
            round_trip_ms: 0,
            last_pages_per_mille: None,
            pages_sent: 0,
            bytes_sent: 0,
            monotonic_ns: 0,
            helper_cpu_ms: 0,
            helper_peak_bytes: 0,
            stub_cpu_ms: None,
            land_lost: false,
        }
    }
}

/// How the helper's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The stream is complete and libxl has taken over.
    StreamComplete,
    /// The pause would exceed the limit; the guest runs at the source.
    RefusedDowntime,
    /// The time limit expired, or no round can ever fit; the guest runs at the source.
    RefusedTimeout,
    /// The operator cancelled; the guest runs at the source.
    Cancelled,
    /// The stream could not be written: the destination or the link is gone.
    TargetFailed,
    /// The stub, Xen or the helper failed; the guest runs at the source.
    SourceFailed,
}

/// See [`Event::TargetReady`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReady {
    /// `CLOCK_MONOTONIC` at which READY arrived, in nanoseconds.
    pub came_monotonic_ns: u64,
}

/// See [`Event::Ready`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `CLOCK_MONOTONIC` at which READY arrived, in nanoseconds.
    pub came_monotonic_ns: u64,
    /// `CLOCK_MONOTONIC` at which READY was passed on to xl, in nanoseconds.
    pub passed_monotonic_ns: u64,
}

/// See [`Event::HandedOver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// `CLOCK_MONOTONIC` at which READY was passed on to xl, in nanoseconds.
    pub begun_monotonic_ns: u64,
    /// `CLOCK_MONOTONIC` at which the receiver had reported, in nanoseconds.
    pub over_monotonic_ns: u64,
}

/// See [`Event::Answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// `CLOCK_MONOTONIC` at which xl's GO arrived for forwarding, in nanoseconds.
    pub go_monotonic_ns: u64,
    /// `CLOCK_MONOTONIC` at which the answer to GO had arrived, in nanoseconds.
    pub answer_monotonic_ns: u64,
}

/// See [`Event::HungUp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HungUp {
    /// Why the transport hung up.
    pub why: Refused,
    /// `CLOCK_MONOTONIC` at which READY arrived, in nanoseconds, if it did.
    pub ready_monotonic_ns: Option<u64>,
    /// `CLOCK_MONOTONIC` of the decision to hang up, in nanoseconds.
    pub decided_monotonic_ns: u64,
    /// What the transport did with the guest.
    pub guest: GuestThen,
    /// Why the guest could not be resumed, or what is wrong with it since it was; otherwise
    /// empty.
    pub error: String,
    /// The guest's pause, if the transport ended it by resuming the guest.
    pub refused_pause_ms: Option<u64>,
    /// Time from the decision to resume the guest until it ran again.
    #[serde(default)]
    pub resume_ms: Option<u64>,
}

/// Why the transport hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// The destination was not ready when the guest had to be resumed.
    NotReady,
    /// READY arrived too late to keep the limit.
    ReadyTooLate,
    /// READY arrived, but no message to the transport said when the pause began.
    PauseUnknown,
    /// The operator cancelled the attempt.
    Cancelled,
    /// The engine of a fast landing had given up.
    GivenUp,
    /// The destination had the whole guest and could not take its name, so it gave the
    /// guest back.
    GaveBack,
    /// The front end has exited.
    FrontEndGone,
    /// READY arrived, but something had resumed the guest, which runs at the source.
    RunsHere,
    /// READY arrived, and Xen did not say whether the guest runs at the source.
    StateUnread,
    /// xl closed its end because it gave up or died.
    XlGone,
    /// The destination, or the connection to it, closed its end.
    PeerGone,
}

/// What the transport did with the guest when it hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestThen {
    /// The guest was suspended, and the transport resumed it.
    Resumed,
    /// The guest was not suspended, so there was nothing to resume.
    WasNotSuspended,
    /// The guest was left alone, because the helper or xl resumes it.
    LeftAlone,
    /// Resuming the guest failed; see [`HungUp::error`].
    CouldNotBeResumed,
}

/// See [`Event::Log`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    /// Level of the line: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Origin of the line: `stub`, `helper` or `xl`.
    pub from: String,
    /// The text of the line.
    pub text: String,
}

/// See [`Event::Rehearsed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rehearsed {
    /// The destination of the rehearsal.
    pub host: String,
    /// `learned`, or how a migration would have ended ([`Outcome::outcome`]).
    pub outcome: String,
    /// The order in which the probe guest landed or was to land; `None` if it was not
    /// chosen yet.
    pub landing: Option<Landing>,
    /// The parts of the probe guest's pause that also apply to other guests.
    pub observed: PauseParts,
    /// See [`Outcome::until_ready_ms`].
    pub until_ready_ms: Option<u64>,
    /// See [`Outcome::after_ready_ms`].
    pub after_ready_ms: Option<u64>,
    /// Duration of the probe guest's migration to the destination.
    pub there_ms: Option<u64>,
    /// Whether the rehearsal may have left something on one of the hosts.
    pub left_behind: bool,
    /// The sentence that explains what went wrong; may be empty.
    pub reason: String,
}

/// See [`Event::Result`]. The fields are those of the table of outcomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// How the migration ended: `moved`, `refused-downtime`, `refused-timeout`,
    /// `cancelled`, `target-failed`, `source-failed` or `unknown`.
    pub outcome: String,
    /// Where the guest runs: `source`, `destination`, `unknown`, or `nowhere` if the
    /// guest has died.
    pub running_on: String,
    /// The limit on the pause in milliseconds, rounded down, if there is one.
    pub limit_ms: Option<u64>,
    /// The predicted pause when the guest was suspended, or at the refusal.
    pub predicted_downtime_ms: Option<u64>,
    /// The expected pause when the guest was asked to stop; absent without history.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
    /// Upper bound of the observed pause.
    pub observed_downtime_ms: Option<u64>,
    /// Estimate of the observed pause: the upper bound minus half a round trip.
    #[serde(default)]
    pub observed_downtime_estimate_ms: Option<u64>,
    /// Earlier pauses of this migration that were given up and tried again.
    #[serde(default)]
    pub given_up_ms: Vec<u64>,
    /// First part of the landing: time from the end of the helper's stream until the
    /// destination's READY.
    pub until_ready_ms: Option<u64>,
    /// Second part of the landing: upper bound of the time from READY until the guest
    /// ran.
    pub after_ready_ms: Option<u64>,
    /// The order in which the guest was to land: `classic` or `fast`.
    #[serde(default)]
    pub landing: Landing,
    /// Why the landing is not the fast one; empty if it is.
    #[serde(default)]
    pub landing_reason: String,
    /// Number of connections that carried a guest in a fast landing, as many as were left at
    /// the end.
    #[serde(default)]
    pub connections: Option<u8>,
    /// Why there were fewer than wanted at the beginning; empty if there were as many.
    #[serde(default)]
    pub connections_reason: String,
    /// Number of rounds sent, including the final one.
    pub rounds: u32,
    /// Number of guest pages sent.
    pub pages_sent: u64,
    /// Time from the start of the command to its end.
    pub duration_ms: u64,
    /// The reason for the outcome, as a sentence.
    pub reason: String,
    /// What to do next; may be empty.
    pub advice: String,
}

/// Commands from the front end to the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Give up safely. A closed socket means the same.
    Cancel,
}
