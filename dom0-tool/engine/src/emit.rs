//! The events that the loop reports to its host.

use std::time::{Duration, Instant};

use lull_base::monotonic::now_ns;
use lull_core::downtime::Downtime;
use lull_core::service::Stretch;
use lull_core::units::{Bounds, ByteRate, Micros, PAGE_SIZE, PageRate};
use lull_wire::events::{self, InForce, PauseParts};

use super::Host;
use super::attempt::Verify;
use super::pause::Pause;
use super::session::Session;

/// Milliseconds, rounded up: a report never shows less than the time that passed.
pub fn millis(time: Duration) -> u64 {
    time.as_micros().div_ceil(1_000) as u64
}

impl Session<'_> {
    pub(super) fn emit_started(&mut self) {
        let config = &self.request.config;
        let limits = InForce::new(0, config.limits, self.request.bandwidth);
        self.host.emit(events::Event::Started(events::Started {
            domid: self.request.domid,
            helper_pid: std::process::id(),
            guest_pages: self.listed.pages,
            landing: self.landing.name(),
            connections: self.landing.connections(),
            limit_ms: limits.limit_ms,
            timeout_ms: limits.timeout_ms,
            bandwidth: limits.bandwidth,
            risk_per_mille: Some(config.risk.get()),
            stub_domid: self.domains.stub_domid(),
            stub_memory_bytes: self.domains.stub_memory(),
            stub_boot_ms: millis(self.listed.stub_built_after()),
            fixed_costs: PauseParts {
                pages_ms: None,
                ..parts(config.costs.downtime())
            },
        }));
    }

    pub(super) fn emit_progress(&mut self) {
        self.progressed = Instant::now();
        let machine = self.peer.machine();
        let progress = events::Progress {
            at_ms: self.request.start.elapsed().as_millis() as u64,
            round: machine.round(),
            round_sent: machine.round_sent() + machine.round_zeros(),
            round_pages: machine.round_pages(),
            pages_sent: machine.pages_sent(),
            dirty_pages: machine.dirty_count(),
            transfer_rate: known(machine.service().expected_rate().bytes()),
            dirty_rate: known_dirty(machine.dirty_rate()),
            predicted_downtime_ms: self.in_ms(machine.prediction()),
            expected_downtime_ms: self.in_ms(machine.expected()),
        };
        self.host.emit(events::Event::Progress(progress));
    }

    /// A predicted pause in milliseconds; `None` before the link's rate is known.
    fn in_ms(&self, pause: Option<Downtime>) -> Option<u64> {
        known(self.peer.machine().service().expected_rate().bytes())?;
        Some(pause?.total().as_millis_ceil())
    }

    /// Reports the round that ended last, and the decision that follows it.
    pub(super) fn emit_round(&mut self, decision: &str) {
        let machine = self.peer.machine();
        let Some(record) = machine.history().last() else {
            return;
        };
        let round = events::Round {
            at_ms: self.request.start.elapsed().as_millis() as u64,
            round: record.round,
            pages_sent: record.pages_sent,
            pages_dirtied: record.dirtied,
            duration_ms: record.duration.as_millis_ceil(),
            transfer_rate: record.transfer_rate.and_then(|rate| known(rate.bytes())),
            dirty_rate: known_dirty(machine.dirty_rate()),
            predicted_downtime_ms: Some(record.predicted_downtime.as_millis_ceil()),
            expected_downtime_ms: Some(record.expected_downtime.as_millis_ceil()),
            rests_on: machine.rests_on().map(rests_on),
            decision: decision.into(),
        };
        self.host.emit(events::Event::Round(round));
    }

    /// Reports the final round, which the history does not hold.
    pub(super) fn emit_final_round(&mut self) {
        let machine = self.peer.machine();
        let round = events::Round {
            at_ms: self.request.start.elapsed().as_millis() as u64,
            round: machine.round() + 1,
            pages_sent: machine.round_sent(),
            pages_dirtied: 0,
            duration_ms: self.observed().pages_ms.unwrap_or(0),
            transfer_rate: None,
            dirty_rate: None,
            predicted_downtime_ms: machine.prediction().map(|p| p.total().as_millis_ceil()),
            expected_downtime_ms: machine.expected().map(|p| p.total().as_millis_ceil()),
            rests_on: None,
            decision: "finish".into(),
        };
        self.host.emit(events::Event::Round(round));
    }

    /// Reports a pause that was given up and will be tried again.
    pub(super) fn emit_ran_on(&mut self, pause: Duration, reason: String) {
        self.host.emit(events::Event::RanOn(events::RanOn {
            at_ms: self.request.start.elapsed().as_millis() as u64,
            pause_ms: millis(pause),
            reason,
        }));
    }

    pub(super) fn drain_log(&mut self) {
        let mut lines = Vec::new();
        self.log
            .drain(&mut self.stub_log, &mut self.decoder, |line| {
                lines.push(line);
            });
        for line in lines {
            self.host.emit(events::Event::Log(events::Log {
                level: line.level.into(),
                from: "stub".into(),
                text: line.text,
            }));
        }
    }

    pub(super) fn log(&mut self, level: &str, text: String) {
        log(self.host, level, text);
    }

    /// Reports that the guest has stopped, with `dirty` pages left to send.
    pub(super) fn emit_suspended(&mut self, pause: &Pause, stopped: Instant, dirty: u64) {
        let requested = pause.requested.duration_since(self.request.start);
        let since_request = pause.requested.elapsed().as_nanos() as u64;
        self.host.emit(events::Event::Suspended(events::Suspended {
            requested_at_ms: requested.as_millis() as u64,
            stopped_at_ms: stopped.duration_since(self.request.start).as_millis() as u64,
            dirty_pages: dirty,
            requested_monotonic_ns: now_ns().saturating_sub(since_request),
            limit_us: self.limit_in_force().map(|limit| limit.0),
            predicted: pause.predicted.map(parts).unwrap_or_default(),
            predicted_downtime_ms: pause.predicted.map(|p| p.total().as_millis_ceil()),
            likely_pages_ms: pause.likely_pages.map(Micros::as_millis_ceil),
            load_pages: Some(
                self.peer
                    .machine()
                    .dirty()
                    .expected_more(Micros(since_request / 1_000)),
            ),
        }));
    }

    /// The limit on the pause that is in force, if there is one.
    pub(super) fn limit_in_force(&self) -> Option<Micros> {
        let limits = self.peer.machine().config().limits;
        limits.max_suspend.map(|limit| limit.micros())
    }

    /// The round trip ahead of the last pages.
    pub(super) fn round_trip(&self) -> Micros {
        self.peer.machine().service().latest_round_trip()
    }

    /// The time that the last pages took, per mille of what the path's curve said of them.
    /// The time of a comparison says nothing about the path.
    pub(super) fn last_pages_per_mille(&self) -> Option<u64> {
        let by_curve = self.peer.machine().last_pages_by_curve()?;
        match self.request.verify {
            Verify::No => self.pause?.pages_per_mille_of(by_curve, self.round_trip()),
            Verify::Yes => None,
        }
    }

    /// The parts of the pause observed so far.
    pub(super) fn observed(&self) -> PauseParts {
        self.pause
            .map_or_else(PauseParts::default, |pause| pause.parts())
    }
}

