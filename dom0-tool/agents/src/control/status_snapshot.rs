//! The state of a migration, assembled from the engine's events.

use std::collections::VecDeque;
use std::time::Instant;

use lull_wire::control::{End, Phase, ROUNDS, Status};
use lull_wire::events::{Event, How};
use lull_xen::DomId;

/// The state, with a count of its changes.
pub struct StatusSnapshot {
    status: Status,
    start: Instant,
    changes: u64,
}

impl StatusSnapshot {
    /// The state of a migration that began at `start`, before any event.
    pub fn new(domid: DomId, start: Instant) -> Self {
        Self {
            status: Status {
                domid,
                name: None,
                helper_pid: std::process::id(),
                phase: Phase::Preparing,
                at_ms: 0,
                limit_ms: None,
                timeout_ms: None,
                bandwidth: None,
                guest_pages: 0,
                progress: None,
                rounds: VecDeque::new(),
                ended: None,
            },
            start,
            changes: 0,
        }
    }

    /// The same migration after the helper's part has ended well. From then on this process
    /// knows its state.
    pub fn taken_over(mut self) -> Self {
        self.status.helper_pid = std::process::id();
        self.status.ended = None;
        self.changes += 1;
        self
    }

    /// Records the end of the migration.
    pub fn end(&mut self, end: End) {
        if end.how != How::StreamComplete {
            self.status.phase = Phase::Ended;
        }
        self.status.ended = Some(end);
        self.changes += 1;
    }

    /// Updates the state with an event of the engine.
    pub fn note(&mut self, event: &Event) {
        let status = &mut self.status;
        match event {
            Event::Started(started) => {
                status.phase = Phase::Copying;
                status.limit_ms = started.limit_ms;
                status.timeout_ms = started.timeout_ms;
                status.bandwidth = started.bandwidth;
                status.guest_pages = started.guest_pages;
            }
            Event::Limits(limits) => {
                status.limit_ms = limits.limit_ms;
                status.timeout_ms = limits.timeout_ms;
                status.bandwidth = limits.bandwidth;
            }
            Event::Progress(progress) => status.progress = Some(progress.clone()),
            Event::Round(round) => {
                status.phase = match round.decision.as_str() {
                    "suspend" => Phase::Suspending,
                    "finish" => Phase::Finishing,
                    _ => status.phase,
                };
                if status.rounds.len() == ROUNDS {
                    status.rounds.pop_front();
                }
                status.rounds.push_back(round.clone());
            }
            Event::Suspended(_) => status.phase = Phase::LastRound,
            Event::RanOn(_) => status.phase = Phase::Copying,
            Event::Ended(ended) => {
                if ended.how == How::StreamComplete {
                    status.phase = Phase::Landing;
                }
                return self.end(End {
                    how: ended.how,
                    reason: ended.reason.clone(),
                    advice: ended.advice.clone(),
                });
            }
            _ => return,
        }
        self.changes += 1;
    }

    /// The state as of now.
    pub fn status(&mut self) -> &Status {
        self.status.at_ms = self.start.elapsed().as_millis() as u64;
        &self.status
    }

    /// How far the migration is.
    pub const fn phase(&self) -> Phase {
        self.status.phase
    }

    /// The number of changes so far.
    pub const fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use lull_base::duration::Span;
    use lull_core::limits::{DowntimeLimit, Limits, Timeout};
    use lull_core::units::Micros;
    use lull_wire::events::InForce;
    use lull_wire::spec::MigrationSpec;

    use super::*;
    use lull_store::attempt::observed::ObservedAttempt;

    /// 1.5 ms, as `lull migrate` shows it, `lull status`, and the report.
    #[test]
    fn a_limit_is_shown_the_same_everywhere() {
        let asked: Span = "1500us".parse().unwrap();
        let micros = Micros(asked.as_micros());
        let mut spec = MigrationSpec::unlimited(7);
        spec.limits = Limits {
            max_suspend: DowntimeLimit::new(micros),
            timeout: Timeout::new(micros),
        };
        let arrived = MigrationSpec::decode(spec.encode().as_bytes()).unwrap();
        let now = InForce::new(0, arrived.limits, arrived.bandwidth);

        let mut status = StatusSnapshot::new(7, Instant::now());
        status.note(&Event::Limits(now));
        let mut report = ObservedAttempt::default();
        report.helper_said(Event::Limits(now));
        let shown = Some(asked.as_millis());
        assert_eq!(shown, Some(1));
        assert_eq!(status.status().limit_ms, shown);
        assert_eq!(status.status().timeout_ms, shown);
        assert_eq!(report.limit_ms(), shown);
    }
}
