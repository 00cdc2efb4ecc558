//! `lull-simulate`: simulates migrations without a host. It is a tool for developers; the
//! models are in the library, the options and the report are here.

mod curves;
mod report;

use std::num::NonZeroU64;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use lull_base::duration::Span;
use lull_base::quantity::{Rate, Size};
use lull_base::risk::Risk;
use lull_base::terminal::to_stdout;
use lull_core::limits::{DowntimeLimit, Timeout};
use lull_core::units::Micros;
use lull_simulator::campaign;
use lull_simulator::draw::{Draw, LinkKind, Mishaps, WriterKind};

/// Migrates modelled guests over modelled links, without a host
#[derive(Debug, Parser)]
#[command(
    name = "lull-simulate",
    version,
    after_help = "What is not given is drawn anew for every attempt, from the seed.

Examples:
  lull-simulate --memory 64GiB --dirty-rate 200MiB/s --working-set 4GiB \\
      --link-rate 10Gbit/s --max-suspend-time 500ms --mishaps none
  lull-simulate --attempts 1000000
  lull-simulate --measures --attempts 3000
  lull-simulate --curves 7 --link stalling

Exit codes: 0 simulated; 1 a guest was paused longer than its limit; 2 wrong
  usage."
)]
struct Options {
    /// The guest's memory
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// How much the guest writes, on average
    #[arg(long, value_name = "RATE")]
    dirty_rate: Option<Rate>,

    /// Over how much memory
    #[arg(long, value_name = "SIZE")]
    working_set: Option<Size>,

    /// What the link carries, on average
    #[arg(long, value_name = "RATE")]
    link_rate: Option<Rate>,

    /// How the guest writes
    #[arg(long)]
    writer: Option<Writer>,

    /// What the link does
    #[arg(long)]
    link: Option<Link>,

    /// Whether anything goes wrong besides: a slow guest or destination, a
    /// stub that hangs, an operator who cancels
    #[arg(long, default_value = "some")]
    mishaps: Trouble,

    /// The longest pause allowed
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    max_suspend_time: Option<Span>,

    /// The longest time until the pause
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<Span>,

    /// The share of pauses that the estimate may get wrong
    #[arg(long, default_value_t, value_name = "SHARE")]
    risk: Risk,

    /// How many migrations to simulate
    #[arg(long, default_value = "10000", value_name = "NUMBER")]
    attempts: NonZeroU64,

    /// The same seed gives the same attempts
    #[arg(long, default_value = "1", value_name = "NUMBER")]
    seed: u64,

    /// Show what the estimate knew in the end, of the attempt of this number
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["json", "measures"])]
    curves: Option<u64>,

    /// Compare the estimate with an oracle that knows the future, by kind of link
    #[arg(long, conflicts_with = "json")]
    measures: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Writer {
    Steady,
    Bursty,
    Oscillating,
    PhaseChanging,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Link {
    Constant,
    Jittery,
    Distant,
    Stalling,
    Shared,
    Collapsing,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Trouble {
    None,
    Some,
}

/// Exit code if a pause exceeded its limit.
const BROKEN: u8 = 1;

fn main() -> ExitCode {
    let options = Options::parse();
    let attempts = options.attempts.get();
    if let Some(number) = options.curves {
        to_stdout(&curves::of(&options.draw().scenario(number).scenario));
        return ExitCode::SUCCESS;
    }
    if options.measures {
        to_stdout(&report::measures(options.seed, attempts));
        return ExitCode::SUCCESS;
    }
    let results = campaign::run(&options.draw(), attempts);
    if options.json {
        to_stdout(&report::json(&results, options.seed));
    } else {
        to_stdout(report::text(&results, options.seed).trim_end());
    }
    match results.total().over_limit {
        0 => ExitCode::SUCCESS,
        _ => BROKEN.into(),
    }
}

impl Options {
    fn draw(&self) -> Draw {
        let micros = |span: Option<Span>| span.map(|span| Micros(span.as_micros()));
        Draw {
            seed: self.seed,
            guest_pages: self.memory.map(|size| size.pages),
            dirty_rate: self.dirty_rate.map(|rate| rate.pages),
            working_set: self.working_set.map(|size| size.pages),
            link_rate: self.link_rate.map(|rate| rate.pages),
            writer: self.writer.map(|writer| match writer {
                Writer::Steady => WriterKind::Steady,
                Writer::Bursty => WriterKind::Bursty,
                Writer::Oscillating => WriterKind::Oscillating,
                Writer::PhaseChanging => WriterKind::PhaseChanging,
            }),
            link: self.link.map(|link| match link {
                Link::Constant => LinkKind::Constant,
                Link::Jittery => LinkKind::Jittery,
                Link::Distant => LinkKind::Distant,
                Link::Stalling => LinkKind::Stalling,
                Link::Shared => LinkKind::Shared,
                Link::Collapsing => LinkKind::Collapsing,
            }),
            max_suspend: micros(self.max_suspend_time).and_then(DowntimeLimit::new),
            timeout: micros(self.timeout).and_then(Timeout::new),
            mishaps: match self.mishaps {
                Trouble::None => Mishaps::None,
                Trouble::Some => Mishaps::Some,
            },
            risk: self.risk.0,
        }
    }
}
