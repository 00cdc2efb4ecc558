//! `lull predict`: the expected result of a migration, without moving anything.
//!
//! [`sample`] watches how the guest writes, [`model`] lets the core decide on that over a
//! modelled link, and [`render`] reports the result.

mod model;
mod render;
mod sample;

#[cfg(feature = "terminal")]
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lull_base::duration::{Span, TimeLimit};
use lull_base::exit::{NOT_BEGUN, not_begun};
use lull_base::quantity::Rate;
use lull_base::risk::Risk;
use lull_base::suggest::did_you_mean;
use lull_base::terminal::{to_stderr, to_stdout};
use lull_core::units::{PAGE_SIZE, PageRate};
use lull_store::attempt::outcome::Outcome;
use lull_store::ledger::{self, Known, Ledger, Subject};
use lull_store::limits::Chosen;
use lull_store::runs::{self, Run};
use lull_store::spool::Folder;
use lull_wire::events::{How, Landing, PauseParts};
use lull_xen::host::{self, Guest, Host};

use crate::cli::if_terminal;
use crate::limits;
#[cfg(feature = "terminal")]
use crate::report::plot;
use model::Model;
use render::Prediction;
use sample::NotSampled;

/// The options of `lull predict`.
#[derive(Debug, Args)]
#[command(
    after_help = concat!(
        "The guest runs on, a little slower while it is watched. Limits that are not
given come from /etc/lull.toml, as for `lull migrate`.

Examples:
  lull predict web1 --to host2
  lull predict --max-suspend-time 300ms --bandwidth 10Gbit/s web1
",
        if_terminal!("  lull predict web1 --to host2 --plot web1.svg\n", ""),
        "
Exit codes, as of the migration itself: 0 it would move; 3 refused: the pause
  would not fit; 4 refused: out of time, or not converging; 2 usage, the host is
  not ready, or a migration of the guest runs; 5 cancelled; 7 Xen failed."
    )
)]
pub struct Options {
    /// The guest's name or number
    domain: String,

    /// The destination, for the figures in the ledger and in the newest record
    #[arg(long, value_name = "HOST")]
    to: Option<String>,

    /// The rate of the link, instead of the rate that the newest move there
    /// measured, or the limit in /etc/lull.toml
    #[arg(long, value_name = "RATE")]
    bandwidth: Option<Rate>,

    /// The longest pause allowed
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    max_suspend_time: Option<TimeLimit>,

    /// The longest time until the pause
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<TimeLimit>,

    /// The share of pauses that the estimate may get wrong, 5% unless said otherwise
    #[arg(long, value_name = "SHARE")]
    risk: Option<Risk>,

    /// How long to watch the guest
    #[arg(
        long = "for",
        value_name = "DURATION",
        default_value = "6s",
        allow_hyphen_values = true
    )]
    span: Span,

    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,

    /// Draw the smallest limit over the bandwidth, too
    #[cfg(feature = "terminal")]
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// The longest time for which a guest is slowed down.
const MAX_DURATION: Span = Span::seconds(600);

/// The rate assumed for an unknown link: 1 Gbit/s, in pages a second.
const ASSUMED_RATE: u64 = 1_000_000_000 / 8 / PAGE_SIZE;

pub fn main(options: &Options) -> ExitCode {
    match predict(options) {
        Ok(code) => code.into(),
        Err(error) => not_begun(&error),
    }
}

/// An error here means that nothing was started.
fn predict(options: &Options) -> anyhow::Result<u8> {
    anyhow::ensure!(
        options.span <= MAX_DURATION,
        "--for {} is too long: no dirty log is watched for more than {MAX_DURATION}",
        options.span
    );
    Host::default().check()?;
    let guest = host::guest(&options.domain)?;
    let (limit, timeout, cap, risk) = limits_of(options, &guest)?;
    let known = known(options, &guest);
    let (rate, rate_from) = link(options, cap.as_ref());
    let sampled = match sample::sample(guest.domid, options.span.as_duration()) {
        Ok(sampled) => sampled,
        Err(why) => return Ok(not_sampled(&guest, &why)),
    };
    let has_history = known.has_history();
    let model = Model::new(&sampled, known, timeout, risk);
    let prediction = Prediction {
        guest: &guest.name,
        to: options.to.as_deref(),
        has_history,
        limit: limit.map(Span::as_micros),
        timeout,
        rate,
        rate_from: &rate_from,
        sampled: &sampled,
        expected: model.expect(rate, limit.map(Span::as_micros)),
        smallest: model.smallest_limit(rate),
        model: &model,
    };
    to_stdout(&match options.json {
        true => prediction.json(),
        false => prediction.text(),
    });
    #[cfg(feature = "terminal")]
    if let Some(file) = &options.plot {
        let drawn = plot::smallest_limits(&prediction.title(), &prediction.curve(), rate, limit);
        let written = drawn.and_then(|svg| {
            std::fs::write(file, svg)
                .map_err(|error| format!("{} cannot be written: {error}", file.display()))
        });
        if let Err(why) = written {
            to_stderr(&format!("lull: {why}"));
            return Ok(NOT_BEGUN);
        }
    }
    Ok(prediction.code())
}

