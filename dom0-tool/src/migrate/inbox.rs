//! One queue for everything that an attempt receives: from the helper, xl and signals.
//!
//! Each source has a thread that only reads and forwards. No thread ever waits for the
//! terminal: if lull's output blocked, xl would block while writing to lull, and the guest
//! would stay paused. When the queue is long, messages that are only displayed are dropped.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use lull_base::lines::each_line;
use lull_base::monotonic::now_ns;
use lull_store::attempt::outcome::XlEnd;
use lull_wire::events::{Event, Line};
use lull_wire::xl::handshake::{Handshake, Step};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;

/// Number of waiting messages beyond which displayed-only messages are dropped.
const LONG: usize = 1024;

/// A message that the attempt receives.
#[derive(Debug)]
pub enum Message {
    /// An event from the helper.
    Helper(Box<Event>),
    /// A line from the helper that is not an event.
    Garbled(String),
    /// The helper has closed its connection.
    HelperGone,
    /// An event from the transport.
    Transport(Box<Event>),
    /// The transport and everything that inherited its socket have closed it.
    TransportGone,
    /// A line that xl printed.
    Xl(String),
    /// A line from the destination, or from the program that connects to it.
    There(String),
    /// The destination reported that the guest runs, at this time in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    TargetStarted(u64),
    /// xl's pipe has ended.
    XlSilent,
    /// The destination's pipe has ended.
    ThereSilent,
    XlEnded(XlEnd),
    /// The operator asks to stop.
    Stop,
    /// The operator asks to suspend lull itself (^Z).
    Background,
}

/// The receiving end of the queue.
pub struct Inbox {
    queue: Receiver<Message>,
    post: Post,
}

/// A sending end of the queue.
#[derive(Clone)]
struct Post {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
}

impl Post {
    fn send(&self, message: Message) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // This fails only after the attempt is over, when the queue is no longer read.
        let _ = self.queue.send(message);
    }

    fn send_for_show(&self, message: Message) {
        if self.waiting.load(Ordering::Relaxed) < LONG {
            self.send(message);
        }
    }
}

impl Inbox {
    /// Creates an empty inbox.
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

    /// Returns the next message, or `None` if none arrives within that time.
    pub fn next(&self, within: Duration) -> Option<Message> {
        match self.queue.recv_timeout(within) {
            Ok(message) => {
                self.post.waiting.fetch_sub(1, Ordering::Relaxed);
                Some(message)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Posts the message that a signal to stop would post.
    #[cfg(test)]
    pub fn ask_to_stop(&self) {
        self.post.send(Message::Stop);
    }

    /// Receives signals as messages from now on, in place of their default action.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn recv_signals(&self) -> io::Result<()> {
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

    /// Receives the helper's events.
    pub fn recv_helper(&self, from: impl io::Read + Send + 'static) {
        let post = self.post.clone();
        thread::spawn(move || {
            // A read error counts as the end.
            let _ = each_line(from, |line| match serde_json::from_str::<Line>(line) {
                Ok(Line {
                    event: event @ (Event::Progress(_) | Event::Log(_)),
                    ..
                }) => post.send_for_show(Message::Helper(Box::new(event))),
                Ok(line) => post.send(Message::Helper(Box::new(line.event))),
                Err(_) => post.send_for_show(Message::Garbled(line.to_owned())),
            });
            post.send(Message::HelperGone);
        });
    }

    /// Receives the transport's events.
    pub fn recv_transport(&self, from: impl io::Read + Send + 'static) {
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

    /// Receives what the destination and the program that connects to it print.
    pub fn recv_destination(&self, from: impl io::Read + Send + 'static) {
        let post = self.post.clone();
        thread::spawn(move || {
            let _ = each_line(from, |line| {
                post.send_for_show(Message::There(line.to_owned()));
            });
            post.send(Message::ThereSilent);
        });
    }

    /// Receives what xl prints.
    pub fn recv_xl(&self, from: impl io::Read + Send + 'static) {
        let post = self.post.clone();
        thread::spawn(move || {
            let mut handshake = Handshake::default();
            let _ = each_line(from, |line| {
                // The time is taken first, because this moment ends the pause.
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

    /// Waits for xl to end.
    pub fn recv_end(&self, mut xl: Child) {
        let post = self.post.clone();
        thread::spawn(move || {
            let end = match xl.wait() {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => XlEnd::Exited(code),
                    (None, signal) => XlEnd::Killed(signal.unwrap_or(0)),
                },
                // This happens only if the child was waited for elsewhere; nothing but its
                // end is known then.
                Err(_) => XlEnd::Killed(0),
            };
            post.send(Message::XlEnded(end));
        });
    }
}
