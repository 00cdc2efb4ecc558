//! The periodic work of the loop: deadlines, page counts, and checks on the stub and the
//! guest.

use std::time::{Duration, Instant};

use lull_core::batch::BATCH_PAGES;
use lull_core::downtime::FixedCosts;
use lull_core::machine::{Event, State};
use lull_core::units::Micros;

use super::failure::{Doing, Failure};
use super::guest::RunningOn;
use super::pause::Pause;
use super::session::Session;
use crate::stub::Crash;

/// The interval between two counts of the dirty pages, and between two checks on the stub
/// and the guest.
pub const TICK: Duration = Duration::from_millis(100);

/// The interval between two checks whether the guest has stopped, once it was asked to.
pub const SUSPEND_POLL: Duration = Duration::from_millis(1);

/// Upper bound of that interval. Where a check is slow, the interval grows so that polling
/// uses at most a fifth of a processor.
pub const SUSPEND_POLL_MAX: Duration = Duration::from_millis(10);

/// The interval between two checks whether all domains are being shut down.
const SHUTDOWN_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between two progress events.
const PROGRESS: Duration = Duration::from_millis(250);

/// A stub that owes an answer for this long has hung. The value is far above the time that
/// a batch takes, so a slow stub on a loaded host is not taken for a hung one.
pub const STUB_SILENCE: Duration = Duration::from_secs(15);

/// The slowest rate accepted of a stub: this many pages in this much time. Without it, a
/// stub that does a little before every timeout would keep an attempt up for ever. Stubs
/// copy hundreds of MiB a second; emulated ones copy tens.
const SLOWEST: (Duration, u64) = (Duration::from_secs(60), 4 * BATCH_PAGES as u64);

/// How long a stub has owed work, and how many frames it has dealt with meanwhile.
#[derive(Debug, Default)]
pub struct Owed {
    ticks: u32,
    filled: u64,
}

impl Owed {
    fn look(&mut self, owes: bool, filled: u64) {
        if filled.saturating_sub(self.filled) >= SLOWEST.1 {
            *self = Self { ticks: 0, filled };
        }
        self.ticks = self.ticks.saturating_add(u32::from(owes));
    }

    fn is_too_slow(&self) -> bool {
        TICK.saturating_mul(self.ticks) >= SLOWEST.0
    }
}

/// A stub that has to give up gets only this long. The guest may be stopped by then, and
/// the operator wants the attempt to end.
const STUB_PROMPTNESS: Micros = Micros::from_millis(1_000);

/// The time after the request to suspend by which the guest must have stopped, if the pause
/// is to stay within the limit. What follows the stop takes the rest.
fn last_stop(limit: Micros, costs: FixedCosts) -> Duration {
    let after = costs.reserve().saturating_add(costs.cpu_state);
    let after = after.saturating_add(costs.final_bitmap);
    Duration::from_micros(limit.since(after).0)
}

