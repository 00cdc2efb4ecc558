//! `lull land` at work: hears a frame, does it, answers.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lull_base::{confine, hygiene};
use lull_xen::REQUESTS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use super::see_off::SeeOff;
use super::waiting::{Compared, Tools, Unfit, Waiting};
use lull_wire::channel::{
    self, Attach, BadFrame, Chosen, FromLand, Greeting, HEADER, LINE_MAX, Purpose, TO_LAND_MAX,
    ToLand, VERSION,
};

/// How often it is looked whether the guest still waits, when nothing is heard.
const LOOK: Duration = Duration::from_secs(1);

/// How long the source may take to choose a version.
const CHOOSING: Duration = Duration::from_secs(60);

/// How long the guest may take to start before this ends beside it: with it ends
/// a session of sshd's, at the cost of time for which the guest waits.
const LANDING: Duration = Duration::from_secs(20);

/// Why it ends without having landed.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The source has gone: nobody is left to tell.
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

/// Runs until the guest has landed, or cannot.
pub fn main() -> ExitCode {
    hygiene::settle();
    // Before the greeting: where this cannot work, the source lands classic.
    let (tools, mut see_off) = match Tools::open().and_then(|tools| Ok((tools, SeeOff::start()?))) {
        Ok(ready) => ready,
        Err(error) => {
            eprintln!("lull land: not ready to take a guest: {error}");
            return ExitCode::FAILURE;
        }
    };
    // All that follows is what another host says.
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
    let greeting = Greeting {
        land: (VERSION, VERSION),
        lull: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut line = serde_json::to_vec(&greeting).map_err(io::Error::other)?;
    line.push(b'\n');
    source.say(&line)?;
    let chosen: Chosen = serde_json::from_str(&source.line(Instant::now() + CHOOSING)?)
        .map_err(|_| End::NoVersion)?;
    if chosen.land != VERSION {
        return Err(End::NoVersion);
    }
    // Nothing here is touched before the source says whose copy it is about, and
    // that may be hours after: its first pass comes before.
    let (mut waiting, mut see_off) = match source.frame(|| Ok(()))? {
        ToLand::Attach(whose) => attach(&whose)?,
        _ => return Err(End::OutOfTurn),
    };
    source.say(&FromLand::Attached.encode())?;
    loop {
        let answer = match source.frame(|| waiting.check())? {
            ToLand::Attach(_) => return Err(End::OutOfTurn),
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
                // What follows is permission to start it: nothing of it is held
                // here any more when the source hears so.
                waiting.set_state(&state)?;
                see_off.lands();
                if let Err(error) = source.say(&FromLand::Landed.encode()) {
                    see_off.untold();
                    return Err(error.into());
                }
                source.outlast(LANDING);
                return Ok(());
            }
        };
        source.say(&answer.encode())?;
    }
}

/// The other end, which is never waited for blindly.
struct Source<'f, W> {
    from: BorrowedFd<'f>,
    to: W,
}

impl<W: Write> Source<'_, W> {
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    /// A line.
    fn line(&self, until: Instant) -> Result<String, End> {
        let mut line = Vec::new();
        while line.len() < LINE_MAX {
            let mut byte = [0];
            self.fill(&mut byte, || match Instant::now() < until {
                true => Ok(()),
                false => Err(End::NoVersion),
            })?;
            match byte {
                [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
                [byte] => line.push(byte),
            }
        }
        Err(End::TooLong(line.len()))
    }

    /// A frame; `meanwhile` says every so often whether to go on.
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
            // Not through std's buffer: what it holds a poll does not see.
            match rustix::io::read(self.from, &mut *bytes) {
                Ok(0) => return Err(End::Gone),
                Ok(count) => bytes = &mut bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Waits until the source hangs up, `longest` at most; what it still says is
    /// nothing to anybody.
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

    const CHOSEN: &[u8] = b"{\"land\":1}\n";

    /// How it ends when the source says that and no more; what it said itself.
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
        assert_eq!(greeting.common(), Some(VERSION));
        // Whole so far, or cut off: nobody is left to tell.
        for words in [&[CHOSEN][..], &[CHOSEN, b"\x01\0\0"]] {
            assert!(matches!(served(words).0, End::Gone));
        }
    }

    #[test]
    fn another_version_or_none_is_no_beginning() {
        for chosen in [&b"{\"land\":2}\n"[..], b"hello\n", b"\n"] {
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
            gone: vec![7],
        });
        let (end, _) = served(&[CHOSEN, &pages]);
        assert!(matches!(end, End::OutOfTurn), "{end}");
        let (end, _) = served(&[CHOSEN, &frame(9, 0)]);
        assert!(matches!(end, End::Bad(_)), "{end}");
        let (end, _) = served(&[CHOSEN, &frame(2, u32::MAX)]);
        assert!(matches!(end, End::TooLong(_)), "{end}");
    }

    /// One that says nothing any more is waited for, but not blindly.
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
