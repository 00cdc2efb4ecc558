//! A record as one SVG file of four panels.
//!
//! The panels are drawn on a background of their own, each with a legend above it. A style
//! in the file exchanges the colours where the viewer prefers dark ones ([`colours`]).

mod axis;
mod colours;
mod foresight;
mod pause;
mod prediction;
mod rounds;
mod smallest;

use std::error::Error;

use lull_base::duration::Span;
use lull_store::ledger::Foreseen;
use lull_store::runs::Run;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::text;
use colours::{CARD, FAINT, TEXT, with_dark};

/// The width and height of the file in pixels.
const SIZE: (u32, u32) = (1_280, 960);
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// Draws the file.
///
/// # Errors
/// If the library cannot draw it.
pub fn of(run: &Run, ledger: &[Foreseen]) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, run, ledger).map_err(|error| format!("the plot cannot be drawn: {error}"))?;
    Ok(with_dark(&svg))
}

/// Draws the smallest limit that fits, in µs, over the bandwidth, in pages a second, with
/// the link's own bandwidth and the limit asked for.
///
/// # Errors
/// If the library cannot draw it.
pub fn smallest_limits(
    title: &str,
    curve: &[(u64, u64)],
    rate: u64,
    limit: Option<Span>,
) -> Result<String, String> {
    let mut svg = String::new();
    smallest::draw(&mut svg, title, curve, rate, limit)
        .map_err(|error| format!("the plot cannot be drawn: {error}"))?;
    Ok(with_dark(&svg))
}

fn draw(svg: &mut String, run: &Run, ledger: &[Foreseen]) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&CARD)?;
    let root = root.margin(16, 12, 20, 20);
    let (title, panels) = root.split_vertically(64);
    let words = |size, colour: &RGBColor| (FONT, size).into_font().color(colour);
    let heading: String = text::whose(run).chars().take(100).collect();
    title.draw_text(&heading, &words(22, &TEXT), (8, 4))?;
    title.draw_text(&text::outcome(run), &words(16, &TEXT), (8, 36))?;
    let panels = panels.split_evenly((2, 2));
    let [one, two, three, four] = panels.as_slice() else {
        return Ok(());
    };
    rounds::draw(one, run)?;
    prediction::draw(two, run)?;
    pause::draw(three, run)?;
    foresight::draw(four, run, ledger)?;
    root.present()?;
    Ok(())
}

/// Draws a panel's title and the legend of its colours.
fn caption(panel: &Area<'_>, title: &str, legend: &[(RGBColor, &str)]) -> Drawn {
    let words = |size| (FONT, size).into_font().color(&TEXT);
    panel.draw_text(title, &words(18), (12, 6))?;
    let mut left = 12;
    for (colour, label) in legend {
        panel.draw(&Rectangle::new(
            [(left, 34), (left + 12, 46)],
            colour.filled(),
        ))?;
        panel.draw_text(label, &words(13), (left + 18, 33))?;
        // No font is available to measure the text: the width is enough for any.
        left += 42 + label.len() as i32 * 7;
    }
    Ok(())
}

/// Draws an empty panel that says why there is nothing to show.
fn empty(panel: &Area<'_>, title: &str, why: &str) -> Drawn {
    caption(panel, title, &[])?;
    let (width, height) = panel.dim_in_pixel();
    let (right, bottom) = (width as i32 - 14, height as i32 - 14);
    let frame = Rectangle::new([(12, 44), (right, bottom)], FAINT.stroke_width(1));
    panel.draw(&frame)?;
    let style = (FONT, 15)
        .into_font()
        .color(&TEXT)
        .pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Center,
        ));
    panel.draw_text(
        why,
        &style,
        (i32::midpoint(12, right), i32::midpoint(44, bottom)),
    )?;
    Ok(())
}

/// Creates a chart below the title, with its axes and their units. This is a macro because
/// the chart's type names that of every axis.
macro_rules! chart {
    ($panel:expr, $title:expr, $legend:expr, $left:expr, $x:expr, $y:expr) => {{
        crate::report::plot::caption($panel, $title, $legend)?;
        ChartBuilder::on($panel)
            .margin_top(58)
            .margin_right(24)
            .margin_bottom(10)
            .margin_left(8)
            .x_label_area_size(44)
            .y_label_area_size($left)
            .build_cartesian_2d($x, $y)?
    }};
}

/// Draws grid, ticks and names of the axes.
macro_rules! axes {
    ($chart:expr, $x:expr, $y:expr $(, $more:ident($($value:expr)?))*) => {
        $chart
            .configure_mesh()
            .axis_style(TEXT)
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 13).into_font().color(&TEXT))
            .axis_desc_style((FONT, 14).into_font().color(&TEXT))
            .x_desc($x)
            .y_desc($y)
            $(.$more($($value)?))*
            .draw()?
    };
}

use {axes, chart};
