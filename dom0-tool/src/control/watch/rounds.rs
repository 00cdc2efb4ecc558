//! Draws the rounds: the pages that each sent, and those that the guest dirtied meanwhile.

use lull_base::fmt::{Count, Millis};
use lull_wire::control::{Phase, Status};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::draw::Colours;

/// The widths of the columns before and between the bars.
const NUMBER: u16 = 5;
const PAGES: u16 = 10;

/// The width from which three more columns fit.
const WIDE: u16 = 110;

/// A round that has ended, or the current one.
struct Row {
    round: u32,
    sent: u64,
    dirtied: Option<u64>,
    took: Option<u64>,
    pause: Option<u64>,
    decision: String,
}

/// Draws as many of the last rounds as fit, with the newest at the bottom.
pub fn table(frame: &mut Frame<'_>, area: Rect, status: &Status, colours: Colours) {
    let rows = rows(status);
    if area.height < 2 || rows.is_empty() {
        return;
    }
    let fit = rows.len().min(usize::from(area.height) - 1);
    let rows = &rows[rows.len() - fit..];
    let scale = scale(rows);
    let lines = Layout::vertical(vec![Constraint::Length(1); fit + 1]).split(area);
    head(frame, lines[0], colours);
    for (row, area) in rows.iter().zip(lines.iter().skip(1)) {
        draw(frame, *area, row, scale, colours);
    }
}

fn rows(status: &Status) -> Vec<Row> {
    let ended = status.rounds.iter().map(|round| Row {
        round: round.round,
        sent: round.pages_sent,
        dirtied: Some(round.pages_dirtied),
        took: Some(round.duration_ms),
        pause: round.predicted_downtime_ms,
        decision: round.decision.replace('-', " "),
    });
    let under_way = status.progress.as_ref().filter(|progress| {
        let newer = status
            .rounds
            .back()
            .is_none_or(|last| last.round < progress.round);
        newer && status.phase == Phase::Copying
    });
    let under_way = under_way.map(|progress| Row {
        round: progress.round,
        sent: progress.round_sent,
        dirtied: progress.dirty_pages,
        took: None,
        pause: progress.predicted_downtime_ms,
        decision: "under way".to_owned(),
    });
    ended.chain(under_way).collect()
}

/// The number of pages that a full bar stands for. The full pass is left out of the
/// maximum, because the other bars would be too short to see beside it. Its own bar is cut.
fn scale(rows: &[Row]) -> u64 {
    let most = |row: &Row| row.sent.max(row.dirtied.unwrap_or(0));
    let others = rows.iter().filter(|row| row.round > 0).map(most).max();
    others
        .or_else(|| rows.iter().map(most).max())
        .unwrap_or(0)
        .max(1)
}

fn columns(area: Rect) -> [Rect; 8] {
    let wide = area.width >= WIDE;
    let extra = |width| Constraint::Length(if wide { width } else { 0 });
    Layout::horizontal([
        Constraint::Length(NUMBER),
        Constraint::Length(PAGES),
        Constraint::Fill(1),
        Constraint::Length(PAGES),
        Constraint::Fill(1),
        extra(12),
        extra(12),
        extra(14),
    ])
    .spacing(1)
    .areas(area)
}

fn head(frame: &mut Frame<'_>, area: Rect, colours: Colours) {
    let [
        round,
        sent,
        sent_bar,
        dirtied,
        dirtied_bar,
        took,
        pause,
        decided,
    ] = columns(area);
    let dim = Style::new().add_modifier(Modifier::UNDERLINED);
    let right = Alignment::Right;
    let mut put = |area: Rect, words: &'static str, style: Style| {
        frame.render_widget(Line::from(words).style(style), area);
    };
    if sent_bar.width >= 5 {
        put(sent_bar, "pages", colours.style(Color::Blue));
        put(dirtied_bar, "pages", colours.style(Color::Magenta));
    }
    put(decided, "decided", dim);
    for (area, words) in [
        (round, "round"),
        (sent, "sent"),
        (dirtied, "dirtied"),
        (took, "took"),
        (pause, "pause"),
    ] {
        frame.render_widget(Line::from(words).alignment(right).style(dim), area);
    }
}

fn draw(frame: &mut Frame<'_>, area: Rect, row: &Row, scale: u64, colours: Colours) {
    let [
        round,
        sent,
        sent_bar,
        dirtied,
        dirtied_bar,
        took,
        pause,
        decided,
    ] = columns(area);
    let mut put = |area: Rect, words: String| {
        frame.render_widget(Line::from(words).alignment(Alignment::Right), area);
    };
    let count = |pages: Option<u64>| pages.map_or_else(String::new, |p| Count(p).to_string());
    let millis = |ms: Option<u64>| ms.map_or_else(String::new, |ms| Millis(ms).to_string());
    put(round, row.round.to_string());
    put(sent, count(Some(row.sent)));
    put(dirtied, count(row.dirtied));
    put(took, millis(row.took));
    put(pause, millis(row.pause));
    for (area, pages, colour) in [
        (sent_bar, Some(row.sent), Color::Blue),
        (dirtied_bar, row.dirtied, Color::Magenta),
    ] {
        let bar = bar(pages.unwrap_or(0), scale, area.width);
        frame.render_widget(Line::from(bar).style(colours.style(colour)), area);
    }
    frame.render_widget(Line::from(row.decision.as_str()), decided);
}

/// The bar for `value` of `scale`, to an eighth of a cell. An arrow marks a bar that is
/// cut.
fn bar(value: u64, scale: u64, width: u16) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let width = usize::from(width);
    if width == 0 {
        return String::new();
    }
    if value > scale {
        return "█".repeat(width.saturating_sub(1)) + "▶";
    }
    let eighths = u128::from(value) * width as u128 * 8 / u128::from(scale.max(1));
    // Any value above zero gets a visible bar.
    let eighths = (eighths as usize).max(usize::from(value > 0));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        assert_eq!(bar(0, 100, 10), "");
        assert_eq!(bar(1, 1_000_000, 10), "▏");
        assert_eq!(bar(50, 100, 10), "█████");
        assert_eq!(bar(56, 100, 10), "█████▌");
        assert_eq!(bar(100, 100, 10), "██████████");
        assert_eq!(bar(101, 100, 4), "███▶");
        assert_eq!(bar(u64::MAX, u64::MAX, 2), "██");
        assert_eq!(bar(1, 0, 0), "");
    }
}
