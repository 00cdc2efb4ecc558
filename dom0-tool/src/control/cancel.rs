//! `lull cancel`: ends a migration as a signal would, and reports where the guest runs
//! afterwards.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use lull_base::exit::not_begun;
use lull_base::terminal::{to_stderr, to_stdout};
use lull_wire::control::{Answer, End, Request};
use lull_wire::events::How;
use lull_xen::host::Guest;

use super::client::{self, Connection, Received};
use super::{DONE, REFUSED, UNKNOWN};
use crate::migrate::source::{self, OnXen, Rescue, Seen};

/// The longest wait for the end of a migration. If the guest was asked to stop just before,
/// libxl may take two minutes.
const END_TIMEOUT: Duration = Duration::from_secs(150);

/// The options of `lull cancel`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  lull cancel web1

Waits until the migration has ended. It is too late once the destination has
permission to start the guest or, if xl or virsh began the migration, once it has
all of the guest.

Exit codes: 0 cancelled, the guest runs here; 2 wrong usage, or it is not being
  migrated; 3 too late, the migration goes on or had ended otherwise; 8 the
  guest was not seen to run: look at both hosts.")]
pub struct Options {
    /// The guest: its name or number
    pub domain: String,
}

pub fn main(options: &Options) -> ExitCode {
    let (guest, connection) = match client::of(&options.domain) {
        Ok(found) => found,
        Err(error) => return not_begun(&error),
    };
    match cancel(&guest, connection) {
        Ok(code) => code.into(),
        Err(error) => {
            to_stderr(&format!(
                "lull: {error:#}.\nWhether the migration of {0} goes on is not known. `lull status {0}` shows it.",
                guest.name
            ));
            UNKNOWN.into()
        }
    }
}

fn cancel(guest: &Guest, mut connection: Connection) -> anyhow::Result<u8> {
    match connection.ask(Request::Cancel)? {
        Answer::Refused { why } => {
            to_stderr(&format!("lull: {}: {why}", guest.name));
            return Ok(REFUSED);
        }
        Answer::Done { said } => to_stderr(&format!("lull: {}: {said}", guest.name)),
        Answer::Status(_) => {}
    }
    let mut end = await_end(&mut connection)?;
    // The helper finished first, so the request goes to the `lull migrate` that started it.
    if is_complete(end.as_ref())
        && let Some(mut landing) = client::landing(&connection.socket)
    {
        if let Answer::Refused { why } = landing.ask(Request::Cancel)? {
            to_stderr(&format!("lull: {}: {why}", guest.name));
        }
        end = await_end(&mut landing)?;
    }
    Ok(match end.as_ref() {
        end if is_complete(end) => {
            to_stderr(&format!(
                "lull: too late: the destination has all of {0} and may start it. `lull status {0}` shows whether it is still here.",
                guest.name
            ));
            REFUSED
        }
        end => look(guest, end),
    })
}

fn is_complete(end: Option<&End>) -> bool {
    end.is_some_and(|end| end.how == How::StreamComplete)
}

/// Waits for the end of the helper's part; `None` when the helper died.
fn await_end(connection: &mut Connection) -> anyhow::Result<Option<End>> {
    let until = Instant::now() + END_TIMEOUT;
    if connection.say(Request::Watch).is_err() {
        return Ok(None);
    }
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match connection.recv(left)? {
            Received::Answer(Answer::Status(status)) if status.ended.is_some() => {
                return Ok(status.ended);
            }
            Received::Answer(_) => {}
            Received::End => return Ok(None),
            Received::Nothing => anyhow::bail!(
                "the helper, process {}, has not ended within {} s",
                connection.socket.helper,
                END_TIMEOUT.as_secs()
            ),
        }
    }
}

/// Checks where the guest runs, rather than assuming it.
fn look(guest: &Guest, end: Option<&End>) -> u8 {
    let name = &guest.name;
    let seen = source::watch(&OnXen(guest.domid), Rescue::Forbidden);
    match seen {
        Seen::Running | Seen::Rescued => {}
        Seen::Dead(how) | Seen::NotRunning(how) => {
            to_stderr(&format!(
                "lull: {name} {how}. Look at it here (`xl list`) and at the destination."
            ));
            return UNKNOWN;
        }
    }
    match end {
        Some(End {
            how: How::Cancelled,
            ..
        })
        | None => {
            to_stdout(&format!(
                "{name} runs here, on the source. Its migration was cancelled."
            ));
            DONE
        }
        Some(end) => {
            to_stdout(&format!(
                "{name} runs here, on the source. Its migration had ended by itself: {}",
                end.reason
            ));
            REFUSED
        }
    }
}
