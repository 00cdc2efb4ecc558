//! A transport for `xl migrate -s` that holds the connection in a chosen phase of the
//! migration until a command has run. The command injects the fault.

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::memory::Privcmd;
use crate::relay::Matcher;
use crate::stream_points::{Point, Reader};
use crate::streams::{Throttled, Transport};

/// The number of bytes read at a time.
const CHUNK: usize = 64 << 10;

/// The file that takes the output of the command.
const LOG: &str = "/run/rig/fault.log";

/// The place at which the connection is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The destination's banner is on its way to xl.
    Banner,
    /// The stream has reached this point.
    At(Point),
    /// The source has stopped; the bytes sent from now on have not arrived yet.
    Stopped,
    /// READY is on its way to xl.
    Ready,
    /// GO is on its way to the destination.
    Go,
    /// The destination's report is on its way to xl.
    Report,
}

impl Place {
    fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "banner" => Self::Banner,
            "helper" => Self::At(Point::Helper),
            "first-round" => Self::At(Point::FirstRound),
            "later-round" => Self::At(Point::LaterRound),
            "stopped" => Self::Stopped,
            "cpu-state" => Self::At(Point::CpuState),
            "ready" => Self::Ready,
            "go" => Self::Go,
            "report" => Self::Report,
            _ => bail!("no place is called {word:?}"),
        })
    }
}

/// The place of the fault, the command, and the rate afterwards.
#[derive(Clone)]
struct Order {
    place: Place,
    held: Held,
    /// The rate from that place on, bytes a second; 0 for no limit.
    rate: u64,
    source: u16,
}

/// The command that runs while the connection is held.
#[derive(Clone)]
pub struct Held {
    /// The command, for a shell.
    pub command: String,
    /// The process id of the transport.
    pub child: u32,
}

/// Relays both directions. At the place it runs `command` through a shell, with this
/// process as `$AGENT` and the transport's as `$CHILD`, and then goes on.
pub fn run(words: [&str; 4], transport: &[&str]) -> Result<()> {
    let [place, rate, source, command] = words;
    let mut transport = Transport::start(transport)?;
    let to_child = transport.take_stdin()?;
    let from_child = transport.take_stdout()?;
    let order = Order {
        place: Place::parse(place)?,
        held: Held {
            command: command.to_owned(),
            child: transport.id(),
        },
        rate: rate.parse()?,
        source: source.parse()?,
    };
    let ready = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let (order, ready) = (order.clone(), Arc::clone(&ready));
        move || {
            if let Err(error) = forward(&order, &ready, to_child) {
                eprintln!("rig-agent: {error:#}");
            }
        }
    });
    backward(&order, &ready, from_child)?;
    transport.finish()
}

fn forward(order: &Order, ready: &AtomicBool, mut to: impl Write) -> Result<()> {
    let privcmd = Privcmd::open()?;
    let mut reader = Reader::new();
    let mut from = std::io::stdin().lock();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        let bytes = &chunk[..length];
        let reached = match order.place {
            // If the guest is suspended, the round after the first is the last.
            Place::At(Point::LaterRound) if privcmd.has_suspended(order.source)? => None,
            Place::At(point) => reader.find(point, bytes),
            Place::Stopped => privcmd.has_suspended(order.source)?.then_some(0),
            Place::Go => ready.load(Ordering::SeqCst).then_some(0),
            Place::Banner | Place::Ready | Place::Report => None,
        };
        to.write_all(&bytes[..reached.unwrap_or(length)])?;
        to.flush()?;
        let Some(place) = reached else { continue };
        order.held.hold()?;
        let mut to: Box<dyn Write> = match order.rate {
            0 => Box::new(to),
            rate => Box::new(Throttled::new(to, rate)),
        };
        to.write_all(&chunk[place..length])?;
        std::io::copy(&mut from, &mut to)?;
        return Ok(());
    }
}

fn backward(order: &Order, ready: &AtomicBool, mut from: impl Read) -> Result<()> {
    let mut matcher = Matcher::default();
    let mut held = false;
    let mut chunk = [0; 4096];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return pass_on(&matcher.held);
        }
        let begun = match order.place {
            Place::Banner => true,
            Place::Report => ready.load(Ordering::SeqCst),
            _ => false,
        };
        if begun && !held {
            held = true;
            order.held.hold()?;
        }
        for byte in &chunk[..length] {
            if matcher.push(*byte) {
                if order.place == Place::Ready {
                    order.held.hold()?;
                }
                ready.store(true, Ordering::SeqCst);
            }
            pass_on(&matcher.take_settled())?;
        }
    }
}

/// Passes bytes on, and ignores a closed output: ssh too reads from the destination to its
/// end, even if nothing reads its output any more.
pub fn pass_on(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

impl Held {
    /// Runs the command to its end.
    pub fn hold(&self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(LOG)
            .context(LOG)?;
        Command::new("sh")
            .args(["-c", &self.command])
            .env("AGENT", std::process::id().to_string())
            .env("CHILD", self.child.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("cannot run the command")?;
        Ok(())
    }
}
