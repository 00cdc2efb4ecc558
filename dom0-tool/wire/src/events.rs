//! What an attempt tells whoever watches it: one JSON object per line.
//!
//! The helper writes these to the front end (`lull migrate`) over the socket
//! named by [`FRONT_END_FD`]; with `--json` the front end passes them on to
//! standard output. Every object has `type` and `schema`; the last one of a
//! `lull migrate` is a [`Event::Result`]. Times are milliseconds from the start
//! of the attempt unless a name says otherwise.

use serde::{Deserialize, Serialize};

/// Version of these objects; raised when the meaning of a field changes.
pub const SCHEMA: u32 = 1;

/// Environment variable with the number of an inherited socket: the helper
/// writes [`Event`] lines to it and reads [`Command`] lines from it.
pub const FRONT_END_FD: &str = "LULL_FRONT_END_FD";

/// A line as it travels: the event and the version it is written in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// In which order a guest lands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landing {
    /// Stock's: all of the stream, then the devices, while the guest is paused.
    #[default]
    Classic,
    /// The destination stands ready, devices and all, before the guest stops.
    Fast,
}

impl Landing {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Fast => "fast",
        }
    }
}

/// What can happen in an attempt, in the order in which it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// The first line of a record : whose it is. Not
    /// part of `--json`.
    Begun(Begun),
    /// The stub runs, log-dirty is on, copying begins.
    Started(Started),
    /// Several times a second while copying.
    Progress(Progress),
    /// A round has been sent and judged.
    Round(Round),
    /// The guest has stopped.
    Suspended(Suspended),
    /// The pause could not be kept, was given up, and is tried again.
    RanOn(RanOn),
    /// The helper's part is over: the stream is complete, or the attempt was
    /// given up and undone.
    Ended(Ended),
    /// lull could not begin, and no limit holds: the guest is left to Xen's own
    /// helper, which tells nothing.
    LeftToStock(LeftToStock),
    /// Of a fast landing: the destination stands ready, and waits for permission
    /// while the guest still runs here.
    TargetReady(TargetReady),
    /// The destination was ready in time, and xl was told. From here on there
    /// is no way back.
    Ready(Ready),
    /// The destination has answered xl's GO.
    Answered(Answered),
    /// The connection was closed before that; the guest stays.
    HungUp(HungUp),
    /// Other limits hold from now on (`lull set`).
    Limits(InForce),
    /// The operator wants to give up, and has told the helper (`lull cancel`).
    CancelAsked,
    /// A line for the operator, at the level it deserves.
    Log(Log),
    /// A rehearsal is over: the last word of `lull rehearse`, an early one of
    /// `lull migrate --rehearse`.
    Rehearsed(Rehearsed),
    /// The front end's last word.
    Result(Box<Outcome>),
}

/// See [`Event::Begun`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Version that wrote it.
    pub lull: String,
    /// By dom0's wall clock, for people.
    pub started: String,
    /// The guest's name.
    pub guest: String,
    /// Its number at the source.
    pub domid: u16,
    /// Where to, as the operator named it; libxl does not tell its helper.
    pub destination: Option<String>,
    /// `lull migrate`, or `libxl` for whoever called that.
    pub through: String,
}

/// See [`Event::LeftToStock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftToStock {
    /// Why lull could not.
    pub reason: String,
}

/// See [`Event::Started`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    /// Domain id at the source.
    pub domid: u16,
    /// Process id of the helper.
    pub helper_pid: u32,
    /// Populated pages of the guest.
    pub guest_pages: u64,
    /// In which order it is to land.
    #[serde(default)]
    pub landing: Landing,
    /// The limit on the pause.
    pub limit_ms: Option<u64>,
    /// The limit on the time to the suspend.
    pub timeout_ms: Option<u64>,
    /// What is sent at most until then, bytes a second.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// The share of pauses that may be given up.
    #[serde(default)]
    pub risk_per_mille: Option<u16>,
    /// Domain id of the stub.
    pub stub_domid: u16,
    /// Memory the stub domain has, in bytes.
    pub stub_memory_bytes: u64,
    /// Time from the helper's start until the stub was started.
    pub stub_boot_ms: u64,
    /// Upper bounds assumed for what does not depend on the guest's pages.
    pub fixed_costs: PauseParts,
}

