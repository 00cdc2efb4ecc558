//! Pages sent and dirtied in each round.

use lull_store::runs::Run;
use plotters::prelude::*;

use super::axis::count;
use super::colours::{FAINT, FIRST, SECOND, TEXT};
use super::{Area, Drawn, FONT, axes, chart, empty};

const LEGEND: [(RGBColor, &str); 2] = [(FIRST, "sent"), (SECOND, "dirtied meanwhile")];
const TITLE: &str = "Pages sent and dirtied, by round";

pub fn draw(panel: &Area<'_>, run: &Run) -> Drawn {
    let rounds = &run.rounds;
    if rounds.is_empty() {
        return empty(panel, TITLE, "no round ended: nothing to show");
    }
    let most = rounds
        .iter()
        .map(|round| round.pages_sent.max(round.pages_dirtied))
        .fold(10, u64::max) as f64;
    // Rounds shrink by factors, so only a logarithmic scale also shows the last ones.
    let pages = (1.0..most * 1.6).log_scale();
    let numbers = -0.5..rounds.len() as f64 - 0.5;
    let mut chart = chart!(panel, TITLE, &LEGEND, 62, numbers, pages);
    let ticks = rounds.len().min(16);
    let number = |at: &f64| match (at - at.round()).abs() < 1e-6 {
        true => format!("{at:.0}"),
        false => String::new(),
    };
    axes!(
        chart,
        "round (0 is the full pass)",
        "pages (logarithmic)",
        disable_x_mesh(),
        x_labels(ticks),
        x_label_formatter(&number),
        y_label_formatter(&count)
    );
    let bars = |from: f64, pages: fn(&lull_wire::events::Round) -> u64, colour: RGBColor| {
        let bar = move |(at, round): (usize, &lull_wire::events::Round)| {
            let left = at as f64 + from;
            let top = (pages(round) as f64).max(1.0);
            Rectangle::new([(left, 1.0), (left + 0.36, top)], colour.filled())
        };
        rounds.iter().enumerate().map(bar).collect::<Vec<_>>()
    };
    chart.draw_series(bars(-0.38, |round| round.pages_sent, FIRST))?;
    chart.draw_series(bars(0.02, |round| round.pages_dirtied, SECOND))?;
    Ok(())
}
