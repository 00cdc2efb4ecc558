//! `lull status --watch`: shows migrations live until they end.
//!
//! A [`session`] reads what the helpers send and finds out how each migration ends
//! ([`outcome`]). The result is shown on a terminal ([`screen`], drawn by [`draw`]), or
//! reported line by line ([`lines`]). All this is one loop whose waits are short; watching
//! cannot hold a migration up.

#[cfg(feature = "terminal")]
mod draw;
mod lines;
mod outcome;
mod phrases;
#[cfg(feature = "terminal")]
mod screen;
mod session;
#[cfg(test)]
mod tests;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use lull_base::exit::{NOT_BEGUN, not_begun};
use lull_base::terminal::to_stderr;
use lull_store::running::folder::ControlSocket;
use lull_xen::host;

use self::lines::Lines;
use self::outcome::Last;
use self::session::{Session, ThisHost};
use super::DONE;
use super::show::Options;

/// The interval between two turns of the loop.
const TICK: Duration = Duration::from_millis(200);

pub fn main(options: &Options) -> ExitCode {
    match watch(options) {
        Ok(code) => code.into(),
        Err(error) => not_begun(&error),
    }
}

fn watch(options: &Options) -> anyhow::Result<u8> {
    let wanted = match &options.domain {
        Some(asked) => Some(host::domain(asked)?),
        None => None,
    };
    let mut session = Session::new(ThisHost, wanted.as_ref().map(|guest| guest.domid));
    session.find()?;
    if session.is_over() {
        to_stderr(&match wanted {
            Some(guest) => format!("lull: {} is not being migrated.", guest.name),
            None => "lull: no migration runs on this host.".to_owned(),
        });
        return Ok(NOT_BEGUN);
    }
    #[cfg(feature = "terminal")]
    if !options.json
        && let Some(screen) = screen::Screen::if_possible()
    {
        return screen::watch(screen, session);
    }
    in_lines(Lines::new(io::stdout(), options.json), session)
}

fn in_lines(mut lines: Lines<io::Stdout>, mut session: Session<ThisHost>) -> anyhow::Result<u8> {
    loop {
        session.turn(&mut |view| lines.print(&view))?;
        // The reader has closed its end.
        if lines.is_closed() {
            return Ok(DONE);
        }
        if session.is_over() {
            return Ok(session.code());
        }
        std::thread::sleep(TICK);
    }
}

/// The state of one migration at one moment.
#[derive(Debug, Clone)]
struct View<'a> {
    /// The guest, and the helper that moves it. Together they distinguish one attempt from
    /// another.
    socket: &'a ControlSocket,
    /// The guest's name and number: `web1 (7)`.
    title: &'a str,
    /// The last status that its helper sent.
    status: Option<&'a lull_wire::control::Status>,
    /// Time since the start, in milliseconds. It stands still once the guest was asked to
    /// stop.
    at_ms: u64,
    /// Time since the helper last sent anything.
    #[cfg(feature = "terminal")]
    silent: Duration,
    /// The outcome, once it is known.
    last: Option<&'a Last>,
}
