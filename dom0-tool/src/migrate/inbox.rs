//! Everything an attempt has to hear, in one queue: the helper, xl, signals.
//!
//! Each source has a thread that only reads and passes on. None of them ever
//! waits for the terminal: were lull's output stuck, xl would be stuck writing
//! to lull, and the guest would stay paused. Where the queue is long, what is
//! only for show is dropped.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use lull_base::monotonic::now_ns;
use lull_wire::events::{Event, Line};
use lull_wire::xl::handshake::{Handshake, Step};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;

use super::lines::each_line;
use super::outcome::XlEnd;
use crate::transport::orders::Orders;

/// Messages waiting beyond which show is dropped.
const LONG: usize = 1024;

/// What is heard.
#[derive(Debug)]
pub enum Message {
    /// An event from the helper.
    Helper(Box<Event>),
    /// A line from the helper that is no event.
    Garbled(String),
    /// The helper has hung up.
    HelperGone,
    /// An event from the transport.
    Transport(Box<Event>),
    /// Neither it nor anything it left behind can say more.
    TransportGone,
    /// A line of xl's.
    Xl(String),
    /// A line from the destination, or from what leads there.
    There(String),
    /// The destination reported that the guest runs: when, by
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    TargetStarted(u64),
    /// Nothing more will come from xl.
    XlSilent,
    /// Nothing more will come from there.
    ThereSilent,
    /// xl has ended.
    XlEnded(XlEnd),
    /// The operator wants to stop.
    Stop,
    /// The operator wants to suspend lull itself (^Z).
    Background,
}

/// The receiving end.
pub struct Inbox {
    queue: Receiver<Message>,
    post: Post,
}

/// A sending end.
#[derive(Clone)]
struct Post {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
}

impl Post {
    fn send(&self, message: Message) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody listens any more: the attempt is over.
        let _ = self.queue.send(message);
    }

    fn send_for_show(&self, message: Message) {
        if self.waiting.load(Ordering::Relaxed) < LONG {
            self.send(message);
        }
    }
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        let (sender, queue) = channel();
        let waiting = Arc::default();
        Self {
            queue,
            post: Post {
                queue: sender,
                waiting,
            },
        }
    }

    /// The next message; `None` when none came in time.
    pub fn next(&self, within: Duration) -> Option<Message> {
        match self.queue.recv_timeout(within) {
            Ok(message) => {
                self.post.waiting.fetch_sub(1, Ordering::Relaxed);
                Some(message)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// As the signal of an operator who wants to stop.
    #[cfg(test)]
    pub fn ask_to_stop(&self) {
        self.post.send(Message::Stop);
    }

    /// Hears signals from now on, in place of their effect.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn hear_signals(&self) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP])?;
        let post = self.post.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                post.send(match signal {
                    SIGTSTP => Message::Background,
                    _ => Message::Stop,
                });
            }
        });
        Ok(())
    }

    /// Hears the helper, and lets the transport know before anybody else:
    /// while the guest is paused it decides by that. An engine does so itself.
    pub fn hear_helper(&self, from: impl io::Read + Send + 'static, transport: Option<Orders>) {
        let post = self.post.clone();
        thread::spawn(move || {
            // An error is an end like any other.
            let _ = each_line(from, |line| match serde_json::from_str::<Line>(line) {
                Ok(Line {
                    event: event @ (Event::Progress(_) | Event::Log(_)),
                    ..
                }) => post.send_for_show(Message::Helper(Box::new(event))),
                Ok(line) => {
                    if let Some(transport) = &transport {
                        transport.pass_on(&line.event);
                    }
                    post.send(Message::Helper(Box::new(line.event)));
                }
                Err(_) => post.send_for_show(Message::Garbled(line.to_owned())),
            });
            post.send(Message::HelperGone);
        });
    }

    /// Hears the transport.
    pub fn hear_transport(&self, from: impl io::Read + Send + 'static) {
        let post = self.post.clone();
        thread::spawn(move || {
            let _ = each_line(from, |line| {
                if let Ok(line) = serde_json::from_str::<Line>(line) {
                    post.send(Message::Transport(Box::new(line.event)));
                }
            });
            post.send(Message::TransportGone);
        });
    }

    /// Hears what the destination prints, and what leads there.
    pub fn hear_there(&self, from: impl io::Read + Send + 'static) {
        let post = self.post.clone();
        thread::spawn(move || {
            let _ = each_line(from, |line| {
                post.send_for_show(Message::There(line.to_owned()));
            });
            post.send(Message::ThereSilent);
        });
    }

    /// Hears what xl prints.
    pub fn hear_xl(&self, from: impl io::Read + Send + 'static) {
        let post = self.post.clone();
        thread::spawn(move || {
            let mut handshake = Handshake::default();
            let _ = each_line(from, |line| {
                // Now, before anything else: this moment ends the pause.
                let now = now_ns();
                let before = handshake.clone();
                handshake.line(line);
                if handshake == before {
                    post.send_for_show(Message::Xl(line.to_owned()));
                    return;
                }
                if handshake.step == Step::TargetStarted && before.step != Step::TargetStarted {
                    post.send(Message::TargetStarted(now));
                }
                post.send(Message::Xl(line.to_owned()));
            });
            post.send(Message::XlSilent);
        });
    }

    /// Hears of xl's end.
    pub fn hear_end(&self, mut xl: Child) {
        let post = self.post.clone();
        thread::spawn(move || {
            let end = match xl.wait() {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => XlEnd::Exited(code),
                    (None, signal) => XlEnd::Killed(signal.unwrap_or(0)),
                },
                // Only if something else waited for our child: its end is
                // then all that is known.
                Err(_) => XlEnd::Killed(0),
            };
            post.send(Message::XlEnded(end));
        });
    }
}
