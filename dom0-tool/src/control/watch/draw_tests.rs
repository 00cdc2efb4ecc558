//! Snapshots of the screen. After an intended change, run
//! `INSTA_UPDATE=always cargo test -p lull control::watch`.

use std::path::PathBuf;
use std::time::Duration;

use insta::{Settings, assert_snapshot};
use lull_store::running::folder::ControlSocket;
use lull_wire::control::Phase;
use lull_wire::events::{Progress, Round};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;

use super::*;
use crate::control::watch::outcome::Last;

struct Shown {
    socket: ControlSocket,
    title: &'static str,
    status: Status,
    last: Option<Last>,
    silent: Duration,
}

impl Shown {
    fn view(&self) -> View<'_> {
        View {
            socket: &self.socket,
            title: self.title,
            status: Some(&self.status),
            at_ms: self.status.at_ms,
            silent: self.silent,
            last: self.last.as_ref(),
        }
    }
}

/// A migration that is in its fourth round.
fn copying() -> Shown {
    let sent = [49_152, 12_345, 4_210];
    let dirtied = [12_345, 4_210, 3_980];
    let rounds = sent
        .iter()
        .zip(dirtied)
        .zip(0..)
        .map(|((sent, dirtied), round)| Round {
            at_ms: 0,
            round,
            pages_sent: *sent,
            pages_dirtied: dirtied,
            duration_ms: sent / 20,
            transfer_rate: Some(85 << 20),
            dirty_rate: Some(1_024),
            predicted_downtime_ms: Some(200 + dirtied / 10),
            expected_downtime_ms: Some(150),
            rests_on: None,
            decision: "another-round".to_owned(),
        });
    Shown {
        socket: ControlSocket {
            domid: 7,
            helper: 42,
            path: PathBuf::new(),
        },
        title: "web1 (7)",
        status: Status {
            domid: 7,
            name: Some("web1".to_owned()),
            helper_pid: 42,
            phase: Phase::Copying,
            at_ms: 34_000,
            limit_ms: Some(700),
            timeout_ms: Some(120_000),
            bandwidth: None,
            guest_pages: 49_152,
            progress: Some(Progress {
                at_ms: 34_000,
                round: 3,
                round_sent: 1_536,
                round_pages: 3_980,
                pages_sent: 67_243,
                dirty_pages: Some(1_870),
                transfer_rate: Some(85 << 20),
                dirty_rate: Some(1_024),
                predicted_downtime_ms: Some(480),
                expected_downtime_ms: Some(150),
            }),
            rounds: rounds.collect(),
            ended: None,
        },
        last: None,
        silent: Duration::ZERO,
    }
}

fn screen(shown: &[Shown], width: u16, height: u16, colours: Colours) -> Terminal<TestBackend> {
    let views: Vec<_> = shown.iter().map(Shown::view).collect();
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| all(frame, &views, 0, colours))
        .unwrap();
    terminal
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let cells = terminal.backend().buffer();
    let rows = cells.content().chunks(usize::from(cells.area.width));
    rows.map(|row| {
        let line: String = row.iter().map(Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    })
    .collect()
}

fn compare(name: &str, shown: &[Shown]) {
    let sizes = [(80, 12), (40, 6)];
    let screens = sizes.map(|(width, height)| {
        let screen = screen(shown, width, height, Colours::On);
        format!("{width}x{height}\n{}", text(&screen))
    });
    let mut settings = Settings::new();
    settings.set_snapshot_path("screens");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| assert_snapshot!(name, screens.join("\n")));
}

fn over() -> Shown {
    let mut shown = copying();
    shown.status.limit_ms = Some(300);
    shown.status.at_ms = 121_000;
    shown
}

#[test]
fn while_it_copies() {
    compare("copying", &[copying()]);
}

#[test]
fn over_the_limit_and_out_of_time() {
    compare("over", &[over()]);
}

#[test]
fn without_limits_and_before_anything_is_known() {
    let mut shown = copying();
    (shown.status.limit_ms, shown.status.timeout_ms) = (None, None);
    shown.silent = Duration::from_secs(12);
    let mut nothing = copying();
    nothing.title = "domain 9";
    nothing.status.phase = Phase::Preparing;
    nothing.status.progress = None;
    nothing.status.rounds.clear();
    nothing.status.guest_pages = 0;
    compare("no-limit", &[shown, nothing]);
}

#[test]
fn while_it_lands() {
    let mut shown = copying();
    shown.status.phase = Phase::Landing;
    compare("landing", &[shown]);
}

#[test]
fn two_and_one_of_them_over() {
    let mut ended = over();
    ended.title = "a-guest-with-a-rather-long-name (12)";
    ended.status.phase = Phase::Ended;
    ended.last = Some(Last {
        outcome: "refused-downtime",
        code: 3,
        said: "a-guest-with-a-rather-long-name (12): given up: the pause would take 480 ms, and the limit is 300 ms. It runs here. A limit of 500 ms would fit.".to_owned(),
    });
    compare("two", &[copying(), ended]);
}

#[test]
fn more_than_fit_are_counted() {
    let shown = [copying(), copying(), copying(), copying()];
    let text = text(&screen(&shown, 80, 18, Colours::On));
    assert!(text.contains("they go on; 1 more not shown"), "{text}");
}

#[test]
fn over_the_limit_is_red_unless_no_colours_are_wanted() {
    use ratatui::style::Color;
    let has = |colours, wanted: fn(Color) -> bool| {
        let screen = screen(&[over()], 80, 24, colours);
        let cells = screen.backend().buffer().content();
        cells.iter().any(|cell| wanted(cell.fg) || wanted(cell.bg))
    };
    assert!(has(Colours::On, |colour| colour == Color::Red));
    assert!(!has(Colours::Off, |colour| colour != Color::Reset));
}

#[test]
fn no_size_is_too_small() {
    for width in [0, 1, 2, 7, 30] {
        for height in 0..10 {
            screen(&[copying(), over()], width, height, Colours::On);
        }
    }
}
