//! How well the pauses of all moves in this run were foreseen.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Failed;
use serde_json::Value;

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::{MODERATE, World, small};

/// A pause of a guest that moved, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// Usual for such a move; without history nothing is.
    expected: Option<u64>,
    /// At most.
    predicted: u64,
    observed: u64,
}

static PAUSES: Mutex<Vec<Pause>> = Mutex::new(Vec::new());

/// Takes note of an attempt's result.
pub fn note(result: &Value) {
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
        });
    }
}

/// Moves in a row, since only those behind the first have a history.
const MOVES: usize = 3;

/// Moves a guest to and fro, and learns from it.
pub fn with_history(world: &mut World) -> Result<()> {
    // So many moves take a guest of their own: see the world's.
    world.forget_guest();
    let guest = world.guest_like(&small())?;
    guest.set_load(MODERATE)?;
    let plan = Plan::direct().limit(world.pace.scaled(Duration::from_secs(60)));
    for number in 0..MOVES {
        let running = match number {
            0 => plan.start(&world.host, &guest)?,
            _ => plan.start_as_it_is(&world.host, &guest)?,
        };
        let ended = running.finish()?;
        ended.expect(0)?;
        aftermath::check(&world.host, &guest, &ended)?;
    }
    Ok(())
}

/// Tells of all of them.
pub fn tell() -> Result<(), Failed> {
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
    text
}

/// The smallest value that so many percent do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let place = (sorted.len() * percent).div_ceil(100).checked_sub(1)?;
    sorted.get(place).copied()
}
