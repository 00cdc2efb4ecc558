//! One attempt, followed from the start of xl until no more messages can arrive.

use std::io::{self, PipeReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lull_agents::transport::gate_channel::GateChannel;
use lull_base::monotonic::now_ns;
use lull_store::attempt::observed::ObservedAttempt;
use lull_store::attempt::outcome::{HelperSeen, Intent};
use lull_wire::control::Answer;
use lull_wire::events::{Command, Event};
use lull_wire::gate::GateCommand;
use lull_wire::json;
use rustix::io::ioctl_fionread;

use crate::landing::caller::Call;

use super::control_takeover::LandingControl;
use super::inbox::{Inbox, Message};
use super::judged;
use super::progress::Watcher;
use super::xl::Plan;

/// Interval at which the display is refreshed while no message arrives.
const TICK: Duration = Duration::from_millis(100);

/// xl's last messages may still be in the pipe after xl has ended, among them that it sent
/// GO. They are awaited until the pipe ends, or has been empty and silent for this long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Longest wait for another process that holds the pipe open and keeps writing; xl's own
/// messages were in the pipe before.
const OTHERS_WORDS: Duration = Duration::from_secs(10);

/// Time that a helper has after xl's end to undo its changes. It resumes a suspended guest
/// first; the rest of the time is for a stub that is slow to die.
const UNDOING: Duration = Duration::from_secs(60);

/// Time without a report after a cancel, after which no helper is assumed to exist. Xen's
/// own helper does not know about cancel, and another may hang. lull's helper reads the
/// command when it starts.
const HELPER_SILENCE: Duration = Duration::from_secs(10);

/// Time that a helper which has just started has to find that the timeout is over.
const HELPER_FIRST: Duration = Duration::from_millis(200);

/// The result of an attempt.
#[derive(Debug)]
pub struct Attempted {
    /// What was observed of the attempt.
    pub observed: ObservedAttempt,
    /// What the operator wanted in the end.
    pub intent: Intent,
}

/// Starts xl, and lull's own engine if a `lull land` waits, and follows the attempt until
/// it is over.
///
/// # Errors
/// When xl cannot be started; nothing has happened then.
pub fn run(
    plan: &Plan<'_>,
    call: Option<Call>,
    inbox: &Inbox,
    watcher: &mut Watcher,
) -> io::Result<Attempted> {
    let started = plan.start(call)?;
    let outputs = [
        started.xl_output.try_clone()?,
        started.destination_output.try_clone()?,
    ];
    let mut attempt = Attempt {
        gate: started.gate,
        helper: started.helper.try_clone()?,
        observed: ObservedAttempt::default(),
        control: LandingControl::of(plan.guest.domid, plan.control),
        intent: Intent::Move,
        outputs,
        helper_gone: false,
        xl_silent: false,
        there_silent: false,
        last_output_at: Instant::now(),
        ended_at: None,
        cancelled_at: None,
        out_of_time_at: plan.options.time_limit().and_then(|timeout| {
            let patience = Duration::from_micros(timeout.as_micros()) + HELPER_FIRST;
            let waited = Duration::from_nanos(now_ns().saturating_sub(plan.begun));
            Instant::now().checked_add(patience.saturating_sub(waited))
        }),
    };
    // A helper that does not read must not block a later Cancel.
    attempt.helper.set_write_timeout(Some(TICK))?;
    inbox.recv_helper(started.helper);
    inbox.recv_transport(started.transport);
    inbox.recv_xl(started.xl_output);
    inbox.recv_destination(started.destination_output);
    inbox.recv_end(started.process);
    while !attempt.is_over() {
        match inbox.next(TICK) {
            Some(message) => attempt.handle(message, watcher),
            None => watcher.tick(),
        }
        attempt.serve_control(watcher);
        attempt.press();
    }
    if let Some(engine) = started.engine {
        engine.end();
    }
    let mut control = attempt.control;
    let attempted = Attempted {
        observed: attempt.observed,
        intent: attempt.intent,
    };
    let judgement = judged(&attempted);
    control.end(judgement.outcome.how(), judgement.why);
    Ok(attempted)
}

struct Attempt<'a> {
    helper: UnixStream,
    gate: GateChannel,
    observed: ObservedAttempt,
    control: LandingControl<'a>,
    intent: Intent,
    /// The pipes of xl and of the destination, in this order.
    outputs: [PipeReader; 2],
    helper_gone: bool,
    xl_silent: bool,
    there_silent: bool,
    /// When one of the two pipes was last known to hold data.
    last_output_at: Instant,
    ended_at: Option<Instant>,
    /// When the attempt was cancelled; `None` once the transport has been asked to hang up.
    cancelled_at: Option<Instant>,
    /// When the timeout is over, for an attempt without a helper; `None` once it is over. A
    /// helper that has reported enforces the timeout itself.
    out_of_time_at: Option<Instant>,
}

