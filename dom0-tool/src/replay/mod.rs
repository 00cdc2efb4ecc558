//! `lull replay`: runs a trace through the same core again.
//!
//! Under the recorded limits every decision must be the same, to the last figure. Under
//! other limits, or for a trace from the first edition of the estimate, the command reports
//! what would have been decided instead, as far as the trace allows: after a different
//! decision, the events would have been different too.

mod reader;
mod rerun;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lull_base::duration::Span;
use lull_base::exit::NOT_BEGUN;
use lull_base::risk::Risk;
use lull_base::terminal::{to_stderr, to_stdout};
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::units::Micros;

use reader::Reader;
use rerun::{Outcome, Rerun};

/// The options of `lull replay`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull replay /var/lib/lull/traces/2026-11-23T15-34-44Z-7.jsonl
  lull replay --max-suspend-time 2s /var/lib/lull/traces/2026-11-23T15-34-44Z-7.jsonl

Exit codes: 0 replayed; 1 a decision came out differently under the same
  limits; 2 wrong usage, or no trace that this version can read.")]
pub struct Options {
    /// Decide under this limit instead
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    max_suspend_time: Option<Span>,

    /// And this timeout
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<Span>,

    /// And at this risk
    #[arg(long, value_name = "SHARE")]
    risk: Option<Risk>,

    /// A file from /var/lib/lull/traces
    trace: PathBuf,
}

/// Exit code if a decision differs.
const DIFFERENT: u8 = 1;

pub fn main(options: &Options) -> ExitCode {
    let wanted = Limits {
        max_suspend: micros(options.max_suspend_time).and_then(DowntimeLimit::new),
        timeout: micros(options.timeout).and_then(Timeout::new),
    };
    let replayed = Reader::open(&options.trace)
        .and_then(|reader| Rerun::new(reader, wanted, options.risk)?.run());
    match replayed {
        Ok(outcome) => {
            to_stdout(outcome.to_string().trim_end());
            match outcome {
                Outcome::Different { .. } => DIFFERENT.into(),
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            to_stderr(&format!("lull: {}: {error}", options.trace.display()));
            NOT_BEGUN.into()
        }
    }
}

fn micros(span: Option<Span>) -> Option<Micros> {
    span.map(|span| Micros(span.as_micros()))
}
