//! Takes over the operator's terminal for the live view, and gives it back on every way
//! out.
//!
//! Keys are read here and not by crossterm, whose reader never returns after the terminal
//! has hung up, or from half of a key's sequence.

use std::fs::File;
use std::io::{self, IsTerminal, Stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lull_base::ready;
use lull_base::terminal::{to_stderr, to_stdout};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::draw::{self, Colours};
use super::session::{Session, ThisHost};
use super::{TICK, View};
use crate::control::DONE;
use crate::control::show::doing;

/// The terminal while it shows the live view.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    keys: OwnedFd,
    signal: Arc<AtomicUsize>,
    colours: Colours,
    given_back: GivenBack,
}

/// Whether the terminal is in its original state. Signals then have their usual effect.
struct GivenBack(Arc<AtomicBool>);

/// What the loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The loop continues with another turn.
    Go,
    /// The operator leaves, or the terminal has gone.
    Leave,
    /// The process received this signal and has to end.
    Signalled(i32),
}

impl Screen {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// When the terminal cannot be drawn on, or there is no keyboard. The terminal is then
    /// in its original state.
    fn open() -> io::Result<Self> {
        // crossterm uses the same descriptor for the keyboard.
        let keys = match io::stdin() {
            stdin if stdin.is_terminal() => stdin.as_fd().try_clone_to_owned()?,
            _ => File::open("/dev/tty")?.into(),
        };
        let signal = Arc::new(AtomicUsize::new(0));
        let given_back = GivenBack(Arc::new(AtomicBool::new(false)));
        for number in [SIGTERM, SIGHUP, SIGINT, SIGQUIT] {
            let value = usize::try_from(number).unwrap_or_default();
            signal_hook::flag::register_conditional_default(number, Arc::clone(&given_back.0))?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)?;
        }
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode()?;
        let taken = execute!(io::stdout(), EnterAlternateScreen);
        let terminal = taken.and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        Ok(Self {
            terminal: terminal?,
            keys,
            signal,
            colours: Colours::wanted(),
            given_back,
        })
    }

    /// Takes over standard output's terminal, if it is one that can be drawn on.
    pub fn if_possible() -> Option<Self> {
        if !io::stdout().is_terminal() || is_dumb() {
            return None;
        }
        let opened = Self::open();
        if let Err(error) = &opened {
            to_stderr(&format!(
                "lull: the terminal cannot be drawn on ({error}); printing lines instead"
            ));
        }
        opened.ok()
    }

    /// Draws the view, and waits up to that long for a key.
    ///
    /// # Errors
    /// When the terminal can no longer be drawn on.
    fn turn(&mut self, views: &[View<'_>], left_out: usize, wait: Duration) -> io::Result<Turn> {
        let colours = self.colours;
        let drawn = self
            .terminal
            .draw(|frame| draw::all(frame, views, left_out, colours))
            .map(|_| ());
        let until = Instant::now() + wait;
        loop {
            match self.signal.load(Ordering::Relaxed) {
                0 => {}
                number => return Ok(Turn::Signalled(number as i32)),
            }
            drawn
                .as_ref()
                .map_err(|error| io::Error::from(error.kind()))?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Turn::Go);
            }
            if self.pressed(left) {
                return Ok(Turn::Leave);
            }
        }
    }

    /// Waits for a key. Returns whether it is one that leaves the view.
    fn pressed(&self, within: Duration) -> bool {
        // A signal interrupted the wait, or no key was pressed.
        if !ready::is_readable(&self.keys, within).unwrap_or(false) {
            return false;
        }
        let mut keys = [0; 64];
        match rustix::io::read(&self.keys, &mut keys) {
            Ok(length) => length == 0 || leaves(&keys[..length]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => false,
            // The terminal has hung up.
            Err(_) => true,
        }
    }

    fn close(&self) {
        self.given_back.now();
    }
}

/// Shows the session until it is over or the operator leaves; the exit code.
///
/// # Errors
/// When the terminal can no longer be drawn on, or this process has no root rights.
pub fn watch(mut screen: Screen, mut session: Session<ThisHost>) -> anyhow::Result<u8> {
    let turn = loop {
        session.turn(&mut |_| ())?;
        if session.is_over() {
            break Turn::Go;
        }
        match screen.turn(&session.views(), session.left_out(), TICK)? {
            Turn::Go => {}
            left => break left,
        }
    };
    screen.close();
    for view in session.views() {
        match (view.last, view.status) {
            (Some(last), _) => to_stdout(&last.said),
            (None, Some(status)) => {
                to_stdout(&format!("{}: {}. It goes on.", view.title, doing(status)));
            }
            (None, None) => to_stdout(&format!("{}: It goes on.", view.title)),
        }
    }
    match turn {
        Turn::Go => Ok(session.code()),
        Turn::Leave => Ok(DONE),
        Turn::Signalled(signal) => {
            signal_hook::low_level::emulate_default_handler(signal)?;
            Ok(DONE)
        }
    }
}

impl GivenBack {
    fn now(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            give_back();
        }
    }
}

impl Drop for GivenBack {
    fn drop(&mut self) {
        self.now();
    }
}

/// Whether the terminal can only show plain text.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Whether the keys are `q`, ^C or Esc. Arrow keys and the like begin with Esc too, but do
/// not end with it.
fn leaves(keys: &[u8]) -> bool {
    const CTRL_C: u8 = 3;
    const ESC: u8 = 0x1b;
    keys == [ESC]
        || keys[0] != ESC
            && keys
                .iter()
                .any(|key| matches!(key, b'q' | b'Q' | &CTRL_C | &ESC))
}

#[cfg(test)]
mod tests {
    use super::leaves;

    #[test]
    fn some_keys_leave_and_arrows_do_not() {
        for keys in [b"q".as_slice(), b"Q", b"\x03", b"\x1b", b"xq"] {
            assert!(leaves(keys), "{keys:?}");
        }
        for keys in [b"x".as_slice(), b"\x1b[A", b"\x1bOq", b"\r"] {
            assert!(!leaves(keys), "{keys:?}");
        }
    }
}
