//! The table of all migrations at the end.

use std::fmt;

use lull_base::table::table;

use super::count::Count;
use super::figures::Figures;

/// The row of one migration.
pub struct Row([String; 8]);

impl Row {
    /// Returns the row of a migration by lull.
    pub fn of_lull(what: &str, outcome: &str, limit: &str, figures: &Figures) -> Self {
        let dash = |figure: &Option<String>| figure.clone().unwrap_or_else(|| "–".to_owned());
        Self([
            what.to_owned(),
            outcome.to_owned(),
            limit.to_owned(),
            dash(&figures.predicted),
            dash(&figures.observed),
            outage(figures.outage_ms),
            figures.rounds.to_string(),
            wall(figures.seconds),
        ])
    }

    /// Returns the row of a migration by stock xl, which reports no figures.
    pub fn of_stock(what: &str, figures: &Figures) -> Self {
        let none = || "–".to_owned();
        Self([
            what.to_owned(),
            "moved".to_owned(),
            "none".to_owned(),
            none(),
            none(),
            outage(figures.outage_ms),
            none(),
            wall(figures.seconds),
        ])
    }
}

/// The table of all migrations.
pub struct Summary<'a>(pub &'a [Row]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "guest, mover",
            "outcome",
            "limit",
            "pause\npredicted",
            "pause\nseen by lull",
            "outage\nseen by ping",
            "rounds",
            "took",
        ];
        let mut table = table(&header, 2..header.len());
        for row in self.0 {
            table.add_row(&row.0);
        }
        write!(f, "{table}")
    }
}

fn outage(ms: f64) -> String {
    if ms < 10_000.0 {
        format!("{} ms", Count(ms.round() as u64))
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}

fn wall(seconds: f64) -> String {
    format!("{seconds:.0} s")
}
