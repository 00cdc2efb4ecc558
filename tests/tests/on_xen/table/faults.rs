//! The faults that are injected.

use std::fmt;
use std::time::Duration;

use lull_tests::Guest;

use super::phases::HELPER;

/// A fault to be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// lull's save helper is killed.
    Helper,
    /// The stub domain is destroyed.
    Stub,
    /// The source's xl is killed.
    Xl,
    /// lull's relay is killed.
    Relay,
    /// The process that connects to the destination is killed, as an ssh may be.
    Ssh,
    /// The process that reads the stream at the destination is killed.
    Receiver,
    /// The engine of a fast landing is killed.
    Engine,
    /// `lull land` is killed.
    Land,
    /// The destination's xl is killed.
    Incoming,
    /// `lull migrate` itself is killed.
    FrontEnd,
    /// The operator types ^C.
    Cancel,
    /// The link carries nothing any more.
    Stall,
    /// The link carries next to nothing any more.
    Collapse,
    /// The destination has no memory left for the guest.
    NoMemory,
    /// The source's disk is full.
    FullDisk,
    /// The guest stops so late that there is at most time to resume it.
    LateSuspend,
    /// The guest's kernel crashes.
    Crash,
    /// Another program destroys the guest.
    Destroy,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Helper => "helper killed",
            Self::Stub => "stub destroyed",
            Self::Xl => "xl killed",
            Self::Relay => "relay killed",
            Self::Ssh => "ssh killed",
            Self::Receiver => "receiver killed",
            Self::Engine => "engine killed",
            Self::Land => "lull land killed",
            Self::Incoming => "xl there killed",
            Self::FrontEnd => "lull migrate killed",
            Self::Cancel => "^C",
            Self::Stall => "link stalls",
            Self::Collapse => "link collapses",
            Self::NoMemory => "no memory there",
            Self::FullDisk => "disk full",
            Self::LateSuspend => "suspends late",
            Self::Crash => "guest crashes",
            Self::Destroy => "guest destroyed",
        })
    }
}

/// The rate of a link that has collapsed, bytes a second. At this rate the guest's last
/// pages, the few hundred that it dirties in order to stop, take more than the pause's
/// limit.
const COLLAPSED: u64 = 50_000;

/// Returns a command that kills the processes that `found` prints, and waits until they are
/// dead: a process dies when the processor is free. A dead one has no command line. The other
/// processes then have a second to notice.
fn kill(found: &str) -> String {
    format!(
        "p=$({found}); kill -KILL $p; \
         while cat $(printf '/proc/%s/cmdline ' $p) 2>/dev/null | grep -q .; do sleep 0.1; done; \
         sleep 1"
    )
}

impl Fault {
    /// Returns the shell command that injects the fault, run in dom0 as a child of the
    /// agent.
    pub fn command(self, guest: &Guest, source: u32, too_late: Duration) -> String {
        let name = guest.name();
        match self {
            Self::Helper => kill(HELPER),
            // The stub may not have its name yet.
            Self::Stub => format!("until xl destroy lull-stub-{source}; do :; done"),
            Self::Xl => kill("pgrep -f '^[^ ]*xl migrate '"),
            Self::Relay => kill("pgrep -o -f '^/usr/local/bin/lull transport '"),
            Self::Ssh => "kill -KILL $AGENT".into(),
            Self::Engine => kill("pgrep -f '^/usr/local/bin/lull engine '"),
            Self::Land => "kill -KILL $CHILD".into(),
            Self::Incoming => "pkill -KILL -f '^[^ ]*xl migrate-receive'".into(),
            // pkill matches the first 15 letters of the name.
            Self::Receiver => "pkill -KILL -x libxl-save-help".into(),
            Self::FrontEnd => kill("pgrep -o -f '^lull migrate '"),
            Self::Cancel => "kill -INT $(pgrep -o -f '^lull migrate '); sleep 1".into(),
            Self::Stall => "kill -STOP $AGENT".into(),
            Self::Collapse => ":".into(),
            Self::NoMemory => format!("rig-agent squeeze $(xl domid {name}--incoming)"),
            Self::FullDisk => "head -c 9000000 /dev/zero >/var/lib/lull/ballast".into(),
            Self::LateSuspend => format!("sleep {}", too_late.as_secs() - 1),
            Self::Crash => format!(
                "rig-agent ask {}:7000 '{{\"cmd\":\"crash\"}}' 1; sleep 1",
                guest.ip()
            ),
            Self::Destroy => format!("xl destroy {source}"),
        }
    }

    /// Returns the link rate from then on, bytes a second; 0 for no limit.
    pub const fn rate(self) -> u64 {
        match self {
            Self::Collapse => COLLAPSED,
            _ => 0,
        }
    }

    /// Returns the command that prepares the fault before the attempt.
    pub const fn prepared_by(self) -> Option<&'static str> {
        match self {
            Self::FullDisk => Some(
                "mkdir -p /var/lib/lull && busybox mount -t tmpfs -o size=1m disk /var/lib/lull",
            ),
            _ => None,
        }
    }

    /// Returns the command that repairs the host after the attempt.
    pub const fn repaired_by(self) -> Option<&'static str> {
        match self {
            Self::FullDisk => Some("busybox umount /var/lib/lull"),
            Self::Stall => Some("pkill -CONT -x rig-agent; true"),
            _ => None,
        }
    }
}
