//! What would have made a refused attempt pass.

use lull_base::fmt::Bytes;
use lull_wire::events::Ended;

/// The limit or the link rate at which a refused attempt would have passed.
pub fn what_would_do(ended: &Ended) -> Option<String> {
    let limit = ended.smallest_limit_ms.map(limit_option);
    let rate = ended
        .needed_rate
        .map(|rate| format!("a link that carries {}/s", Bytes(rate)));
    let would_do: Vec<_> = limit.into_iter().chain(rate).collect();
    (!would_do.is_empty()).then(|| format!("It would have fitted with {}.", would_do.join(", or ")))
}

/// The option for a limit of at least `ms` milliseconds, in whole seconds where that is
/// precise enough.
pub fn limit_option(ms: u64) -> String {
    match ms {
        ..10_000 => format!("`--max-suspend-time {ms}ms`"),
        _ => format!("`--max-suspend-time {}s`", ms.div_ceil(1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::limit_option;

    #[test]
    fn a_limit_to_type_is_never_below_what_is_needed() {
        for (ms, typed) in [(9_999, "9999ms"), (10_000, "10s"), (122_066, "123s")] {
            assert_eq!(limit_option(ms), format!("`--max-suspend-time {typed}`"));
        }
    }
}