impl Attempt<'_> {
    fn is_over(&mut self) -> bool {
        let Some(ended_at) = self.ended_at else {
            return false;
        };
        let waited = ended_at.elapsed();
        let holds_some = |output| ioctl_fionread(output).is_ok_and(|unread| unread > 0);
        if self.outputs.iter().any(holds_some) {
            self.last_output_at = Instant::now();
        }
        let quiet = self.last_output_at.max(ended_at).elapsed();
        let silent = self.xl_silent && self.there_silent;
        let has_all_of_xl = silent || quiet >= LAST_WORDS || waited >= OTHERS_WORDS;
        let has_all_of_helper =
            self.observed.ended.is_some() || self.helper_gone || waited >= UNDOING;
        let observed = &self.observed;
        let has_verdict = observed.answered.is_some() || observed.hung_up.is_some();
        let has_all_of_transport = has_verdict || observed.transport_gone || waited >= LAST_WORDS;
        has_all_of_xl && has_all_of_helper && has_all_of_transport
    }

    fn handle(&mut self, message: Message, watcher: &mut Watcher) {
        match message {
            Message::Helper(event) => {
                watcher.event(&event);
                self.control.note(&event);
                if matches!(*event, Event::CancelAsked) {
                    watcher.note(self.stop().words());
                }
                self.observed.helper_said(*event);
            }
            Message::Garbled(line) => {
                watcher.detail(
                    "helper",
                    &format!("not understood: {}", line.escape_debug()),
                );
            }
            Message::Transport(event) => {
                watcher.event(&event);
                self.observed.transport_said(*event);
            }
            Message::TransportGone => self.observed.transport_gone = true,
            Message::HelperGone => self.helper_gone = true,
            Message::Xl(line) => {
                self.last_output_at = Instant::now();
                watcher.detail("xl", &line);
                self.observed.xl_said(&line);
            }
            Message::There(line) => {
                self.last_output_at = Instant::now();
                watcher.detail("there", &line);
                self.observed.there_said(&line);
            }
            Message::ThereSilent => self.there_silent = true,
            Message::TargetStarted(at_ns) => self.observed.target_started_ns = Some(at_ns),
            Message::XlSilent => self.xl_silent = true,
            Message::XlEnded(end) => {
                self.observed.xl = Some(end);
                self.ended_at = Some(Instant::now());
            }
            Message::Stop => watcher.note(self.stop().words()),
            Message::Background => {
                watcher.note("not stopping in the middle of a migration: ^C cancels it");
            }
        }
    }

    /// Serves the clients of the control socket while the guest lands.
    fn serve_control(&mut self, watcher: &mut Watcher) {
        if !self.control.turn() {
            return;
        }
        let stopped = self.stop();
        watcher.note(stopped.words());
        let words = stopped.words().to_owned();
        self.control.answer(match stopped {
            Stopped::TooLate => Answer::Refused { why: words },
            Stopped::Already | Stopped::Now => Answer::Done { said: words },
        });
    }

    fn stop(&mut self) -> Stopped {
        if self.observed.is_past_point_of_no_return() {
            return Stopped::TooLate;
        }
        if self.intent == Intent::Cancel {
            return Stopped::Already;
        }
        self.intent = Intent::Cancel;
        self.send_to_helper(Command::Cancel);
        // If the helper's part is over or has not begun, only the transport can give up.
        self.gate.send(GateCommand::Cancel);
        self.cancelled_at = Some(Instant::now());
        Stopped::Now
    }

    /// Sends a command to the helper. If this fails the helper is gone; a helper that has
    /// not started yet reads the line later.
    fn send_to_helper(&mut self, command: Command) {
        let _ = json::line(&command).and_then(|line| self.helper.write_all(&line));
    }

    /// Closes the connection to stop xl while there is no helper to cancel or to enforce
    /// the timeout.
    fn press(&mut self) {
        let silent = self.observed.helper == HelperSeen::Never;
        if silent && self.out_of_time_at.is_some_and(|at| at <= Instant::now()) {
            self.out_of_time_at = None;
            if self.intent == Intent::Move && !self.observed.is_past_point_of_no_return() {
                self.intent = Intent::OutOfTime;
                self.gate.send(GateCommand::HangUp);
            }
        }
        if silent
            && self
                .cancelled_at
                .is_some_and(|at| at.elapsed() >= HELPER_SILENCE)
        {
            self.cancelled_at = None;
            self.gate.send(GateCommand::HangUp);
        }
    }
}

/// The result of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Now,
    Already,
    TooLate,
}

impl Stopped {
    const fn words(self) -> &'static str {
        match self {
            Self::Now => {
                "cancelling: the guest stays at the source; waiting until everything is undone"
            }
            Self::Already => "already cancelling; waiting until everything is undone",
            Self::TooLate => {
                "too late to cancel: the destination has permission to start the guest; waiting for its report"
            }
        }
    }
}
