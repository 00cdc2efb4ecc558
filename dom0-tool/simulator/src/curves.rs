//! The machine's curves at its last decision, as tables.

use std::fmt::Write as _;

use lull_base::fmt::{Bytes, Count, Millis};
use lull_base::table::table;
use lull_core::limits::Risk;
use lull_core::machine::{Action, Machine};
use lull_core::units::{Micros, PAGE_SIZE};
use lull_simulator::attempt;
use lull_simulator::scenario::Scenario;

/// Runs the attempt and formats the curves at its last decision while the guest ran.
pub fn of(scenario: &Scenario) -> String {
    let mut last = None;
    let outcome = attempt::run_watched(scenario, |_, _, action, machine| {
        if matches!(action, Action::Suspend | Action::Refuse(_)) {
            last = Some(machine.clone());
        }
    });
    let mut text = String::new();
    if let Some(machine) = last {
        let _ = writeln!(text, "{}", service(&machine, scenario.risk));
        let _ = writeln!(text, "{}", dirty(&machine));
    }
    let _ = write!(text, "{outcome:?}");
    text
}

fn millis(time: Micros) -> String {
    match time {
        Micros::MAX => "–".to_owned(),
        time => Millis(time.as_millis_ceil()).to_string(),
    }
}

fn service(machine: &Machine, risk: Risk) -> comfy_table::Table {
    let header = [
        "so much in a row",
        "takes, as expected",
        "at most",
        "slowest in round",
    ];
    let mut table = table(&header, 1..header.len());
    for pages in (0..9).map(|step| 64 << (2 * step)) {
        let basis = machine.service().basis(pages, risk);
        table.add_row([
            Bytes(pages * PAGE_SIZE).to_string(),
            millis(machine.service().expected(pages)),
            millis(machine.service().worst(pages, risk)),
            basis.map_or("–".to_owned(), |basis| basis.round.to_string()),
        ]);
    }
    table
}

fn dirty(machine: &Machine) -> comfy_table::Table {
    let header = [
        "in so long",
        "pages dirtied from a bitmap on, as expected",
        "any time, at most",
    ];
    let mut table = table(&header, 1..header.len());
    for ms in (0..9).map(|step| 10 << (2 * step)) {
        let span = Micros::from_millis(ms);
        table.add_row([
            Millis(ms).to_string(),
            Count(machine.dirty().expected_after_bitmap(span)).to_string(),
            match machine.dirty().at_most(span) {
                u64::MAX => "–".to_owned(),
                pages => Count(pages).to_string(),
            },
        ]);
    }
    table
}