/// The parts of a pause, predicted or observed. Absent: not (yet) known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseParts {
    /// From the suspend request until the guest had stopped.
    pub suspend_ms: Option<u64>,
    /// Reading the final dirty bitmap.
    pub final_bitmap_ms: Option<u64>,
    /// Sending the pages of the final round.
    pub pages_ms: Option<u64>,
    /// CPU state, parameters and the end of the stream.
    pub cpu_state_ms: Option<u64>,
    /// From the end of the stream until the guest runs at the destination.
    pub landing_ms: Option<u64>,
}

/// See [`Event::Progress`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When.
    pub at_ms: u64,
    /// Round, counted from 0, the full pass.
    pub round: u32,
    /// Pages of this round sent so far.
    pub round_sent: u64,
    /// Pages this round has.
    pub round_pages: u64,
    /// Pages sent in all rounds.
    pub pages_sent: u64,
    /// Pages dirtied since the bitmap was last taken.
    pub dirty_pages: Option<u64>,
    /// Lower bound of the transfer rate, bytes a second.
    pub transfer_rate: Option<u64>,
    /// Upper bound of the dirty rate, pages a second.
    pub dirty_rate: Option<u64>,
    /// Upper bound of the pause, were the guest suspended now.
    pub predicted_downtime_ms: Option<u64>,
    /// The pause then expected.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
}

/// See [`Event::Round`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When it ended.
    pub at_ms: u64,
    /// Round, counted from 0.
    pub round: u32,
    /// Pages sent.
    pub pages_sent: u64,
    /// Pages the guest dirtied meanwhile.
    pub pages_dirtied: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Lower bound of the transfer rate, bytes a second.
    pub transfer_rate: Option<u64>,
    /// Upper bound of the dirty rate, pages a second.
    pub dirty_rate: Option<u64>,
    /// Upper bound of the pause, had the guest been suspended here.
    pub predicted_downtime_ms: Option<u64>,
    /// The pause then expected.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
    /// What of the bound the link makes: so many bytes in a row took longest.
    #[serde(default)]
    pub rests_on: Option<RestsOn>,
    /// What was decided: `another-round`, `suspend`, `finish` or `refuse`.
    pub decision: String,
}

/// The slowest stretch of the link that a bound rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestsOn {
    /// Bytes of pages in a row.
    pub bytes: u64,
    /// That they took.
    pub took_ms: u64,
    /// In this round, counted from 0.
    pub round: u32,
}

/// See [`Event::Suspended`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Suspended {
    /// When the guest was asked: the pause counts from here.
    pub requested_at_ms: u64,
    /// When it was seen stopped.
    pub stopped_at_ms: u64,
    /// Pages of the final round, exact.
    pub dirty_pages: u64,
    /// How long its pages are expected to take, and those the guest dirties on its
    /// way to the stop.
    #[serde(default)]
    pub likely_pages_ms: Option<u64>,
    /// `CLOCK_MONOTONIC` of the request, nanoseconds: the front end subtracts
    /// it from the moment the destination reports that the guest runs.
    pub requested_monotonic_ns: u64,
    /// The limit under which it was asked, microseconds, exact: the transport
    /// keeps to it, whatever was said before.
    #[serde(default)]
    pub limit_us: Option<u64>,
    /// The prediction on which the guest was suspended.
    pub predicted: PauseParts,
    /// Its sum.
    pub predicted_downtime_ms: Option<u64>,
}

/// See [`Event::RanOn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanOn {
    /// When the guest ran again.
    pub at_ms: u64,
    /// How long it was paused.
    pub pause_ms: u64,
    /// Why it was given up: a sentence.
    pub reason: String,
}