/// Reports a line for the log.
pub fn log(host: &mut dyn Host, level: &str, text: impl Into<String>) {
    host.emit(events::Event::Log(events::Log {
        level: level.into(),
        from: "helper".into(),
        text: text.into(),
    }));
}

fn known(rate: ByteRate) -> Option<u64> {
    Some(rate.0).filter(|rate| *rate > 0)
}

/// The upper bound; `None` before the first counts.
fn known_dirty(rate: Bounds<PageRate>) -> Option<u64> {
    Some(rate.upper.0).filter(|rate| (1..PageRate::MAX.0).contains(rate))
}

fn rests_on(stretch: Stretch) -> events::RestsOn {
    events::RestsOn {
        bytes: stretch.pages.saturating_mul(PAGE_SIZE),
        took_ms: stretch.span.as_millis_ceil(),
        round: stretch.round,
    }
}

fn parts(downtime: Downtime) -> PauseParts {
    let ms = |part: Micros| Some(part.as_millis_ceil());
    PauseParts {
        suspend_ms: ms(downtime.suspend),
        final_bitmap_ms: ms(downtime.final_bitmap),
        pages_ms: ms(downtime.pages),
        cpu_state_ms: ms(downtime.cpu_state),
        landing_ms: ms(downtime.landing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dirty_rate_that_is_not_known_is_not_told() {
        assert_eq!(known_dirty(Bounds::UNKNOWN), None);
        let rate = |upper| Bounds {
            upper: PageRate(upper),
            ..Bounds::UNKNOWN
        };
        assert_eq!(known_dirty(rate(0)), None);
        assert_eq!(known_dirty(rate(2_409)), Some(2_409));
    }
}
