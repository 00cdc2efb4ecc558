//! Runs a command in dom0 so that a viewer sees its output as it is written: with its live
//! line on a terminal, line by line elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::host::Host;
use crate::ssh::quote;

/// The part of a command's output that is shown.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// All output is shown. If standard output is a terminal, the command gets one too.
    AsItIs,
    /// The lines that start with this text are shown, in upper or lower case.
    LinesWith(&'static str),
}

/// Runs the command; returns its exit status and its complete output.
pub fn run(host: &Host, command: &str, manner: Manner, longest: Duration) -> Result<(i32, String)> {
    let live = matches!(manner, Manner::AsItIs) && std::io::stdout().is_terminal();
    let wrapped = if live {
        on_a_terminal(command)
    } else {
        format!("{command} 2>&1")
    };
    let mut running = host.spawn(&wrapped)?;
    let mut shown = 0;
    let start = Instant::now();
    loop {
        let ended = running.wait(Duration::from_millis(30))?;
        let text = running.stdout_so_far();
        let fresh = &text[shown..];
        shown += match manner {
            Manner::AsItIs => print(fresh)?,
            // A line that is still being written is shown when it is complete.
            Manner::LinesWith(start) => {
                let whole = fresh.rfind('\n').map_or(0, |end| end + 1);
                print_lines(&fresh[..whole], start)?
            }
        };
        if let Some(output) = ended {
            return Ok((output.status, text));
        }
        if start.elapsed() > longest {
            bail!("`{command}` takes more than {} s", longest.as_secs());
        }
    }
}

/// Returns a command that runs on a terminal. A terminal has a size and a name, and ssh has
/// none of ours. util-linux makes the terminal; the exit status is that of the command.
fn on_a_terminal(command: &str) -> String {
    let (columns, rows) = match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 => (size.ws_col, size.ws_row.max(1)),
        _ => (100, 30),
    };
    let words = format!("stty cols {columns} rows {rows}; {command}");
    format!(
        "TERM=xterm script --quiet --return --flush --command {} /dev/null",
        quote(&words)
    )
}

/// Prints the whole text; returns its length.
fn print(text: &str) -> Result<usize> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(text.len())
}

fn print_lines(text: &str, start: &str) -> Result<usize> {
    for line in text.lines() {
        let is_it = line
            .get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start));
        if is_it {
            print(&format!("{line}\n"))?;
        }
    }
    Ok(text.len())
}