/// The limits on pause and time, the bandwidth cap, and the risk.
type Asked = (Option<Span>, Option<Span>, Option<Chosen<PageRate>>, Risk);

/// The limits from the command line, completed from the limits file.
fn limits_of(options: &Options, guest: &Guest) -> anyhow::Result<Asked> {
    let (limit, timeout) = (options.max_suspend_time, options.timeout);
    let given = |limit: TimeLimit| limit.0;
    let risk = options.risk;
    if let (Some(limit), Some(timeout), Some(_), Some(risk)) =
        (limit, timeout, options.bandwidth, risk)
    {
        return Ok((given(limit), given(timeout), None, risk));
    }
    let file = limits::of_guest(guest)?;
    let of_file = |chosen: &Option<Chosen>| Chosen::limit_of(chosen.as_ref());
    Ok((
        limit.map_or_else(|| of_file(&file.max_suspend_time), given),
        timeout.map_or_else(|| of_file(&file.timeout), given),
        file.bandwidth,
        risk.or(Chosen::limit_of(file.risk.as_ref()))
            .unwrap_or_default(),
    ))
}

fn known(options: &Options, guest: &Guest) -> Known {
    let ledger = Ledger::at(ledger::FILE);
    let warn = |line: &str| to_stderr(&format!("lull: {line}"));
    let subject = Subject::of(&guest.name, guest.domid);
    match &options.to {
        Some(host) => {
            // The guest would land as it did last: fast if it ever did so.
            let of = |landing| ledger.known(host, subject, landing, warn);
            let fast = [Landing::Fast, Landing::FastHandshakeLast];
            let known = fast.map(of).into_iter().find(Known::has_history);
            let known = known.unwrap_or_else(|| of(Landing::Classic));
            let like = ledger.like(host);
            if !known.has_history() && !like.is_empty() {
                warn(&format!(
                    "nothing is known of {host}{}",
                    did_you_mean(&like)
                ));
            }
            known
        }
        None => Known {
            // A part that is usual on the way to one host is not usual on all.
            typical: PauseParts::default(),
            ..ledger.known_wherever(subject, warn)
        },
    }
}

/// The rate in pages a second, and its source. If a link is always capped, no migration
/// learns what it carries.
fn link(options: &Options, cap: Option<&Chosen<PageRate>>) -> (u64, String) {
    if let Some(rate) = options.bandwidth {
        return (rate.pages, "as given".into());
    }
    let seen = options.to.as_deref().and_then(seen_rate);
    let (rate, from) = match seen {
        Some((rate, run)) => (rate, format!("at least, as seen in {run}")),
        None => (
            ASSUMED_RATE,
            "assumed, since no move there is known; --bandwidth says otherwise".into(),
        ),
    };
    match cap.and_then(|cap| Some((cap.limit?, cap))) {
        Some((PageRate(allowed), cap)) if allowed < rate => {
            (allowed, format!("no more is to be sent: {cap}"))
        }
        _ => (rate, from),
    }
}

/// The rate in the newest record of a move to `host`.
fn seen_rate(host: &str) -> Option<(u64, String)> {
    /// The number of records examined.
    const MAX_RECORDS: usize = 64;
    let folder = Folder::at(runs::FOLDER, runs::RETENTION);
    let records = folder.records().into_iter().take(MAX_RECORDS);
    let runs = records.filter_map(|(name, _)| Run::open(&folder.path().join(name)).ok());
    runs.filter(|run| run.destination() == Some(host))
        .find_map(|run| {
            let rate = run
                .rounds
                .iter()
                .rev()
                .find_map(|round| round.transfer_rate)?;
            let pages = rate / PAGE_SIZE;
            (pages > 0).then(|| (pages, run.name.clone()))
        })
}

/// Reports why sampling failed and returns the exit code.
fn not_sampled(guest: &Guest, why: &NotSampled) -> u8 {
    let name = &guest.name;
    let (code, left) = match why {
        NotSampled::NotBegun(_) => (NOT_BEGUN, "Nothing was done."),
        NotSampled::MadeWay => (NOT_BEGUN, "The migration goes on. Try again afterwards."),
        NotSampled::Cancelled => (
            Outcome::Cancelled.code(),
            "Its dirty log is off again, and it runs on.",
        ),
        NotSampled::Failed { .. } => (
            Outcome::SourceFailed.code(),
            "Its dirty log is off again. Is it still there? `xl list` shows it.",
        ),
    };
    to_stderr(&format!("lull: {name} cannot be predicted: {why}.\n{left}"));
    code
}

/// The exit code of a migration that ends this way.
const fn code_of(how: How) -> u8 {
    match how {
        How::StreamComplete => Outcome::Moved.code(),
        How::RefusedDowntime => Outcome::RefusedDowntime.code(),
        How::RefusedTimeout => Outcome::RefusedTimeout.code(),
        How::Cancelled => Outcome::Cancelled.code(),
        How::TargetFailed => Outcome::TargetFailed.code(),
        How::SourceFailed => Outcome::SourceFailed.code(),
    }
}
