//! The pause predicted while the guest ran, against the limit.

use std::cmp::Ordering;

use lull_store::runs::Run;
use plotters::prelude::*;

use super::axis::{self, room, tick, unit};
use super::colours::{FAINT, FIRST, LIMIT, OBSERVED, SECOND, TEXT};
use super::{Area, Drawn, FONT, axes, chart, empty};

const TITLE: &str = "Predicted pause over time";

/// The height of the axis in multiples of the limit; early predictions may be far above.
const LIMITS: f64 = 10.0;

pub fn draw(panel: &Area<'_>, run: &Run) -> Drawn {
    let progress = run.progress.iter();
    let rounds = run.rounds.iter();
    let at_ends = points(rounds.clone().map(|r| (r.at_ms, r.predicted_downtime_ms)));
    let mut line = points(progress.clone().map(|p| (p.at_ms, p.predicted_downtime_ms)));
    line.extend(&at_ends);
    line.sort_by(by_time);
    let mut expected = points(progress.map(|p| (p.at_ms, p.expected_downtime_ms)));
    expected.extend(points(rounds.map(|r| (r.at_ms, r.expected_downtime_ms))));
    expected.sort_by(by_time);
    let Some((last, _)) = line.last().copied() else {
        return empty(
            panel,
            TITLE,
            "nothing was predicted: refused or ended before the first count",
        );
    };
    let observed = run.observed_ms().map(|ms| ms as f64);
    let highest = line.iter().map(|(_, ms)| *ms).fold(0.0, f64::max);
    let (limit, allowed) = axis::limit(run.limit_ms(), highest.max(observed.unwrap_or(0.0)));
    let cap = limit.map_or(f64::MAX, |limit| limit * LIMITS);
    let highest = highest.min(cap).max(limit.unwrap_or(0.0));
    let highest = highest.max(observed.unwrap_or(0.0));
    let (scale, unit) = unit(highest);
    let top = room(highest / scale);
    let legend: Vec<_> = [
        Some((FIRST, "predicted, at most")),
        (!expected.is_empty()).then_some((SECOND, "expected")),
        Some((LIMIT, allowed.as_str())),
        observed.map(|_| (OBSERVED, "observed")),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Points beyond the axis are shown at its edge.
    let place = |(at, ms): (f64, f64)| (at, (ms / scale).min(top));
    let span = 0.0..(last * 1.12).max(0.1);
    let end = span.end;
    let mut chart = chart!(panel, TITLE, &legend, 62, span, 0.0..top);
    axes!(
        chart,
        "time since the start (s); dots are the ends of rounds",
        format!("pause ({unit})"),
        x_labels(8),
        y_labels(7),
        x_label_formatter(&tick),
        y_label_formatter(&tick)
    );
    for (line, colour) in [(expected, SECOND), (line, FIRST)] {
        let points = line.into_iter().map(place);
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    chart.draw_series(
        at_ends
            .into_iter()
            .map(|point| Circle::new(place(point), 4, FIRST.filled())),
    )?;
    if let Some(limit) = limit {
        let ends = [(0.0, limit / scale), (end, limit / scale)];
        chart.draw_series(LineSeries::new(ends, LIMIT.stroke_width(2)))?;
    }
    if let Some(observed) = observed {
        let point = (last, observed / scale);
        chart.draw_series([TriangleMarker::new(point, 8, OBSERVED.filled())])?;
    }
    Ok(())
}

/// The recorded points as seconds and milliseconds.
fn points(pairs: impl Iterator<Item = (u64, Option<u64>)>) -> Vec<(f64, f64)> {
    pairs
        .filter_map(|(at, ms)| Some((at as f64 / 1e3, ms? as f64)))
        .collect()
}

fn by_time((a, _): &(f64, f64), (b, _): &(f64, f64)) -> Ordering {
    a.total_cmp(b)
}