impl Session<'_> {
    /// Checks the deadline each time, and does the rest once every [`TICK`].
    pub(super) fn check_timers(&mut self) -> Result<(), Failure> {
        self.keep_deadline()?;
        if self.ticked.elapsed() < TICK {
            return Ok(());
        }
        self.ticked = Instant::now();
        self.idle_wakes = 0;
        // Decoding a stub's log may take long, so it is left alone during the pause.
        if self.pause.is_none() {
            self.drain_log();
        }
        self.take_request_back()?;
        self.answer_shutdown()?;
        self.look_after_the_stub()?;
        if self.pause.is_none() {
            self.guest_state()?;
        }
        let state = self.peer.machine().state();
        let rests = self.count_due || self.landing.is_resting();
        let resting = rests && matches!(state, State::Waiting | State::Counting);
        let copying = matches!(state, State::Copying | State::HandingOver) || resting;
        if self.begun && (copying || state == State::CopyingFinal) {
            self.look_at_memory()?;
            let dirty = if copying { Some(self.count()?) } else { None };
            self.peer.tick(self.now(), dirty)?;
            self.notify()?;
            if self.progressed.elapsed() >= PROGRESS {
                self.emit_progress();
            }
        }
        Ok(())
    }

    /// A shutdown of all domains (`xl shutdown -a`, xendomains) asks the stub too, and
    /// waits a minute for its acknowledgement. The engine acknowledges for the stub and
    /// gives the attempt up, because the host is going down.
    fn answer_shutdown(&mut self) -> Result<(), Failure> {
        if self.pause.is_some() || self.asked_at.elapsed() < SHUTDOWN_POLL_INTERVAL {
            return Ok(());
        }
        self.asked_at = Instant::now();
        // An error of xenstore's own is no reason to give up here.
        if !self.domains.acknowledge_shutdown().unwrap_or(false) {
            return Ok(());
        }
        self.log(
            "warn",
            "the stub domain was told to shut down, as all domains of a host that goes down \
             are: giving up"
                .into(),
        );
        if !self.cancel_fed && self.begun {
            self.cancel_fed = true;
            self.peer.feed(self.now(), Event::Cancel)?;
            self.notify()?;
        }
        Ok(())
    }

    /// Takes back the request to suspend in two cases. In the first, the guest has not
    /// acknowledged it by the time when the limit can no longer be kept: a later stop would
    /// be a pause in vain. In the second, the pause is no longer wanted. If the guest has
    /// acknowledged a request that is no longer wanted, the guard resumes it once it has
    /// stopped. In the classic landing the request is libxl's, and so is the waiting.
    fn take_request_back(&mut self) -> Result<(), Failure> {
        let machine = self.peer.machine();
        let pending = |pause: &Pause| pause.stopped.is_none() && !pause.answered;
        let Some(mut pause) = self.pause.filter(pending) else {
            return Ok(());
        };
        if machine.state() != State::Suspending {
            return Ok(());
        }
        let costs = machine.config().costs;
        let asked_for = pause.requested.elapsed();
        let limit = self.limit_in_force();
        let is_too_late = limit.is_some_and(|limit| asked_for >= last_stop(limit, costs));
        let is_unwanted = self.landing.asks_itself() && (self.cancel_fed || self.is_out_of_time());
        if !is_unwanted && (!is_too_late || pause.binding) {
            return Ok(());
        }
        let withdrawn = match pause.binding {
            true => Ok(false),
            false => self.host.cancel_suspend_request(),
        };
        let withdrawn = withdrawn.doing("the request to suspend cannot be taken back")?;
        pause.answered = withdrawn;
        pause.binding = !withdrawn;
        self.pause = Some(pause);
        if !withdrawn && !is_unwanted {
            return Ok(());
        }
        self.peer.feed(self.now(), Event::SuspendFailed)?;
        self.notify()
    }

    /// Whether the operator's timeout has passed.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.peer.is_out_of_time(self.now())
    }

    /// Gate 3, by dom0's own clock: the guest runs again before the limit is over, whatever
    /// the stub says or fails to say. The attempt goes on if another try is allowed.
    pub(super) fn keep_deadline(&mut self) -> Result<(), Failure> {
        if self.until_deadline() == Some(Duration::ZERO) && self.running_on.is_none() {
            let answered = self.pause.is_some_and(|pause| pause.answered);
            if answered && self.peer.machine().state() == State::CopyingFinal {
                self.peer.feed(self.now(), Event::OutOfTime)?;
                self.notify()?;
            }
            if let Some(refusal) = self.peer.pending_run_on().filter(|_| answered) {
                return self.give_up_pause(refusal);
            }
        }
        self.check_deadline()
    }

    /// Like [`Self::keep_deadline`], without another try.
    pub(super) fn check_deadline(&self) -> Result<(), Failure> {
        match self.until_deadline() {
            Some(Duration::ZERO) => Err(match (self.peer.pending_refusal(), &self.running_on) {
                (Some((_, refusal)), _) => Failure::Refused(Box::new(refusal)),
                // libxl's answer came too late for another try.
                (None, Some(RunningOn::Owed(refusal))) => Failure::Refused(refusal.clone()),
                (None, _) if self.awaits_devices() => Failure::DevicesSlow,
                (None, _) => Failure::Deadline,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the guest has stopped and its QEMU has not.
    fn awaits_devices(&self) -> bool {
        let awaits = |pause: &Pause| pause.suspended.is_some() && pause.stopped.is_none();
        self.saves_devices() && self.pause.as_ref().is_some_and(awaits)
    }

    /// Time left to end the stream once the guest has stopped. After the stream comes the
    /// landing or, if the attempt is given up, the resume. Reading the CPU state cannot be
    /// cut short, so its time is set aside for as long as it has not been read.
    pub(super) fn until_deadline(&self) -> Option<Duration> {
        let config = self.peer.machine().config();
        let stops = |pause: &Pause| pause.stopped.or(pause.suspended).is_some();
        let pause = self.pause.filter(stops)?;
        let after = config.costs.reserve();
        let after = after.saturating_add(self.landing.reserve());
        let after = if self.finishing {
            after
        } else {
            after.saturating_add(config.costs.cpu_state)
        };
        self.left_of_limit(&pause, after)
    }

    /// Time left of the limit on this pause, with `after` set aside for what follows. `None` if
    /// there is no limit.
    pub(super) fn left_of_limit(&self, pause: &Pause, after: Micros) -> Option<Duration> {
        let deadline = Duration::from_micros(self.limit_in_force()?.since(after).0);
        Some(deadline.saturating_sub(pause.requested.elapsed()))
    }

    fn look_after_the_stub(&mut self) -> Result<(), Failure> {
        let state = self.domains.stub();
        let alive = state
            .doing("the stub's state cannot be read")?
            .is_some_and(|state| state.shutdown.is_none() && !state.dying);
        if !alive {
            let crash = Crash::read(&self.domains.link().crash);
            let text = crash.map_or_else(|| "it left no record".into(), |crash| crash.to_string());
            return Err(Failure::StubDied(text));
        }
        if let Some((since, refusal)) = self.peer.pending_refusal()
            && self.now().since(since) > STUB_PROMPTNESS
        {
            return Err(Failure::Refused(Box::new(refusal)));
        }
        // An overdue action counts even if the stub sends other messages meanwhile.
        let silence = self.domains.stub_silence();
        let longest = Micros(silence.as_micros() as u64);
        let awaited = self.peer.awaited_since();
        if awaited.is_some_and(|since| self.now().since(since) > longest) {
            return Err(Failure::StubSilent(silence));
        }
        let owes = !self.begun || self.slots.stub_is_busy();
        if !owes {
            self.last_message_at = Instant::now();
        } else if self.last_message_at.elapsed() > silence {
            return Err(Failure::StubSilent(silence));
        }
        self.owed.look(owes, self.slots.filled_in_all());
        match self.owed.is_too_slow() {
            true => Err(Failure::StubSlow),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_back_while_the_rest_of_the_pause_still_fits() {
        let costs = FixedCosts {
            suspend: Micros::from_millis(200),
            final_bitmap: Micros::from_millis(10),
            cpu_state: Micros::from_millis(50),
            landing: Micros::from_millis(300),
            resume: Micros::from_millis(40),
        };
        let limit = Micros::from_millis(2_000);
        let last = last_stop(limit, costs);
        let rest = Duration::from_millis(10 + 50 + 300);
        assert!(last + rest <= Duration::from_millis(2_000), "{last:?}");
        assert!(last > Duration::from_millis(200), "{last:?}");
        // Nothing fits into so small a limit: it is taken back at once.
        assert_eq!(last_stop(Micros::from_millis(100), costs), Duration::ZERO);
    }

    #[test]
    fn a_stub_that_does_little_at_a_time_is_found_out() {
        let mut owed = Owed::default();
        for tick in 0..600 {
            assert!(!owed.is_too_slow(), "{tick}");
            owed.look(true, tick / 150);
        }
        assert!(owed.is_too_slow());
        // A stub that works at a normal rate, and a stub that owes nothing.
        for (owes, step) in [(true, 100), (false, 0)] {
            let mut owed = Owed::default();
            for tick in 0..6_000 {
                owed.look(owes, tick * step);
            }
            assert!(!owed.is_too_slow());
        }
    }
}
