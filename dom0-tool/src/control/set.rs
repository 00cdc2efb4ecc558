//! `lull set` and `lull switch-now`: change the limits of a running migration, or end its
//! copying with this round.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use lull_base::bandwidth::Bandwidth;
use lull_base::duration::Span;
use lull_base::exit::not_begun;
use lull_base::fmt::{Millis, or_dash};
use lull_base::terminal::{to_stderr, to_stdout};
use lull_wire::control::{Answer, Phase, Request, Status};

use super::client::{self, Connection, Received};
use super::{DONE, REFUSED, UNKNOWN};

/// The longest silence accepted. A helper reports several times a second while it copies.
const SILENCE: Duration = Duration::from_secs(60);

/// The options of `lull set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull set --timeout 10min web1
  lull set --max-suspend-time 500ms web1
  lull set --bandwidth 50MiB/s web1     # none: no cap

It applies from the next decision on, but not once the guest was asked to stop.
A limit that cannot be kept ends the migration; the guest runs on here.

Exit codes: 0 set; 2 wrong usage, or it is not being migrated; 3 refused,
  nothing was changed.")]
pub struct Options {
    /// The guest must never be paused longer than this
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub max_suspend_time: Option<Span>,

    /// Give up unless the guest could be suspended within this time, counted
    /// from the migration's start
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        required_unless_present_any = ["max_suspend_time", "bandwidth"]
    )]
    pub timeout: Option<Span>,

    /// Send no more than this until the guest is asked to stop: 50MiB/s,
    /// 1Gbit/s; or `none`
    #[arg(long, value_name = "RATE")]
    pub bandwidth: Option<Bandwidth>,

    /// The guest: its name or number
    pub domain: String,
}

/// The options of `lull switch-now`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  lull switch-now web1

Waits for the end of the round under way. The limit holds all the same: if the
pause would not fit, the migration goes on as before.

Exit codes: 0 the guest was asked to stop; 2 wrong usage, or it is not being
  migrated; 3 refused, the migration goes on, or has ended; 8 not known.")]
pub struct SwitchNow {
    /// The guest: its name or number
    pub domain: String,
}

/// Runs `lull set`.
pub fn main(options: &Options) -> ExitCode {
    let micros = |span: Option<Span>| span.map(Span::as_micros);
    let request = Request::Set {
        max_suspend_us: micros(options.max_suspend_time),
        timeout_us: micros(options.timeout),
        bandwidth: options.bandwidth.map(Bandwidth::bytes),
    };
    steer(&options.domain, request, |_| Ok(DONE))
}

/// Runs `lull switch-now`.
pub fn switch_now(options: &SwitchNow) -> ExitCode {
    steer(&options.domain, Request::SwitchNow, await_decision)
}

fn steer(
    domain: &str,
    request: Request,
    then: impl FnOnce(&mut Connection) -> anyhow::Result<u8>,
) -> ExitCode {
    let (guest, mut connection) = match client::of(domain) {
        Ok(found) => found,
        Err(error) => return not_begun(&error),
    };
    let name = &guest.name;
    let code = match connection.ask(request) {
        Ok(Answer::Done { said }) => {
            to_stdout(&format!("{name}: {said}."));
            then(&mut connection)
        }
        Ok(Answer::Refused { why }) => {
            to_stderr(&format!("lull: {name}: {why}.\nNothing was changed."));
            Ok(REFUSED)
        }
        Ok(Answer::Status(_)) => Ok(UNKNOWN),
        Err(error) => Err(error),
    };
    match code {
        Ok(code) => code.into(),
        Err(error) => {
            to_stderr(&format!(
                "lull: {error:#}.\n`lull status {name}` shows how it stands."
            ));
            UNKNOWN.into()
        }
    }
}

/// Waits for the decision at the end of the round.
fn await_decision(connection: &mut Connection) -> anyhow::Result<u8> {
    connection.say(Request::Watch)?;
    let mut before = None;
    loop {
        let status = match connection.recv(SILENCE)? {
            Received::Answer(Answer::Status(status)) => status,
            Received::Answer(_) => continue,
            Received::End => anyhow::bail!("the helper has ended"),
            Received::Nothing => anyhow::bail!("the helper says nothing"),
        };
        let rounds = rounds_ended(&status);
        if let Some(code) = decided(&status, *before.get_or_insert(rounds)) {
            return Ok(code);
        }
    }
}

/// The number of rounds that have ended.
fn rounds_ended(status: &Status) -> u32 {
    status.rounds.back().map_or(0, |round| round.round + 1)
}

/// The exit code for the decision, if more than `before` rounds have ended.
fn decided(status: &Status, before: u32) -> Option<u8> {
    if let Some(end) = status.ended.as_ref().filter(|end| !end.reason.is_empty()) {
        to_stderr(&format!("lull: the migration ended: {}", end.reason));
        return Some(REFUSED);
    }
    if !matches!(status.phase, Phase::Preparing | Phase::Copying) {
        to_stdout("The guest was asked to stop.");
        return Some(DONE);
    }
    let round = status.rounds.back()?;
    (rounds_ended(status) > before).then(|| {
        to_stderr(&format!(
            "lull: refused at the end of round {}: predicted pause {}, limit {}. The migration goes on.",
            round.round,
            or_dash(round.predicted_downtime_ms.map(Millis)),
            or_dash(status.limit_ms.map(Millis)),
        ));
        REFUSED
    })
}
