//! Runs a command in dom0 so that whoever watches sees what it writes when it
//! writes it: with its live line on a terminal, line by line elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::ssh::quote;

/// Runs it; hands back its exit status and all that was shown.
pub fn run(host: &Host, command: &str, longest: Duration) -> Result<(i32, String)> {
    let terminal = std::io::stdout().is_terminal();
    let mut running = match terminal {
        true => {
            // A terminal has a size and a name, and ssh has none of ours.
            let (columns, rows) = size();
            let words = format!("stty cols {columns} rows {rows}; {command}");
            // util-linux makes the terminal; the command's status is its own.
            host.spawn(&format!(
                "TERM=xterm script --quiet --return --flush --command {} /dev/null",
                quote(&words)
            ))?
        }
        false => host.spawn(&format!("{command} 2>&1"))?,
    };
    let mut shown = 0;
    let mut out = std::io::stdout();
    let start = std::time::Instant::now();
    loop {
        let ended = running.wait(Duration::from_millis(30))?;
        let text = running.stdout_so_far();
        out.write_all(&text.as_bytes()[shown..])?;
        out.flush()?;
        shown = text.len();
        if let Some(output) = ended {
            return Ok((output.status, text));
        }
        if start.elapsed() > longest {
            return Err(anyhow::anyhow!("it takes too long")).with_context(|| command.to_owned());
        }
    }
}

fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 => (size.ws_col, size.ws_row.max(1)),
        _ => (100, 30),
    }
}
