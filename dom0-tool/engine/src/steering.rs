//! Applies the operator's requests to a running migration. Both machines decide, dom0's and
//! the stub's; this module only rejects requests that come too late.

use std::time::Instant;

use lull_base::bandwidth::Bandwidth;
use lull_base::fmt::{Limit, Millis, or_dash};
use lull_core::limits::{DowntimeLimit, Limits, Timeout};
use lull_core::machine::Event;
use lull_wire::events;

use super::attempt::Verify;
use super::failure::Failure;
use super::session::Session;
use super::throttle::Throttle;

/// A request of the operator. A field that is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorRequest {
    /// Changes one or more limits.
    Limits {
        /// The limit on the pause.
        max_suspend: Option<DowntimeLimit>,
        /// The limit on the time until the guest is asked to stop.
        timeout: Option<Timeout>,
        /// The bandwidth cap until then.
        bandwidth: Option<Bandwidth>,
    },
    /// Ends the copying with this round, if the pause fits.
    SwitchNow,
}

/// The outcome of a request, in one sentence. `Ok` means that it was granted.
pub type Reply = Result<String, String>;

impl Session<'_> {
    /// Takes the operator's next request, and grants or refuses it.
    pub(super) fn apply_requests(&mut self) -> Result<(), Failure> {
        if !self.begun {
            return Ok(());
        }
        let Some(request) = self.host.request() else {
            return Ok(());
        };
        let reply = self.apply(request)?;
        self.host.reply(reply);
        Ok(())
    }

    fn apply(&mut self, request: OperatorRequest) -> Result<Reply, Failure> {
        let machine = self.peer.machine();
        if !machine.accepts_changes() {
            return Ok(Err(
                "too late: the guest was asked to stop, or the attempt is over".into(),
            ));
        }
        if !self.peer.has_room() {
            return Ok(Err("the stub domain is busy; try again".into()));
        }
        let limits = machine.config().limits;
        match request {
            OperatorRequest::Limits {
                max_suspend,
                timeout,
                bandwidth,
            } => {
                if max_suspend.is_some() && self.request.verify == Verify::Yes {
                    return Ok(Err("--debug pauses the guest for as long as it takes to send all of it again: not with a limit".into()));
                }
                if max_suspend.is_some() || timeout.is_some() {
                    let limits = Limits {
                        max_suspend: max_suspend.or(limits.max_suspend),
                        timeout: timeout.or(limits.timeout),
                    };
                    self.peer.feed(self.now(), Event::Limits(limits))?;
                }
                if let Some(bandwidth) = bandwidth.filter(|_| self.peer.machine().accepts_changes())
                {
                    self.hold_to(bandwidth)?;
                }
                self.emit_limits().map(Ok)
            }
            OperatorRequest::SwitchNow => {
                let predicted = machine.prediction().map(|p| p.total());
                self.peer.feed(self.now(), Event::SwitchNow)?;
                self.notify()?;
                Ok(Ok(format!(
                    "the guest is asked to stop at the end of this round, if the pause fits (predicted now {}, limit {})",
                    or_dash(predicted.map(|pause| Millis(pause.as_millis_ceil()))),
                    or_dash(limits.max_suspend.map(|limit| Limit(limit.micros().0))),
                )))
            }
        }
    }

    /// Applies this bandwidth cap from now on.
    pub(super) fn hold_to(&mut self, bandwidth: Bandwidth) -> Result<(), Failure> {
        self.peer.feed(self.now(), Event::Bandwidth(bandwidth.0))?;
        let now = Instant::now();
        self.throttle = bandwidth.0.map(|cap| Throttle::new(cap, now));
        self.held_back = false;
        Ok(())
    }

    /// The bandwidth cap in force now.
    fn bandwidth(&self) -> Bandwidth {
        Bandwidth(self.throttle.as_ref().map(Throttle::cap))
    }

    fn emit_limits(&mut self) -> Result<String, Failure> {
        self.notify()?;
        let limits = self.peer.machine().config().limits;
        let bandwidth = self.bandwidth();
        let at_ms = self.request.start.elapsed().as_millis() as u64;
        let now = events::InForce::new(at_ms, limits, bandwidth);
        let mut text = format!(
            "from now on limit {}, timeout {}, bandwidth {bandwidth}",
            or_dash(limits.max_suspend.map(|limit| Limit(limit.micros().0))),
            or_dash(limits.timeout.map(|timeout| Limit(timeout.micros().0))),
        );
        self.host.emit(events::Event::Limits(now));
        if !self.peer.machine().accepts_changes() {
            text.push_str("; that cannot be kept, so the migration ends");
        }
        Ok(text)
    }
}
