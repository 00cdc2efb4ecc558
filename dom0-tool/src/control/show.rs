//! `lull status`: shows the state of the migrations on this host.

use std::process::ExitCode;

use clap::Args;
use lull_base::exit::not_begun;
use lull_base::fmt::{Bytes, Count, Millis, Seconds, or_dash};
use lull_base::terminal::{to_stderr, to_stdout};
use lull_core::units::PAGE_SIZE;
use lull_wire::control::{Answer, Line, Phase, SCHEMA, Status};
use lull_xen as xen;
use lull_xen::host::{self, Guest};

use super::client::{self, Connection};
use super::{DONE, watch};
use crate::cli::if_terminal;

/// The options of `lull status`.
#[derive(Debug, Args)]
#[command(after_help = concat!("Examples:
  lull status
  lull status --json web1
  lull status --watch web1

It shows every migration that lull takes part in, also those that plain xl or
virsh started. For those, once the last page has been sent, it can only tell
that the guest is suspended.

", if_terminal!("With --watch, q, Esc and ^C leave, and the migration goes on. If standard output
is not a terminal, it prints a line per change.", "With --watch, it prints a line per change. ^C leaves, and the migration goes on."), "

Exit codes: 0 shown, or nothing to show; 2 wrong usage, or no
  such domain. With --watch: 0 moved, or you left; 2 also nothing to watch; how
  it ended otherwise as `lull migrate`: 3 refused, the pause would be too long;
  4 refused, out of time or not converging; 5 cancelled; 6 destination failed; 7
  source failed; after 3 to 7 the guest runs here; 8 unknown, look at both
  hosts. Of several migrations, the highest."))]
pub struct Options {
    /// Print one JSON object per line on standard output, one for each
    /// migration
    #[arg(long)]
    pub json: bool,

    /// Show it live until it ends; with --json, an object for each change
    #[arg(long)]
    pub watch: bool,

    /// Only this guest: its name or number
    pub domain: Option<String>,
}

pub fn main(options: &Options) -> ExitCode {
    if options.watch {
        return watch::main(options);
    }
    match show(options) {
        Ok(()) => DONE.into(),
        Err(error) => not_begun(&error),
    }
}

fn show(options: &Options) -> anyhow::Result<()> {
    let all = client::all()?;
    let wanted = match &options.domain {
        Some(asked) => Some(host::domain(asked)?),
        None => None,
    };
    let is_wanted = |domid| wanted.as_ref().is_none_or(|guest| guest.domid == domid);
    let names = client::names();
    let mut shown = Vec::new();
    for mut connection in all {
        if !is_wanted(connection.socket.domid) {
            continue;
        }
        shown.push(connection.socket.domid);
        match status_of(&mut connection, &names) {
            Ok(status) if options.json => to_stdout(&as_json(status)),
            Ok(status) => to_stdout(&in_words(&status)),
            Err(error) => to_stderr(&format!(
                "lull: domain {}: {error:#}",
                connection.socket.domid
            )),
        }
    }
    let silent = |guest: &&Guest| is_wanted(guest.domid) && !shown.contains(&guest.domid);
    let mut nothing = shown.is_empty();
    for guest in names.iter().filter(silent) {
        if xen::state(guest.domid).is_ok_and(|state| state.is_some_and(|s| s.is_suspended())) {
            nothing = false;
            if !options.json {
                to_stdout(&format!(
                    "{} ({}): suspended here. Its migration is landing, or waits for a decision: `lull resume --help`",
                    guest.name, guest.domid
                ));
            }
        }
    }
    if nothing && !options.json {
        to_stdout(&match wanted {
            Some(guest) => format!("{} is not being migrated.", guest.name),
            None => "No migration runs on this host.".to_owned(),
        });
    }
    Ok(())
}

/// The state of a migration, with the guest's name.
fn status_of(connection: &mut Connection, names: &[Guest]) -> anyhow::Result<Status> {
    let mut status = connection.status()?;
    let known = names.iter().find(|guest| guest.domid == status.domid);
    status.name = known.map(|guest| guest.name.clone());
    Ok(status)
}

