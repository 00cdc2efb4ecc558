//! Evaluates how well the pauses of all moves in this run were predicted.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Failed;
use serde_json::Value;

use crate::aftermath;
use crate::attempt::{Plan, is};
use crate::world::{MODERATE, World, small};

/// The pause of a guest that moved, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// The usual value for such a move; `None` without history.
    expected: Option<u64>,
    /// The predicted upper bound.
    predicted: u64,
    observed: u64,
    /// The part that the last pages took; `None` where it was too short to measure.
    pages: Option<Pages>,
}

/// The time that the last pages took, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Pages {
    count: u64,
    expected: u64,
    predicted: u64,
    observed: u64,
}

impl Pages {
    /// Below this a difference of one millisecond is a tenth of the value.
    const LEAST_MS: u64 = 10;

    fn of(events: &[Value]) -> Option<Self> {
        let event = |kind| events.iter().rev().find(|event| is(event, kind));
        let (suspended, ended) = (event("suspended")?, event("ended")?);
        let observed = ended["observed"]["pages_ms"].as_u64()?;
        (observed >= Self::LEAST_MS).then_some(Self {
            count: suspended["dirty_pages"].as_u64()?,
            expected: suspended["likely_pages_ms"].as_u64()?,
            predicted: suspended["predicted"]["pages_ms"].as_u64()?,
            observed,
        })
    }
}

static PAUSES: Mutex<Vec<Pause>> = Mutex::new(Vec::new());

/// Records the events of an attempt.
pub fn note(events: &[Value]) {
    let Some(result) = events.last() else {
        return;
    };
    let ms = |name: &str| result[name].as_u64();
    let (Some(predicted), Some(observed)) =
        (ms("predicted_downtime_ms"), ms("observed_downtime_ms"))
    else {
        return;
    };
    if result["outcome"] == "moved"
        && let Ok(mut pauses) = PAUSES.lock()
    {
        pauses.push(Pause {
            expected: ms("expected_downtime_ms"),
            predicted,
            observed,
            pages: Pages::of(events),
        });
    }
}

/// The number of moves in a row by each landing; only those after the first have a history.
const MOVES: usize = 3;

/// Moves a guest to and fro, so that later moves use the history of earlier ones.
pub fn with_history(world: &mut World) -> Result<()> {
    // So many moves need a separate guest; see `MOST_MOVED` in the world.
    world.forget_guest();
    let guest = world.guest_like(&small())?;
    guest.set_load(MODERATE)?;
    let limit = world.pace.scaled(Duration::from_secs(60));
    let classic = Plan::direct().limit(limit);
    let fast = Plan::over_ssh().landing("fast").limit(limit);
    let plans = [&classic, &fast].map(|plan| [plan; MOVES]);
    for (number, plan) in plans.iter().flatten().enumerate() {
        let running = match number {
            0 => plan.start(&world.host, &guest)?,
            _ => plan.start_as_it_is(&world.host, &guest)?,
        };
        let ended = running.finish()?;
        ended.expect(0)?;
        aftermath::check(&world.host, &guest, &ended)?;
    }
    // The next scenario gets a guest that has its memory.
    world.forget_guest();
    Ok(())
}

/// Prints the statistics of all moves.
pub fn print() -> Result<(), Failed> {
    let pauses = PAUSES.lock().map(|pauses| pauses.clone());
    eprint!("{}", in_words(&pauses.unwrap_or_default()));
    Ok(())
}

fn in_words(pauses: &[Pause]) -> String {
    let mut text = String::new();
    let errors = |foreseen: fn(&Pause) -> Option<u64>| {
        let error = |pause: &Pause| {
            let off = foreseen(pause)?.abs_diff(pause.observed) as f64;
            Some(100.0 * off / (pause.observed.max(1) as f64))
        };
        let mut errors: Vec<f64> = pauses.iter().filter_map(error).collect();
        errors.sort_by(f64::total_cmp);
        errors
    };
    for (name, errors) in [
        ("expected", errors(|pause| pause.expected)),
        ("at most", errors(|pause| Some(pause.predicted))),
    ] {
        let _ = match (percentile(&errors, 50), percentile(&errors, 90)) {
            (Some(median), Some(ninetieth)) => writeln!(
                text,
                "|predicted - observed| / observed, {name}: median {median:.0} %, \
                 90th percentile {ninetieth:.0} %, of {} moves",
                errors.len()
            ),
            _ => writeln!(text, "{name}: no move"),
        };
    }
    let over = |pause: &&Pause| pause.observed > pause.predicted;
    let exceeded = pauses.iter().filter(over).count();
    let _ = writeln!(
        text,
        "pauses above their predicted upper bound: {exceeded} of {}",
        pauses.len()
    );
    text.push_str(&of_pages(pauses));
    text
}

fn of_pages(pauses: &[Pause]) -> String {
    let pages: Vec<Pages> = pauses.iter().filter_map(|pause| pause.pages).collect();
    let sorted = |figure: fn(&Pages) -> f64| {
        let mut figures: Vec<f64> = pages.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    };
    let errors = sorted(|p| 100.0 * p.expected.abs_diff(p.observed) as f64 / p.observed as f64);
    let bounds = sorted(|p| p.predicted as f64 / p.observed as f64);
    let Some(((median, ninetieth), bound)) = percentile(&errors, 50)
        .zip(percentile(&errors, 90))
        .zip(percentile(&bounds, 50))
    else {
        return "the last pages: no move in which they took long enough\n".to_owned();
    };
    let held = pages.iter().filter(|p| p.observed <= p.predicted).count();
    let each: Vec<String> = pages
        .iter()
        .map(|p| {
            format!(
                "{}/{}/{} of {}",
                p.expected, p.predicted, p.observed, p.count
            )
        })
        .collect();
    format!(
        "the last pages, of {} moves: expected off by {median:.0} % (median), {ninetieth:.0} % \
         (90th percentile); the bound held in {held}, and was {bound:.2} times the observed time \
         (median); expected/at most/observed, ms: {}\n{}",
        pages.len(),
        each.join(", "),
        spread(&pages)
    )
}

/// How far apart these moves were themselves: the error of a prediction that knew the exact
/// number of pages and the median speed of all these moves, the later ones included.
fn spread(pages: &[Pages]) -> String {
    let mut each_took: Vec<f64> = pages
        .iter()
        .map(|p| p.observed as f64 / p.count.max(1) as f64)
        .collect();
    each_took.sort_by(f64::total_cmp);
    let Some(median_took) = percentile(&each_took, 50) else {
        return String::new();
    };
    let mut errors: Vec<f64> = pages
        .iter()
        .map(|p| {
            let known = median_took * p.count as f64;
            100.0 * (known - p.observed as f64).abs() / p.observed as f64
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    match percentile(&errors, 50).zip(percentile(&errors, 90)) {
        Some((median, ninetieth)) => format!(
            "their median speed, if it had been known: off by {median:.0} % (median), \
             {ninetieth:.0} % (90th percentile)\n"
        ),
        None => String::new(),
    }
}

/// Returns the smallest value that this percentage of the values does not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let place = (sorted.len() * percent).div_ceil(100).checked_sub(1)?;
    sorted.get(place).copied()
}
