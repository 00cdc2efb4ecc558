//! The smallest limit that fits, over the bandwidth, for a guest that was sampled and not
//! moved.

use lull_base::duration::Span;
use lull_core::units::PAGE_SIZE;
use plotters::prelude::*;

use super::axis::{self, room, tick, unit};
use super::colours::{CARD, FAINT, FIRST, LIMIT, OBSERVED, TEXT};
use super::{Drawn, FONT, axes, chart, empty};

/// The width and height of the file in pixels.
const SIZE: (u32, u32) = (960, 560);

pub fn draw(
    svg: &mut String,
    title: &str,
    curve: &[(u64, u64)],
    rate: u64,
    limit: Option<Span>,
) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&CARD)?;
    let panel = root.margin(16, 12, 20, 20);
    let title: String = format!("{title}: the smallest limit that fits")
        .chars()
        .take(90)
        .collect();
    let highest = curve.iter().map(|(_, us)| *us).max();
    let Some(highest) = highest.map(|us| us as f64 / 1e3) else {
        return empty(&panel, &title, "no limit up to an hour would fit");
    };
    let (limit, asked) = axis::limit(limit.map(Span::as_millis), highest);
    let highest = highest.max(limit.unwrap_or(0.0));
    let (scale, unit) = unit(highest);
    let mib = |rate: u64| rate as f64 * PAGE_SIZE as f64 / f64::from(1 << 20);
    let place = |(rate, us): &(u64, u64)| (mib(*rate), *us as f64 / 1e3 / scale);
    let end = curve.last().map_or(1.0, |(rate, _)| mib(*rate));
    let legend = [
        (FIRST, "smallest limit that fits"),
        (OBSERVED, "this link"),
        (LIMIT, asked.as_str()),
    ];
    let top = room(highest / scale);
    let mut chart = chart!(&panel, &title, &legend, 62, 0.0..end, 0.0..top);
    axes!(
        chart,
        "bandwidth (MiB/s)",
        format!("limit on the pause ({unit})"),
        x_labels(8),
        y_labels(7),
        x_label_formatter(&tick),
        y_label_formatter(&tick)
    );
    let points = curve.iter().map(place);
    chart.draw_series(LineSeries::new(points, FIRST.stroke_width(2)))?;
    if let Some(limit) = limit {
        let ends = [(0.0, limit / scale), (end, limit / scale)];
        chart.draw_series(LineSeries::new(ends, LIMIT.stroke_width(2)))?;
    }
    if let Some(this) = curve.iter().find(|(point, _)| *point == rate) {
        chart.draw_series([Circle::new(place(this), 6, OBSERVED.filled())])?;
    }
    root.present()?;
    Ok(())
}
