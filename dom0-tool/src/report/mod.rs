//! `lull report`: the result of an attempt, and the reason for it.
//!
//! One record ([`runs`]) in four forms: [`text`], [`json`], Markdown, which is [`text`]
//! with other tables, and [`plot`]. [`list`] shows the records that exist.

mod json;
mod list;
#[cfg(feature = "terminal")]
pub mod plot;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lull_base::exit::not_begun;
use lull_base::suggest::{did_you_mean, nearest};
use lull_base::terminal::{to_stderr, to_stdout};
use lull_store::ledger::{self, Ledger, Row};
use lull_store::runs::{self, RETENTION, Run, run};
use lull_store::spool::Folder;

use crate::cli::if_terminal;

/// The options of `lull report`.
#[derive(Debug, Args)]
#[command(after_help = concat!("Examples:
  lull report                      # the newest attempt
  lull report --list
  lull report 2026-11-23T15-34-44Z-web1 --markdown
", if_terminal!("  lull report --last --plot web1.svg\n", ""), "
Exit codes: 0 shown; 2 wrong usage, no such record, or it cannot be read."))]
pub struct Options {
    /// Which attempt, as `--list` names it, or a file; without it, the newest
    #[arg(conflicts_with_all = ["last", "list"])]
    run: Option<String>,

    /// The newest attempt
    #[arg(long)]
    last: bool,

    /// What attempts there are records of, the newest first
    #[arg(long, conflicts_with_all = ["last", "markdown"])]
    list: bool,

    /// Print one JSON object on standard output
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Print Markdown
    #[arg(long)]
    markdown: bool,

    /// Draw it, too: an SVG file of four plots
    #[cfg(feature = "terminal")]
    #[arg(long, value_name = "FILE.svg", conflicts_with = "list")]
    plot: Option<PathBuf>,

    /// Where records are kept
    #[arg(long, default_value = runs::FOLDER, value_name = "FOLDER")]
    folder: PathBuf,
}

pub fn main(options: &Options) -> ExitCode {
    let folder = Folder::at(&options.folder, RETENTION);
    if options.list {
        let runs = list::all(&folder);
        to_stdout(&match options.json {
            true => list::json(&runs),
            false => list::text(&runs, &folder),
        });
        return ExitCode::SUCCESS;
    }
    let ledger = Ledger::at(ledger::FILE);
    match explain(options, &folder, &ledger) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => not_begun(&why),
    }
}

fn explain(options: &Options, folder: &Folder, ledger: &Ledger) -> Result<(), String> {
    let run = wanted(options, folder)?;
    #[cfg(feature = "terminal")]
    if let Some(file) = &options.plot {
        let foreseen = ledger.foreseen(|line| to_stderr(&format!("lull: {line}")));
        let drawn = plot::of(&run, &foreseen)?;
        std::fs::write(file, drawn)
            .map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
    }
    let rows = foresight(&run, ledger);
    to_stdout(&match (options.json, options.markdown) {
        (true, _) => json::of(&run, &rows),
        (_, true) => text::markdown(&run, &rows),
        _ => text::plain(&run, &rows),
    });
    Ok(())
}

fn wanted(options: &Options, folder: &Folder) -> Result<Run, String> {
    let path = match &options.run {
        Some(name) => run::find(folder, name),
        None => {
            let records = folder.records();
            let (newest, _) = records.first().ok_or_else(|| {
                format!(
                    "no attempt was recorded on this host yet ({})",
                    folder.path().display()
                )
            })?;
            folder.path().join(newest)
        }
    };
    Run::open(&path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                let names = list::names(folder);
                let asked = path.file_stem().unwrap_or_default().to_string_lossy();
                let like = nearest(&asked, names.iter().map(String::as_str));
                let like = did_you_mean(&like);
                format!("{like}. `lull report --list` shows what there is")
            }
            _ => String::new(),
        };
        format!("{} cannot be shown: {error}{hint}", path.display())
    })
}

/// What the ledger contains about this guest's other pauses, to this destination or to all.
fn foresight(run: &Run, ledger: &Ledger) -> Vec<Row> {
    let summary = ledger.summary(run.destination(), |line| {
        to_stderr(&format!("lull: {line}"));
    });
    let guest = run.guest();
    let mut rows = summary.rows;
    rows.retain(|row| row.guest.as_deref() == Some(guest) && row.foresight.predicted > 0);
    rows
}