/// The state as JSON, as the helper sends it.
pub fn as_json(status: Status) -> String {
    let line = Line {
        schema: SCHEMA,
        said: Answer::Status(Box::new(status)),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// The guest's name and number: `web1 (7)`.
pub fn title(status: &Status) -> String {
    match &status.name {
        Some(name) => format!("{name} ({})", status.domid),
        None => format!("domain {}", status.domid),
    }
}

/// The present phase in words.
pub fn doing(status: &Status) -> String {
    let round = status.progress.as_ref().map_or(0, |p| p.round);
    match status.phase {
        Phase::Preparing => "preparing".to_owned(),
        Phase::Copying => format!("copying, round {round}"),
        Phase::Suspending => "suspending: the guest was asked to stop".to_owned(),
        Phase::LastRound => "paused: the last pages are sent".to_owned(),
        Phase::Finishing => "paused: all pages are sent".to_owned(),
        Phase::Landing => "landing: the destination has the guest".to_owned(),
        Phase::Ended => "given up; the guest runs here".to_owned(),
    }
}

/// The bandwidth cap in words, `, 10.0 MiB/s allowed`; empty if there is none.
pub fn cap_in_words(status: &Status) -> String {
    let cap = status.bandwidth.map(Bytes);
    cap.map_or_else(String::new, |cap| format!(", {cap}/s allowed"))
}

/// The state as a few lines of text.
fn in_words(status: &Status) -> String {
    let mut text = format!("{}: {}", title(status), doing(status));
    let mut add = |what: &str, how: String| text.push_str(&format!("\n  {what:<6} {how}"));
    let per_second = |rate: Option<u64>| rate.map(|rate| format!("{}/s", Bytes(rate)));
    if let Some(progress) = &status.progress {
        let pages = |count: u64| Bytes(count.saturating_mul(PAGE_SIZE));
        add(
            "sent",
            format!(
                "{} of a guest of {}; in this round {} of {}",
                pages(progress.pages_sent),
                pages(status.guest_pages),
                pages(progress.round_sent),
                pages(progress.round_pages),
            ),
        );
        let rate = progress
            .dirty_rate
            .map(|rate| rate.saturating_mul(PAGE_SIZE));
        add(
            "dirty",
            format!(
                "{} pages, {} at most",
                or_dash(progress.dirty_pages.map(Count)),
                or_dash(per_second(rate)),
            ),
        );
        let rate = or_dash(per_second(progress.transfer_rate));
        add("link", format!("{rate} as of late{}", cap_in_words(status)));
    }
    let progress = status.progress.as_ref();
    let predicted = progress.and_then(|progress| progress.predicted_downtime_ms);
    let expected = progress.and_then(|progress| progress.expected_downtime_ms);
    add(
        "pause",
        format!(
            "{} expected, {} at most, limit {}",
            or_dash(expected.map(Millis)),
            or_dash(predicted.map(Millis)),
            or_dash(status.limit_ms.map(Millis)),
        ),
    );
    add(
        "time",
        format!(
            "{}, timeout {}",
            Seconds(status.at_ms),
            or_dash(status.timeout_ms.map(Millis)),
        ),
    );
    add("helper", format!("process {}", status.helper_pid));
    text
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use lull_agents::control::status_snapshot::StatusSnapshot;
    use lull_wire::events::{Event, Progress};

    #[test]
    fn a_status_reads_well() {
        let mut picture = StatusSnapshot::new(7, Instant::now());
        picture.note(&Event::Progress(Progress {
            at_ms: 1_000,
            round: 3,
            round_sent: 256,
            round_pages: 512,
            pages_sent: 51_200,
            dirty_pages: Some(4_210),
            transfer_rate: Some(85 << 20),
            dirty_rate: Some(1_024),
            predicted_downtime_ms: Some(480),
            expected_downtime_ms: Some(150),
        }));
        let mut status = picture.status().clone();
        status.phase = Phase::Copying;
        status.name = Some("web1".to_owned());
        status.guest_pages = 49_152;
        status.limit_ms = Some(500);
        status.timeout_ms = Some(120_000);
        status.bandwidth = Some(10 << 20);
        status.at_ms = 34_000;
        status.helper_pid = 42;
        assert_eq!(
            in_words(&status),
            "\
web1 (7): copying, round 3
  sent   200.0 MiB of a guest of 192.0 MiB; in this round 1.0 MiB of 2.0 MiB
  dirty  4,210 pages, 4.0 MiB/s at most
  link   85.0 MiB/s as of late, 10.0 MiB/s allowed
  pause  150 ms expected, 480 ms at most, limit 500 ms
  time   34 s, timeout 2 min 0 s
  helper process 42"
        );
    }

    #[test]
    fn what_is_not_known_is_shown_as_such() {
        let text = in_words(StatusSnapshot::new(7, Instant::now()).status());
        assert!(text.starts_with("domain 7: preparing\n  pause  – expected, – at most, limit –\n"));
    }
}
