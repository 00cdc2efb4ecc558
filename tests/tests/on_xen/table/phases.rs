//! The steps of a migration, and the means to hold an attempt between two of them.

use std::fmt;
use std::time::Duration;

use lull_tests::ssh::quote;

use crate::attempt::Plan;

/// The step during which the fault is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The destination's receiver has answered; nothing has been sent yet.
    Connecting,
    /// The helper runs and sets up its stub and the dirty log.
    Preparing,
    /// All pages are being sent.
    FirstRound,
    /// The pages that were dirtied in the meantime are being sent again.
    LaterRound,
    /// The guest has been asked to suspend itself and has not done so.
    Suspending,
    /// The guest has stopped; its last pages are being sent.
    FinalRound,
    /// The stream is complete; the destination has not received its end.
    Landing,
    /// The destination is ready; lull does not know it yet.
    Ready,
    /// In a fast landing the destination builds the guest.
    Building,
    /// The destination is ready; `lull land` looks for the guest.
    Attaching,
    /// The pages that were dirtied in the meantime are sent over the channel.
    ChannelRound,
    /// xl has said GO while the guest runs; the destination has not received it yet.
    HandingOver,
    /// The destination has taken the guest's name; the source does not know it yet.
    HandedOver,
    /// The guest has been asked to suspend itself and has not done so.
    ChannelSuspending,
    /// The guest has stopped; its last pages are sent over the channel.
    ChannelFinal,
    /// The last pages are in place; the final state is on its way.
    ChannelState,
    /// Everything is in place; the source does not know it yet.
    Landed,
    /// GO has been sent; the destination has not received it yet.
    Go,
    /// In a fast landing the word to start the copy has been sent and has not arrived.
    Starting,
    /// The copy runs; the source does not know it yet.
    Started,
    /// The guest runs at the destination; xl does not know it yet.
    Reporting,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connecting => "connecting",
            Self::Preparing => "preparing",
            Self::FirstRound => "first round",
            Self::LaterRound => "later round",
            Self::Suspending => "suspending",
            Self::FinalRound => "final round",
            Self::Landing => "landing",
            Self::Ready => "READY",
            Self::Building => "fast, building",
            Self::Attaching => "fast, attaching",
            Self::ChannelRound => "fast, later round",
            Self::HandingOver => "fast, handing over",
            Self::HandedOver => "fast, handed over",
            Self::ChannelSuspending => "fast, suspending",
            Self::ChannelFinal => "fast, final round",
            Self::ChannelState => "fast, state",
            Self::Landed => "fast, landed",
            Self::Go => "GO",
            Self::Starting => "fast, starting",
            Self::Started => "fast, started",
            Self::Reporting => "reporting",
        })
    }
}

/// A command that prints the helper's process id once it runs.
pub const HELPER: &str = "pgrep -f '^/usr/local/bin/lull --save-domain '";

impl Phase {
    /// Returns the place at which the agent holds the connection.
    const fn place(self) -> &'static str {
        match self {
            Self::Connecting => "banner",
            Self::Preparing => "helper",
            // From this phase on the rig holds the guest instead of the connection.
            Self::FirstRound | Self::Suspending => "first-round",
            Self::LaterRound => "later-round",
            Self::FinalRound => "stopped",
            Self::Landing => "cpu-state",
            Self::Ready | Self::Building => "ready",
            Self::Attaching | Self::ChannelSuspending => "attach",
            Self::ChannelRound => "later-round",
            Self::ChannelFinal => "stopped",
            Self::ChannelState => "state",
            Self::Landed => "landed",
            Self::Go | Self::HandingOver => "go",
            Self::Reporting | Self::HandedOver => "report",
            Self::Starting => "start",
            Self::Started => "started",
        }
    }

    /// Checks whether the guest is to land fast.
    const fn is_fast(self) -> bool {
        self.is_on_channel()
            || matches!(self, Self::Building | Self::HandingOver | Self::HandedOver)
    }

    /// Checks whether the agent holds the connection to `lull land`.
    const fn is_on_channel(self) -> bool {
        matches!(
            self,
            Self::Attaching
                | Self::ChannelRound
                | Self::ChannelSuspending
                | Self::ChannelFinal
                | Self::ChannelState
                | Self::Landed
                | Self::Starting
                | Self::Started
        )
    }

    /// Returns the limit on the pause. It is either so near to the costs that are assumed
    /// for an unknown landing that another round is needed, or it leaves time for every
    /// fault.
    pub const fn limit(self) -> Duration {
        match self {
            Self::LaterRound => Duration::from_millis(3_400),
            Self::ChannelRound => Duration::from_millis(1_400),
            _ => Duration::from_secs(20),
        }
    }

    /// Returns the time after the request at which a guest would stop too late. In a classic
    /// landing the rest of the limit is less than the assumed landing, and enough to resume
    /// the guest. In a fast one nothing is left: by then the request has been taken back.
    pub const fn too_late(self) -> Duration {
        let left = if self.is_fast() { 0 } else { 3 };
        self.limit().saturating_sub(Duration::from_secs(left))
    }

    /// Returns an attempt that runs the shell command `fault` in this phase of the
    /// migration of the domain `source`, and goes on at `rate`.
    pub fn plan(self, fault: &str, source: u32, rate: u64) -> Plan {
        let held = self.held(fault, source, rate);
        if self.is_on_channel() {
            return Plan::direct().fast_by(&format!("hold-land {held}"));
        }
        let plan = Plan::by(&format!("hold-at {held}"));
        match self.is_fast() {
            true => plan.fast_by(""),
            false => plan,
        }
    }

    fn held(self, fault: &str, source: u32, rate: u64) -> String {
        let command = match self {
            Self::Preparing => format!("until {HELPER}; do sleep 0.02; done; {fault}"),
            // A guest that gets no processor finds the request only later, and by then the
            // process that made the request is gone. A watch reports at once that it is
            // set, and then reports the request; polling would take all of dom0.
            Self::Suspending | Self::ChannelSuspending => format!(
                "xl pause {source}; \
                 {{ timeout 120 xenstore-watch -n 2 /local/domain/{source}/control/shutdown \
                 >/dev/null && {{ {fault}; sleep 1; }}; \
                 xl unpause {source}; }} & \
                 sleep 1"
            ),
            _ => fault.to_owned(),
        };
        format!("{} {rate} {source} {} --", self.place(), quote(&command))
    }
}
