//! The main loop of `lull land`: it reads a frame, executes it, and answers.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lull_base::lines::{Lines, TooLong};
use lull_base::{confine, hygiene, inherited_fd};
use lull_xen::REQUESTS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use super::see_off::SeeOff;
use super::waiting::{Compared, Complete, Tools, Unfit, Waiting};
use lull_wire::channel::{
    self, Attach, BadFrame, Chosen, Edition, FromLand, Greeting, HEADER, LINE_MAX, Purpose,
    TO_LAND_MAX, ToLand,
};

/// Interval at which the guest is checked while nothing arrives.
const LOOK: Duration = Duration::from_secs(1);

/// Time that the source has to choose a version.
const CHOOSING: Duration = Duration::from_secs(60);

/// Time that the guest has to start before this process ends. Its end also ends an sshd
/// session, and that takes time from dom0 while the guest waits.
const LANDING: Duration = Duration::from_secs(20);

/// Why the process ends without a landing.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The source has closed its end, so there is no one to report to.
    #[error("the source has gone")]
    Gone,
    #[error("the source does not choose a version")]
    NoVersion,
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Bad(#[from] BadFrame),
    #[error("a message that is too long ({0} bytes)")]
    TooLong(usize),
    #[error("a message out of turn")]
    OutOfTurn,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs until the guest has landed or cannot land.
pub fn main() -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::settle();
    // This precedes the greeting: if it fails, the source uses a classic landing.
    let (tools, mut see_off) = match Tools::open().and_then(|tools| Ok((tools, SeeOff::start()?))) {
        Ok(ready) => ready,
        Err(error) => {
            eprintln!("lull land: not ready to take a guest: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Everything from here on is input from another host.
    confine::to_open_files(&REQUESTS);
    let mut source = Source {
        from: stdin(),
        to: io::stdout(),
    };
    let ended = serve(&mut source, |attach| {
        let waiting = Waiting::find(attach, tools)?;
        see_off.watch(waiting.copy())?;
        Ok((waiting, see_off))
    });
    let Err(end) = ended else {
        return ExitCode::SUCCESS;
    };
    if !matches!(end, End::Gone) {
        let _ = source.say(&FromLand::Failed(end.to_string()).encode());
    }
    eprintln!("lull land: {end}");
    ExitCode::FAILURE
}

fn serve<W: Write>(
    source: &mut Source<'_, W>,
    attach: impl FnOnce(&Attach) -> Result<(Waiting, SeeOff), End>,
) -> Result<(), End> {
    let mut line = serde_json::to_vec(&Greeting::ours()).map_err(io::Error::other)?;
    line.push(b'\n');
    source.say(&line)?;
    let chosen: Chosen = serde_json::from_str(&source.line(Instant::now() + CHOOSING)?)
        .map_err(|_| End::NoVersion)?;
    let edition = Edition::of(chosen.land).ok_or(End::NoVersion)?;
    // Nothing on this host is touched before the source names the copy. In an older edition
    // that may be hours later, because the source's first pass comes before it.
    let (mut waiting, mut see_off) = loop {
        match source.frame(|| Ok(()))? {
            ToLand::Attach(whose) => break attach(&whose)?,
            ToLand::Ping => source.say(&FromLand::Pong.encode())?,
            _ => return Err(End::OutOfTurn),
        }
    };
    if edition.landing().is_handshake_first() {
        waiting.hold()?;
    }
    if edition == Edition::Thin {
        waiting.expect_all()?;
    }
    source.say(&FromLand::Attached.encode())?;
    loop {
        let answer = match source.frame(|| waiting.check())? {
            ToLand::Attach(_) | ToLand::Start => return Err(End::OutOfTurn),
            ToLand::Ping => FromLand::Pong,
            ToLand::Pages(pages, bytes) => match pages.purpose {
                Purpose::Write => {
                    waiting.write(&pages, &bytes)?;
                    FromLand::Applied
                }
                Purpose::Compare => {
                    let Compared { differing, first } = waiting.compare(&pages, &bytes)?;
                    FromLand::Compared { differing, first }
                }
            },
            ToLand::State(state) => {
                // Permission to start the guest follows. No mapping of the guest is left
                // when the source reads Landed.
                let complete = waiting.set_state(&state)?;
                match edition.landing().is_handshake_first() {
                    false => landed(source, &mut see_off)?,
                    true => start(source, complete, &mut see_off)?,
                }
                source.outlast(LANDING);
                return Ok(());
            }
        };
        source.say(&answer.encode())?;
    }
}

/// Leaves the start to xl: its handshake follows once the source reads Landed.
fn landed<W: Write>(source: &mut Source<'_, W>, see_off: &mut SeeOff) -> Result<(), End> {
    see_off.lands();
    let told = source.say(&FromLand::Landed.encode());
    if told.is_err() {
        see_off.untold();
    }
    Ok(told?)
}

/// Waits for the source's word and starts the copy. Until that word the copy is the
/// guard's to destroy, and from then on it never is.
fn start<W: Write>(
    source: &mut Source<'_, W>,
    complete: Complete,
    see_off: &mut SeeOff,
) -> Result<(), End> {
    source.say(&FromLand::Landed.encode())?;
    match source.frame(|| complete.check())? {
        ToLand::Start => {}
        _ => return Err(End::OutOfTurn),
    }
    complete.check()?;
    see_off.lands();
    complete.start()?;
    // If the source does not hear of it, it knows that it does not know.
    Ok(source.say(&FromLand::Started.encode())?)
}

/// The connection to the source. Every read polls first, so the guest is checked while the
/// source is silent.
struct Source<'f, W> {
    from: BorrowedFd<'f>,
    to: W,
}

impl<W: Write> Source<'_, W> {
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    /// Reads a line.
    fn line(&self, until: Instant) -> Result<String, End> {
        let mut lines = Lines::of(LINE_MAX - 1);
        loop {
            // Frames follow the line, and are not read here.
            let mut byte = [0];
            self.fill(&mut byte, || match Instant::now() < until {
                true => Ok(()),
                false => Err(End::NoVersion),
            })?;
            lines.push(&byte);
            match lines.next_line() {
                Some(Ok(line)) => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Some(Err(TooLong)) => return Err(End::TooLong(LINE_MAX)),
                None => {}
            }
        }
    }

    /// Reads a frame. While it waits, `meanwhile` is called periodically and decides
    /// whether to go on.
    fn frame(&self, mut meanwhile: impl FnMut() -> Result<(), Unfit>) -> Result<ToLand, End> {
        let mut look = || meanwhile().map_err(End::from);
        let mut head = [0; HEADER];
        self.fill(&mut head, &mut look)?;
        let (kind, length) = channel::header(head);
        if length > TO_LAND_MAX {
            return Err(End::TooLong(length));
        }
        let mut body = vec![0; length];
        self.fill(&mut body, &mut look)?;
        Ok(ToLand::decode(kind, &body)?)
    }

    fn fill(
        &self,
        mut bytes: &mut [u8],
        mut meanwhile: impl FnMut() -> Result<(), End>,
    ) -> Result<(), End> {
        while !bytes.is_empty() {
            if !self.is_readable()? {
                meanwhile()?;
                continue;
            }
            // This bypasses std's buffer, because poll does not see the bytes buffered
            // there.
            match rustix::io::read(self.from, &mut *bytes) {
                Ok(0) => return Err(End::Gone),
                Ok(count) => bytes = &mut bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Waits until the source hangs up, for `longest` at most. Anything it still sends is
    /// ignored.
    fn outlast(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let late = || match Instant::now() < until {
            true => Ok(()),
            false => Err(End::Gone),
        };
        let mut byte = [0];
        while self.fill(&mut byte, late).is_ok() && late().is_ok() {}
    }

    fn is_readable(&self) -> io::Result<bool> {
        let timeout = Timespec {
            tv_sec: LOOK.as_secs() as i64,
            tv_nsec: i64::from(LOOK.subsec_nanos()),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.from, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, pipe};
    use std::os::fd::AsFd;

    use super::*;

    const CHOSEN: &[u8] = b"{\"land\":2}\n";

    /// Serves a source that sends `words` and closes; returns the end, and what was sent to
    /// the source.
    fn served(words: &[&[u8]]) -> (End, Vec<u8>) {
        let (from, mut source) = pipe().unwrap();
        for bytes in words {
            source.write_all(bytes).unwrap();
        }
        drop(source);
        let mut source = Source {
            from: from.as_fd(),
            to: Vec::new(),
        };
        let end = serve(&mut source, |_| {
            unreachable!("whose copy it is was not said")
        });
        let end = end.unwrap_err();
        (end, source.to)
    }

    fn frame(kind: u32, length: u32) -> Vec<u8> {
        [kind.to_le_bytes(), length.to_le_bytes()].concat()
    }

    #[test]
    fn it_says_first_what_it_speaks_and_ends_with_its_source() {
        let (end, said) = served(&[]);
        assert!(matches!(end, End::Gone), "{end}");
        let greeting: Greeting = serde_json::from_slice(&said).unwrap();
        assert_eq!(greeting, Greeting::ours());
        // Whether it ends after a whole message or within one, there is no one to report
        // to.
        for words in [&[CHOSEN][..], &[CHOSEN, b"\x01\0\0"]] {
            assert!(matches!(served(words).0, End::Gone));
        }
    }

    #[test]
    fn another_version_or_none_is_no_beginning() {
        for chosen in [&b"{\"land\":5}\n"[..], b"{\"land\":1}\n", b"hello\n", b"\n"] {
            let (end, _) = served(&[chosen]);
            assert!(matches!(end, End::NoVersion), "{end}");
        }
        let (end, _) = served(&[&[b'x'; LINE_MAX]]);
        assert!(matches!(end, End::TooLong(LINE_MAX)), "{end}");
    }

    #[test]
    fn nothing_is_done_before_it_is_said_whose_copy_it_is_about() {
        let pages = channel::pages_header(&channel::Pages {
            purpose: Purpose::Write,
            present: Vec::new(),
            zero: vec![6],
            gone: vec![7],
        });
        for first in [pages, channel::start()] {
            let (end, _) = served(&[CHOSEN, &first]);
            assert!(matches!(end, End::OutOfTurn), "{end}");
        }
        let (end, _) = served(&[CHOSEN, &frame(9, 0)]);
        assert!(matches!(end, End::Bad(_)), "{end}");
        let (end, _) = served(&[CHOSEN, &frame(2, u32::MAX)]);
        assert!(matches!(end, End::TooLong(_)), "{end}");
    }

    #[test]
    fn a_source_that_asks_is_answered_before_it_names_a_copy() {
        let (end, said) = served(&[CHOSEN, &channel::ping(), &channel::ping()]);
        assert!(matches!(end, End::Gone), "{end}");
        let pong = FromLand::Pong.encode();
        assert!(said.ends_with(&[&pong[..], &pong].concat()), "{said:?}");
    }

    /// A silent source is waited for, and the guest is checked meanwhile.
    #[test]
    fn a_silent_source_is_looked_up_from() {
        let (from, _silent): (_, PipeWriter) = pipe().unwrap();
        let source = Source {
            from: from.as_fd(),
            to: Vec::new(),
        };
        let mut looks = 0;
        let gone = source.frame(|| {
            looks += 1;
            Err(Unfit::NoLongerWaits)
        });
        assert!(matches!(gone, Err(End::Unfit(Unfit::NoLongerWaits))));
        assert_eq!(looks, 1);
    }
}
