//! Draws the live view: a panel for each migration, one below the other. Its rounds are in
//! the lines that a pipe gets, and in `lull report`.

use lull_base::fmt::{Bytes, or_dash};
use lull_core::units::PAGE_SIZE;
use lull_wire::control::Status;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Paragraph, Wrap};

use super::View;
use super::phrases::{is_over, pause, predicted_pause, time};
use crate::control::show::{cap_in_words, doing};

/// The rows of a panel.
const ROWS: u16 = 5;

/// The silence of a helper, in seconds, from which the view mentions it. A helper that
/// copies reports several times a second.
const SILENCE_SECONDS: u64 = 5;

/// Whether the view uses colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// The terminal's colours are used.
    On,
    /// The operator wants no colours.
    Off,
}

impl Colours {
    /// The choice that `NO_COLOR` makes.
    pub fn wanted() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(no) if !no.is_empty() => Self::Off,
            _ => Self::On,
        }
    }

    /// The style with this foreground colour, or the plain style.
    pub fn style(self, colour: Color) -> Style {
        match self {
            Self::On => Style::new().fg(colour),
            Self::Off => Style::new(),
        }
    }
}

pub fn all(frame: &mut Frame<'_>, views: &[View<'_>], left_out: usize, colours: Colours) {
    let [body, foot] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let room = ((body.height + 1) / (ROWS + 1)).max(1);
    let shown = &views[..views.len().min(usize::from(room))];
    let panels = Layout::vertical(shown.iter().map(|_| Constraint::Fill(1))).spacing(1);
    for (view, area) in shown.iter().zip(panels.split(body).iter()) {
        panel(frame, *area, view, colours);
    }
    let hidden = views.len() - shown.len() + left_out;
    let hint = match hidden {
        0 => "q leaves, the migration goes on".to_owned(),
        hidden => format!("q leaves, they go on; {hidden} more not shown"),
    };
    frame.render_widget(Line::from(hint).style(Modifier::DIM), foot);
}

fn panel(frame: &mut Frame<'_>, area: Rect, view: &View<'_>, colours: Colours) {
    const ROW: Constraint = Constraint::Length(1);
    let [title, pause_row, time_row, round_row, rest] =
        Layout::vertical([ROW, ROW, ROW, ROW, Constraint::Fill(1)]).areas(area);
    let Some(status) = view.status else {
        let said = view
            .last
            .map_or("waiting for its helper", |last| &last.said);
        frame.render_widget(heading(view, said, colours), title);
        return;
    };
    // Once the outcome is known, the helper's last phase no longer tells where the guest
    // is.
    let doing = view
        .last
        .map_or_else(|| doing(status), |_| "over".to_owned());
    frame.render_widget(heading(view, &doing, colours), title);
    gauge(frame, pause_row, "pause", &pause_measure(status), colours);
    let time = time_measure(status, view.at_ms);
    gauge(frame, time_row, "time", &time, colours);
    gauge(frame, round_row, "round", &round(status), colours);
    // The outcome may need several lines, and the rates no longer matter.
    match view.last {
        Some(last) => {
            let text = Paragraph::new(last.said.as_str()).wrap(Wrap { trim: true });
            frame.render_widget(text.style(Modifier::BOLD), rest);
        }
        None => frame.render_widget(row("rates", rates_words(status, area.width)), rest),
    }
}

fn heading<'a>(view: &View<'a>, doing: &str, colours: Colours) -> Line<'a> {
    let mut spans = vec![Span::styled(view.title, Modifier::BOLD), Span::raw(": ")];
    let silent = view.silent.as_secs();
    if silent >= SILENCE_SECONDS {
        let said = format!("helper silent for {silent} s; ");
        spans.push(Span::styled(said, colours.style(Color::Yellow)));
    }
    spans.push(Span::raw(doing.to_owned()));
    Line::from(spans)
}

fn row(what: &str, how: String) -> Line<'static> {
    Line::from(format!("{what:<6} {how}"))
}

/// A value against its limit.
struct Measure {
    ratio: Option<f64>,
    over: bool,
    /// The value and its limit in words.
    words: String,
}

impl Measure {
    fn of(value: Option<u64>, most: Option<u64>, words: String) -> Self {
        let ratio = |(value, most): (u64, u64)| (value as f64 / most.max(1) as f64).min(1.0);
        Self {
            ratio: value.zip(most).map(ratio),
            over: is_over(value, most),
            words,
        }
    }
}

fn pause_measure(status: &Status) -> Measure {
    Measure::of(predicted_pause(status), status.limit_ms, pause(status))
}

fn time_measure(status: &Status, at_ms: u64) -> Measure {
    Measure::of(Some(at_ms), status.timeout_ms, time(status, at_ms))
}

fn round(status: &Status) -> Measure {
    match &status.progress {
        Some(progress) => {
            let (sent, all) = (progress.round_sent, progress.round_pages);
            let words = format!("{} of {}", pages(sent), pages(all));
            Measure::of(Some(sent.min(all)), Some(all), words)
        }
        None => Measure::of(None, None, or_dash::<u64>(None)),
    }
}

fn rates_words(status: &Status, width: u16) -> String {
    let progress = status.progress.as_ref();
    let link = progress.and_then(|p| p.transfer_rate).map(Bytes);
    let dirty = progress.and_then(|p| p.dirty_rate).map(pages);
    let rate =
        |rate: Option<Bytes>| rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate}/s"));
    let (link, dirty) = (rate(link), rate(dirty));
    let cap = cap_in_words(status);
    if width < 60 {
        format!("link {link}, dirty {dirty}{cap}")
    } else {
        format!("link {link} at least, dirty {dirty} at most{cap}")
    }
}

fn pages(count: u64) -> Bytes {
    Bytes(count.saturating_mul(PAGE_SIZE))
}

/// A bar with its words to the right. Only the words where there is no limit to compare
/// with.
fn gauge(frame: &mut Frame<'_>, area: Rect, what: &str, measure: &Measure, colours: Colours) {
    const WORDS: u16 = 28;
    const MAX_BAR_COLUMNS: u16 = 80;
    let Some(ratio) = measure.ratio else {
        return frame.render_widget(row(what, measure.words.clone()), area);
    };
    let style = match measure.over {
        true => colours.style(Color::Red),
        false => colours.style(Color::Green),
    };
    let bar = area.width.saturating_sub(WORDS + 1).min(MAX_BAR_COLUMNS);
    let [bar, words] = Layout::horizontal([Constraint::Length(bar), Constraint::Fill(1)])
        .spacing(1)
        .areas(area);
    let gauge = LineGauge::default()
        .ratio(ratio)
        .label(format!("{what:<6}"))
        .filled_symbol("█")
        .unfilled_symbol("░")
        .filled_style(style)
        .unfilled_style(colours.style(Color::DarkGray));
    frame.render_widget(gauge, bar);
    let words_style = if measure.over { style } else { Style::new() };
    frame.render_widget(Line::from(measure.words.as_str()).style(words_style), words);
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
