//! The pause as a waterfall chart of its parts, observed on top of predicted.

use lull_store::runs::Run;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use super::axis::{self, room, tick, unit};
use super::colours::{BEHIND, FAINT, LIMIT, OBSERVED, TEXT};
use super::{Area, Drawn, FONT, axes, chart, empty};
use crate::migrate::tables::named;

const TITLE: &str = "The pause, part after part";

/// One part: its name, and its predicted and observed start and end.
struct Part {
    name: &'static str,
    predicted: Option<(f64, f64)>,
    observed: Option<(f64, f64)>,
}

pub fn draw(panel: &Area<'_>, run: &Run) -> Drawn {
    let parts = parts(run);
    if parts.is_empty() {
        return empty(panel, TITLE, "the guest was never paused");
    }
    let ends = parts
        .iter()
        .flat_map(|part| [part.predicted, part.observed]);
    let highest = ends.flatten().map(|(_, end)| end).fold(0.0, f64::max);
    let (limit, allowed) = axis::limit(run.limit_ms(), highest);
    let highest = highest.max(limit.unwrap_or(0.0));
    let (scale, unit) = unit(highest);
    let count = parts.len() as i32;
    let legend = [
        (BEHIND, "predicted, at most"),
        (OBSERVED, "observed"),
        (LIMIT, allowed.as_str()),
    ];
    let row = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(at) => {
            let part = usize::try_from(count - 1 - at).ok();
            let part = part.and_then(|part| parts.get(part));
            part.map_or_else(String::new, |part| part.name.to_owned())
        }
        _ => String::new(),
    };
    let mut chart = chart!(
        panel,
        TITLE,
        &legend,
        96,
        0.0..room(highest / scale),
        (0..count - 1).into_segmented()
    );
    axes!(
        chart,
        format!("time since the request to suspend ({unit})"),
        "",
        disable_y_mesh(),
        x_labels(8),
        y_labels(parts.len()),
        x_label_formatter(&tick),
        y_label_formatter(&row)
    );
    let bars = |times: fn(&Part) -> Option<(f64, f64)>, margin, colour: RGBColor| {
        let bar = |(at, part): (usize, &Part)| {
            let (from, to) = times(part)?;
            let row = count - 1 - at as i32;
            let (low, high) = (SegmentValue::Exact(row), SegmentValue::Exact(row + 1));
            let corners = [(from / scale, low), (to / scale, high)];
            let mut bar = Rectangle::new(corners, colour.filled());
            bar.set_margin(margin, margin, 0, 0);
            Some(bar)
        };
        parts.iter().enumerate().filter_map(bar).collect::<Vec<_>>()
    };
    chart.draw_series(bars(|part| part.predicted, 6, BEHIND))?;
    chart.draw_series(bars(|part| part.observed, 14, OBSERVED))?;
    if let Some(limit) = limit {
        let ends = [SegmentValue::Exact(0), SegmentValue::Exact(count)];
        let ends = ends.map(|end| (limit / scale, end));
        chart.draw_series(LineSeries::new(ends, LIMIT.stroke_width(2)))?;
    }
    Ok(())
}

/// The parts; each begins where the previous one ended.
fn parts(run: &Run) -> Vec<Part> {
    let Some(suspended) = &run.observed.suspended else {
        return Vec::new();
    };
    let observed = run.observed.observed_parts().unwrap_or_default();
    let (mut predicted_at, mut observed_at) = (0.0, 0.0);
    let follow = |at: &mut f64, ms: Option<u64>| {
        let from = *at;
        *at += ms? as f64;
        Some((from, *at))
    };
    named(&suspended.predicted)
        .zip(named(&observed))
        .map(|((name, predicted), (_, observed))| Part {
            name,
            predicted: follow(&mut predicted_at, predicted),
            observed: follow(&mut observed_at, observed),
        })
        .collect()
}