/// See [`Event::Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Since when.
    pub at_ms: u64,
    /// The limit on the pause.
    pub limit_ms: Option<u64>,
    /// The limit on the time to the suspend.
    pub timeout_ms: Option<u64>,
    /// What is sent at most until then, bytes a second.
    #[serde(default)]
    pub bandwidth: Option<u64>,
}

/// See [`Event::Ended`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at_ms: u64,
    /// How.
    pub how: How,
    /// One sentence for the operator; empty when the stream is complete.
    pub reason: String,
    /// What would have worked, or what to do next; may be empty.
    pub advice: String,
    /// The smallest limit that would have fitted.
    pub smallest_limit_ms: Option<u64>,
    /// The transfer rate that would have been needed, bytes a second.
    pub needed_rate: Option<u64>,
    /// The refused attempt's own pause, when the guest had been suspended.
    pub refused_pause_ms: Option<u64>,
    /// How long it took to make it run again, from the decision.
    #[serde(default)]
    pub resume_ms: Option<u64>,
    /// The helper's parts of the pause, as observed.
    pub observed: PauseParts,
    /// Guest pages sent.
    pub pages_sent: u64,
    /// Bytes written to the stream.
    pub bytes_sent: u64,
    /// `CLOCK_MONOTONIC` of the end, nanoseconds: of the stream's, if that was
    /// complete.
    pub monotonic_ns: u64,
    /// CPU time of the helper, user and system, in milliseconds.
    pub helper_cpu_ms: u64,
    /// Peak resident memory of the helper, bytes.
    pub helper_peak_bytes: u64,
    /// CPU time of the stub domain, milliseconds.
    pub stub_cpu_ms: Option<u64>,
}

#[cfg(feature = "test-support")]
impl Ended {
    /// An end of which nothing is known but how.
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
            pages_sent: 0,
            bytes_sent: 0,
            monotonic_ns: 0,
            helper_cpu_ms: 0,
            helper_peak_bytes: 0,
            stub_cpu_ms: None,
        }
    }
}

/// How the helper's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The stream is complete and libxl has taken over.
    StreamComplete,
    /// The pause would not fit; the guest runs at the source.
    RefusedDowntime,
    /// Time ran out, or no round can ever fit; the guest runs at the source.
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
    /// `CLOCK_MONOTONIC` when READY came, nanoseconds.
    pub came_monotonic_ns: u64,
}

/// See [`Event::Ready`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `CLOCK_MONOTONIC` when READY came, nanoseconds.
    pub came_monotonic_ns: u64,
    /// And when it was passed on.
    pub passed_monotonic_ns: u64,
}

/// See [`Event::Answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// `CLOCK_MONOTONIC` when GO was there to be carried, nanoseconds.
    pub go_monotonic_ns: u64,
    /// And when the answer to it had come.
    pub answer_monotonic_ns: u64,
}

/// See [`Event::HungUp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HungUp {
    /// Why.
    pub why: Refused,
    /// `CLOCK_MONOTONIC` when READY came, nanoseconds, if it did.
    pub ready_monotonic_ns: Option<u64>,
    /// `CLOCK_MONOTONIC` of the decision.
    pub decided_monotonic_ns: u64,
    /// What became of the guest.
    pub guest: GuestThen,
    /// Why it could not be resumed; else empty.
    pub error: String,
    /// The guest's pause, if it was ended here.
    pub refused_pause_ms: Option<u64>,
    /// How long it took to make it run again, from the decision.
    #[serde(default)]
    pub resume_ms: Option<u64>,
}

/// Why the transport hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// The destination was not ready when the guest had to be resumed.
    NotReady,
    /// READY came when the limit could no longer be kept.
    ReadyTooLate,
    /// READY came, and nobody had told since when the guest is paused.
    PauseUnknown,
    /// The operator cancelled.
    Cancelled,
    /// The engine of a fast landing had given up.
    GivenUp,
    /// The front end has gone.
    FrontEndGone,
    /// READY came, and the guest, which somebody has resumed, runs here.
    RunsHere,
    /// xl closed its end: it gave up, or died.
    XlGone,
    /// The destination, or what leads to it, closed its end.
    PeerGone,
}

