//! `lull generate`: man pages and shell completions from the definition of the
//! command line, for the package and for hosts that have only the binary.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use lull_base::exit::not_begun;

use crate::cli::Cli;

/// The manual's section: system administration.
const SECTION: &str = "8";

/// The options of `lull generate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull generate man /usr/local/share/man/man8
  lull generate completions .")]
pub struct Options {
    /// What to write
    pub what: What,

    /// The folder to write to; it is made if need be
    pub folder: PathBuf,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// A page for each command
    Man,
    /// For bash (lull.bash), zsh (_lull) and fish (lull.fish)
    Completions,
}

pub fn main(options: &Options) -> ExitCode {
    let folder = &options.folder;
    let written = fs::create_dir_all(folder).and_then(|()| match options.what {
        What::Man => man(folder),
        What::Completions => completions(folder),
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => not_begun(&format!("{} cannot be filled: {error}.", folder.display())),
    }
}

/// The command line as people see it: no hidden commands.
fn shown(command: &Command) -> Command {
    let mut fresh = Command::new(command.get_name().to_owned())
        .args(command.get_arguments())
        .disable_help_subcommand(true);
    if let Some(about) = command.get_about() {
        fresh = fresh.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        fresh = fresh.long_about(about.clone());
    }
    if let Some(help) = command.get_after_help() {
        fresh = fresh.after_help(help.clone());
    }
    let commands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    fresh.subcommands(commands.map(shown))
}

fn completions(folder: &Path) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut shown(&Cli::command()), "lull", folder)?;
    }
    Ok(())
}

fn man(folder: &Path) -> io::Result<()> {
    let mut all = shown(&Cli::command());
    all.build();
    pages(&all, folder)
}

/// A page for the command, and one for each below it.
fn pages(command: &Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        pages(below, folder)?;
    }
    let page = Man::new(command.clone())
        .section(SECTION)
        .source(concat!("lull ", env!("CARGO_PKG_VERSION")))
        .manual("System Administration");
    let mut file = File::create(folder.join(page.get_filename()))?;
    page.render_title(&mut file)?;
    page.render_name_section(&mut file)?;
    page.render_synopsis_section(&mut file)?;
    page.render_description_section(&mut file)?;
    page.render_options_section(&mut file)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut file)?;
    }
    if let Some(help) = command.get_after_help() {
        as_it_stands(&help.to_string()).to_writer(&mut file)?;
    }
    file.flush()
}

/// Examples and exit codes, line by line.
fn as_it_stands(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["NOTES"]).control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_no_hidden_one_has() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join(name));
        let migrate = page("lull-migrate.8").unwrap();
        assert!(migrate.contains(".TH lull-migrate 8"), "{migrate}");
        assert!(
            migrate.contains("\n  lull migrate \\-\\-max\\-suspend\\-time 500ms"),
            "{migrate}"
        );
        assert!(page("lull.8").unwrap().contains("lull\\-migrate(8)"));
        assert!(page("lull-transport.8").is_err());
    }

    #[test]
    fn no_shell_offers_what_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        completions(folder.path()).unwrap();
        for name in ["lull.bash", "_lull", "lull.fish"] {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.contains("max-suspend-time"), "{name}");
            assert!(!text.contains("keep-trace"), "{name}");
        }
    }
}
