//! Observes a guest from outside. The guest's own clock stands still while it is suspended,
//! so only missing answers show how long it was gone.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::guest::Guest;
use crate::host::Host;
use crate::ssh::Spawned;

/// The time in milliseconds from one ping to the next.
const INTERVAL_MS: u64 = 20;

/// The shortest gap, in milliseconds, that is listed.
const LISTED_MS: f64 = 60.0;

/// Pings a guest from dom0 every 20 ms until it is stopped.
pub struct Observer<'a> {
    host: &'a Host,
    running: Spawned<'a>,
    stop_file: String,
}

/// One gap between two successive replies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    /// The start of the gap, in milliseconds after the start of the observation.
    pub start_ms: f64,
    /// The time without a reply, less the interval between two pings, in milliseconds.
    pub length_ms: f64,
}

/// The result of an observation.
#[derive(Debug, Clone, Default)]
pub struct Outages {
    /// The longest time without a reply, less the interval, in milliseconds. It includes
    /// the time that dom0 itself was stalled; see `dom0_stall_ms`.
    pub longest_ms: f64,
    /// The number of pings without a reply.
    pub lost: u64,
    /// The number of replies.
    pub answered: u64,
    /// Every gap of 60 ms or more.
    pub list: Vec<Outage>,
    /// The longest time by which dom0 was late to send a ping, in milliseconds. This is the
    /// uncertainty of the measurement: an outage shorter than this proves nothing.
    pub dom0_stall_ms: f64,
    /// The times at which the first and the last ping were sent, by dom0's CLOCK_MONOTONIC,
    /// in nanoseconds.
    pub span_ns: (u64, u64),
}

#[derive(Deserialize)]
struct Ping {
    sent_ns: u64,
    reply_ns: Option<u64>,
}

impl Host {
    /// Observes a guest from now on. Returns once pings are being sent.
    pub fn observe(&self, guest: &Guest) -> Result<Observer<'_>> {
        let observer = self.observe_soon(guest)?;
        // ssh and the agent need that long to start.
        std::thread::sleep(Duration::from_secs(1));
        Ok(observer)
    }

    /// Observes a guest, starting about a second from now.
    pub fn observe_soon(&self, guest: &Guest) -> Result<Observer<'_>> {
        let stop_file = format!("/run/rig/stop-ping-{}", guest.ip());
        let running = self.spawn(&format!(
            "rm -f {stop_file}; exec rig-agent ping {} {INTERVAL_MS} {stop_file}",
            guest.ip()
        ))?;
        Ok(Observer {
            host: self,
            running,
            stop_file,
        })
    }
}

impl Observer<'_> {
    /// Ends the observation and returns the result.
    pub fn stop(mut self) -> Result<Outages> {
        self.host
            .run(&format!("touch {}", self.stop_file))?
            .checked()?;
        let output = self
            .running
            .wait(Duration::from_secs(20))?
            .context("the ping did not end")?;
        let mut pings = Vec::new();
        for line in output.stdout.lines() {
            pings.push(serde_json::from_str::<Ping>(line)?);
        }
        anyhow::ensure!(
            !pings.is_empty(),
            "the ping saw nothing: {}",
            output.stderr.trim()
        );
        Ok(evaluate(&pings))
    }
}

fn evaluate(pings: &[Ping]) -> Outages {
    let interval = INTERVAL_MS as f64;
    let Some((first, last)) = pings.first().zip(pings.last()) else {
        return Outages::default();
    };
    let mut outages = Outages {
        span_ns: (first.sent_ns, last.sent_ns),
        ..Outages::default()
    };
    let mut replies: Vec<u64> = pings.iter().filter_map(|p| p.reply_ns).collect();
    replies.sort_unstable();
    outages.answered = replies.len() as u64;
    outages.lost = pings.len() as u64 - outages.answered;
    // A guest that never comes back counts as out until the end of the observation.
    if outages.lost > 0 {
        replies.push(last.sent_ns.max(replies.last().copied().unwrap_or(0)));
    }
    for pair in replies.windows(2) {
        let length_ms = millis(pair[1] - pair[0]) - interval;
        outages.longest_ms = outages.longest_ms.max(length_ms);
        if length_ms >= LISTED_MS {
            outages.list.push(Outage {
                start_ms: millis(pair[0].saturating_sub(first.sent_ns)),
                length_ms,
            });
        }
    }
    for pair in pings.windows(2) {
        let late = millis(pair[1].sent_ns - pair[0].sent_ns) - interval;
        outages.dom0_stall_ms = outages.dom0_stall_ms.max(late);
    }
    outages
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(sent_ms: u64, reply_ms: Option<u64>) -> Ping {
        Ping {
            sent_ns: sent_ms * 1_000_000,
            reply_ns: reply_ms.map(|ms| ms * 1_000_000),
        }
    }

    #[test]
    fn the_gap_between_replies_less_the_interval_is_the_outage() {
        let pings = [
            ping(0, Some(1)),
            ping(20, Some(21)),
            ping(40, None),
            ping(60, None),
            ping(80, Some(121)),
            ping(100, Some(122)),
        ];
        let outages = evaluate(&pings);
        assert_eq!(outages.longest_ms, 80.0);
        assert_eq!((outages.lost, outages.answered), (2, 4));
        assert_eq!(
            outages.list,
            [Outage {
                start_ms: 21.0,
                length_ms: 80.0
            }]
        );
        assert_eq!(outages.dom0_stall_ms, 0.0);
    }

    #[test]
    fn a_guest_that_stays_away_is_out_to_the_end() {
        let pings = [ping(0, Some(0)), ping(20, None), ping(500, None)];
        let outages = evaluate(&pings);
        assert_eq!(outages.longest_ms, 480.0);
        assert_eq!(outages.dom0_stall_ms, 460.0);
    }
}
