//! Predicted against observed pauses, over all pauses in the ledger.

use lull_store::ledger::Foreseen;
use lull_store::runs::Run;
use plotters::prelude::*;

use super::axis::{room, tick, unit};
use super::colours::{BEHIND, FAINT, FIRST, OBSERVED, TEXT};
use super::{Area, Drawn, FONT, axes, chart, empty};

const LEGEND: [(RGBColor, &str); 4] = [
    (OBSERVED, "this attempt"),
    (FIRST, "this guest"),
    (BEHIND, "others"),
    (TEXT, "none should be above this line"),
];
const TITLE: &str = "Predicted and observed, over the ledger";

pub fn draw(panel: &Area<'_>, run: &Run, ledger: &[Foreseen]) -> Drawn {
    let this = run.predicted_ms().zip(run.observed_ms());
    let all = ledger
        .iter()
        .map(|seen| (seen.predicted_ms, seen.observed_ms));
    let highest = all.chain(this).map(|(a, b)| a.max(b)).max();
    let Some(highest) = highest.map(|ms| ms as f64) else {
        return empty(panel, TITLE, "no pause was both predicted and observed yet");
    };
    let (scale, unit) = unit(highest);
    let top = room(highest / scale);
    let place =
        |(predicted, observed): (u64, u64)| (predicted as f64 / scale, observed as f64 / scale);
    let mut chart = chart!(panel, TITLE, &LEGEND, 62, 0.0..top, 0.0..top);
    axes!(
        chart,
        format!("predicted, at most ({unit})"),
        format!("observed ({unit})"),
        x_labels(8),
        y_labels(7),
        x_label_formatter(&tick),
        y_label_formatter(&tick)
    );
    chart.draw_series(LineSeries::new(
        [(0.0, 0.0), (top, top)],
        TEXT.stroke_width(1),
    ))?;
    for own in [false, true] {
        let colour = if own { FIRST } else { BEHIND };
        let points = ledger
            .iter()
            .filter(|seen| (seen.guest.as_deref() == Some(run.guest())) == own)
            .map(|seen| place((seen.predicted_ms, seen.observed_ms)))
            .map(|point| Circle::new(point, 5, colour.filled()));
        chart.draw_series(points)?;
    }
    if let Some(this) = this {
        chart.draw_series([TriangleMarker::new(place(this), 8, OBSERVED.filled())])?;
    }
    Ok(())
}
