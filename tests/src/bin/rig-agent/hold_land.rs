//! A connection to `lull land` that is held at a chosen message until a command has run.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::hold::{Held, pass_on};
use crate::memory::Privcmd;
use crate::streams::{Throttled, Transport};

/// The kinds of messages on that channel.
mod kind {
    pub const ATTACH: u32 = 1;
    pub const PAGES: u32 = 2;
    pub const STATE: u32 = 4;
    pub const START: u32 = 6;
    pub const LANDED: u32 = 0x84;
    pub const STARTED: u32 = 0x87;
}

/// The message at which the connection is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The first message after the greeting, with which the destination is ready.
    Attach,
    /// The first batch while the guest runs, or the first after it has stopped.
    Batch { stopped: bool },
    /// The message with the final state.
    State,
    /// Everything is in place at the destination, and the source does not know it yet.
    Landed,
    /// The word to start the copy.
    Start,
    /// The copy runs, and the source does not know it yet.
    Started,
}

impl Place {
    fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "attach" => Self::Attach,
            "later-round" => Self::Batch { stopped: false },
            "stopped" => Self::Batch { stopped: true },
            "state" => Self::State,
            "landed" => Self::Landed,
            "start" => Self::Start,
            "started" => Self::Started,
            _ => bail!("no place is called {word:?}"),
        })
    }

    fn is_at(self, kind: u32, has_stopped: impl Fn() -> Result<bool>) -> Result<bool> {
        Ok(match (self, kind) {
            (Self::Attach, kind::ATTACH)
            | (Self::State, kind::STATE)
            | (Self::Landed, kind::LANDED)
            | (Self::Start, kind::START)
            | (Self::Started, kind::STARTED) => true,
            (Self::Batch { stopped }, kind::PAGES) => has_stopped()? == stopped,
            _ => false,
        })
    }
}

/// Relays both directions. At the place it runs `command` through a shell, with this
/// process as `$AGENT` and the transport's as `$CHILD`. Then it goes on at `rate` bytes a
/// second; 0 stands for no limit.
pub fn run(words: [&str; 4], transport: &[&str]) -> Result<()> {
    let [place, rate, source, command] = words;
    let place = Place::parse(place)?;
    let rate: u64 = rate.parse()?;
    let source: u16 = source.parse()?;
    let mut transport = Transport::start(transport)?;
    let to_child = transport.take_stdin()?;
    let from_child = transport.take_stdout()?;
    let held = Held {
        command: command.to_owned(),
        child: transport.id(),
    };
    let there = held.clone();
    thread::spawn(move || {
        let relayed = carry(io::stdin(), to_child, place, rate, source, &there);
        if let Err(error) = relayed {
            eprintln!("rig-agent: {error:#}");
        }
    });
    let back = carry(from_child, io::stdout(), place, 0, source, &held);
    // The fault may have killed the process that reads this output.
    back.or_else(|error| pass_on(&[]).and(Err(error)))?;
    transport.finish()
}

/// Relays a `lull land` so that it greets as one that knows no version above `newest`: with 2
/// it does not know [`kind::START`], with 3 no copies without contents, with 4 no further
/// connections, with 5 no HVM guests.
pub fn as_older(newest: u32, transport: &[&str]) -> Result<()> {
    let mut transport = Transport::start(transport)?;
    let to_child = transport.take_stdin()?;
    let mut from_child = BufReader::new(transport.take_stdout()?);
    thread::spawn(move || crate::streams::pump(io::stdin(), to_child));
    let mut line = String::new();
    from_child.read_line(&mut line)?;
    let mut greeting: serde_json::Value = serde_json::from_str(&line)?;
    let highest = greeting
        .pointer_mut("/land/1")
        .context("an unknown greeting")?;
    *highest = newest.into();
    // Whoever knows no further connections has no token for them.
    if let Some(members) = greeting.as_object_mut() {
        members.remove("join");
    }
    pass_on(format!("{greeting}\n").as_bytes())?;
    crate::streams::pump(from_child, io::stdout())?;
    transport.finish()
}

/// Relays one direction: a line, then messages.
fn carry(
    from: impl Read,
    mut to: impl Write,
    place: Place,
    rate: u64,
    source: u16,
    held: &Held,
) -> Result<()> {
    let privcmd = Privcmd::open()?;
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    to.write_all(&line)?;
    to.flush()?;
    loop {
        let mut head = [0; 8];
        if from.fill_buf()?.is_empty() {
            return Ok(());
        }
        from.read_exact(&mut head)?;
        let word = |n: usize| u32::from_le_bytes([head[n], head[n + 1], head[n + 2], head[n + 3]]);
        let (kind, length) = (word(0), u64::from(word(4)));
        if place.is_at(kind, || privcmd.has_suspended(source))? {
            held.hold()?;
            let mut to: Box<dyn Write> = match rate {
                0 => Box::new(to),
                rate => Box::new(Throttled::new(to, rate)),
            };
            to.write_all(&head)?;
            to.flush()?;
            return crate::streams::pump(from, to).context("after the hold");
        }
        to.write_all(&head)?;
        io::copy(&mut (&mut from).take(length), &mut to)?;
        to.flush()?;
    }
}