/// What the transport did with the guest when it hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestThen {
    /// It was suspended and was made to run.
    Resumed,
    /// There was nothing to resume it from.
    WasNotSuspended,
    /// It is the helper's or xl's to resume.
    LeftAlone,
    /// See [`HungUp::error`].
    CouldNotBeResumed,
}

/// See [`Event::Log`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `stub`, `helper`, `xl`.
    pub from: String,
    /// The line.
    pub text: String,
}

/// See [`Event::Rehearsed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rehearsed {
    /// The destination.
    pub host: String,
    /// `learned`, or how a migration would have ended ([`Outcome::outcome`]).
    pub outcome: String,
    /// In which order it landed, or was to; `None` before that was chosen.
    pub landing: Option<Landing>,
    /// The parts of the probe guest's pause that speak for other guests.
    pub observed: PauseParts,
    /// Of the landing, as in [`Outcome`].
    pub until_ready_ms: Option<u64>,
    /// Likewise.
    pub after_ready_ms: Option<u64>,
    /// How long the way there took.
    pub there_ms: Option<u64>,
    /// Whether something of it may be left on a host.
    pub left_behind: bool,
    /// The sentence that explains what went wrong; may be empty.
    pub reason: String,
}

/// See [`Event::Result`]. The fields are those of the table of outcomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// `moved`, `refused-downtime`, `refused-timeout`, `cancelled`,
    /// `target-failed`, `source-failed` or `unknown`.
    pub outcome: String,
    /// `source`, `destination`, `unknown`, or `nowhere` if the guest has died.
    pub running_on: String,
    /// The limit on the pause.
    pub limit_ms: Option<u64>,
    /// What the pause was predicted to be when the guest was suspended, or at
    /// the refusal.
    pub predicted_downtime_ms: Option<u64>,
    /// What it was expected to be when the guest was asked to stop; nothing
    /// without history.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
    /// What it was, at most.
    pub observed_downtime_ms: Option<u64>,
    /// What it was, less half a round trip.
    #[serde(default)]
    pub observed_downtime_estimate_ms: Option<u64>,
    /// Pauses before it that were given up and tried again.
    #[serde(default)]
    pub given_up_ms: Vec<u64>,
    /// Of the landing: from the end of the helper's stream until the
    /// destination's READY.
    pub until_ready_ms: Option<u64>,
    /// And from there until the guest ran, at most.
    pub after_ready_ms: Option<u64>,
    /// In which order it was to land: `classic` or `fast`.
    #[serde(default)]
    pub landing: Landing,
    /// Why not the fast one; empty for that.
    #[serde(default)]
    pub landing_reason: String,
    /// Rounds sent, the final one included.
    pub rounds: u32,
    /// Guest pages sent.
    pub pages_sent: u64,
    /// From the command's start to its end.
    pub duration_ms: u64,
    /// The sentence that explains it.
    pub reason: String,
    /// What to do next; may be empty.
    pub advice: String,
}

/// What the front end tells the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Give up safely. The socket's end means the same.
    Cancel,
    /// Of a fast landing: the destination has said READY, and waits.
    TargetReady,
    /// Of a fast landing: the transport has hung up.
    HungUp {
        /// Why.
        why: Refused,
    },
}

/// What the front end tells the transport: the helper's news, and the
/// operator's wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// The helper was heard.
    HelperBegun,
    /// The guest is suspended.
    Suspended {
        /// As in [`Suspended`].
        requested_monotonic_ns: u64,
        /// Likewise.
        #[serde(default)]
        limit_us: Option<u64>,
    },
    /// The guest runs on at the source, and is copied further.
    RanOn,
    /// The helper's stream is complete, and the guest no longer its business.
    Committed,
    /// Give up safely. The socket's end means the same.
    Cancel,
    /// Give up although no helper was heard.
    HangUp,
    /// Of a fast landing: the engine has given up, and the guest is its own
    /// business.
    GivenUp,
}
