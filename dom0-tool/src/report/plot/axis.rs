//! The scales, ticks and units of the axes.

use lull_base::fmt::Millis;

/// The end of an axis: above the largest value, so that it does not touch the frame; never
/// zero.
pub fn room(largest: f64) -> f64 {
    (largest * 1.12).max(1.0)
}

/// The limit, if it can be drawn without squeezing everything else into a corner, and its
/// entry in the legend.
pub fn limit(limit_ms: Option<u64>, highest_ms: f64) -> (Option<f64>, String) {
    let far = |limit: f64| limit > 3.0 * highest_ms;
    match limit_ms {
        None => (None, "no limit".to_owned()),
        Some(ms) if far(ms as f64) => (None, format!("limit: {}, far beyond", Millis(ms))),
        Some(ms) => (Some(ms as f64), "limit".to_owned()),
    }
}

/// The unit of an axis, seconds if milliseconds would have too many digits: the divisor and
/// the unit's name.
pub fn unit(largest_ms: f64) -> (f64, &'static str) {
    match largest_ms {
        ..5_000.0 => (1.0, "ms"),
        _ => (1_000.0, "s"),
    }
}

/// The label of a tick, without trailing zeros.
pub fn tick(value: &f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The label of a tick of a count: `12k`, `3M`.
pub fn count(value: &f64) -> String {
    match value.round() as u64 {
        pages @ 0..1_000 => pages.to_string(),
        pages @ 1_000..1_000_000 => format!("{}k", tick(&(pages as f64 / 1e3))),
        pages @ 1_000_000..1_000_000_000 => format!("{}M", tick(&(pages as f64 / 1e6))),
        pages => format!("{}G", tick(&(pages as f64 / 1e9))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        assert_eq!(tick(&0.0), "0");
        assert_eq!(tick(&0.25), "0.25");
        assert_eq!(tick(&2.5), "2.5");
        assert_eq!(tick(&125.0), "125");
        assert_eq!(count(&999.0), "999");
        assert_eq!(count(&10_000.0), "10k");
        assert_eq!(count(&2_500_000.0), "2.5M");
    }
}
