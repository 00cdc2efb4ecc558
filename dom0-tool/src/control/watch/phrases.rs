//! What a migration has come to, in words, for the screen and for lines.

use lull_base::fmt::{Millis, Seconds, or_dash};
use lull_wire::control::Status;

/// The predicted pause, in milliseconds.
pub fn predicted_pause(status: &Status) -> Option<u64> {
    status.progress.as_ref()?.predicted_downtime_ms
}

/// Whether the value is above its limit.
pub fn is_over(value: Option<u64>, most: Option<u64>) -> bool {
    value.zip(most).is_some_and(|(value, most)| value > most)
}

/// The predicted pause and its limit.
pub fn pause(status: &Status) -> String {
    let value = predicted_pause(status);
    let words = or_dash(value.map(Millis));
    let words = match status.limit_ms {
        Some(limit) => format!("{words} of {}", Millis(limit)),
        None => format!("{words} predicted, no limit"),
    };
    judged(words, is_over(value, status.limit_ms))
}

/// The time since the start and the timeout.
pub fn time(status: &Status, at_ms: u64) -> String {
    let words = match status.timeout_ms {
        Some(timeout) => format!("{} of {}", Seconds(at_ms), Millis(timeout)),
        None => format!("{}, no timeout", Seconds(at_ms)),
    };
    judged(words, is_over(Some(at_ms), status.timeout_ms))
}

fn judged(words: String, over: bool) -> String {
    if over { words + ", over" } else { words }
}

/// The last decision, and the prediction behind it.
pub fn decided(status: &Status) -> Option<String> {
    let round = status.rounds.back()?;
    let decision = round.decision.replace('-', " ");
    let mut words = format!("round {}: {decision}", round.round);
    if let Some(predicted) = round.predicted_downtime_ms {
        words.push_str(&format!(", pause {}", Millis(predicted)));
    }
    Some(words)
}
