//! The guest's part of the loop: ask it to stop, see that it has stopped, and resume it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use lull_core::machine::Event;
use lull_core::refusal::Refusal;
use lull_core::units::Micros;
use lull_wire::events::Refused;
use lull_xen::device_model::Devices;
use lull_xen::domain::{self, DomainState};
use lull_xen::domctl::Clean;

use super::SuspendAnswer;
use super::explain::Verdict;
use super::failure::{Doing, Failure};
use super::log_dirty::Cleaned;
use super::pause::Pause;
use super::session::{Resumed, Session};
use super::throttle::Throttle;

/// How far the engine is with giving up a pause while the attempt goes on.
#[derive(Debug)]
pub(super) enum RunningOn {
    /// libxl has not answered yet that the guest has stopped. It would wait in vain if the
    /// guest were resumed now.
    Owed(Box<Refusal>),
    /// The guest runs. The stub has not yet reported the same decision.
    StubPending,
}

impl Session<'_> {
    /// Gives up the pause and lets the attempt go on. Both dom0's clock and the stub can
    /// reach this decision; the second of them changes nothing.
    pub(super) fn give_up_pause(&mut self, refusal: Refusal) -> Result<(), Failure> {
        match self.running_on {
            Some(RunningOn::StubPending) => {
                self.running_on = None;
                return Ok(());
            }
            Some(RunningOn::Owed(_)) => return Ok(()),
            None => {}
        }
        if !self.pause.is_some_and(|pause| pause.answered) {
            self.running_on = Some(RunningOn::Owed(Box::new(refusal)));
            return Ok(());
        }
        self.run_on(refusal)?;
        // If dom0's clock came first, the stub's message is still to come.
        self.running_on = self.peer.pending_run_on().map(|_| RunningOn::StubPending);
        Ok(())
    }

    /// libxl has answered, so a resume that had to wait for it can take place.
    fn run_on_if_owed(&mut self) -> Result<(), Failure> {
        match self.running_on.take() {
            Some(RunningOn::Owed(refusal)) => self.run_on(*refusal),
            other => {
                self.running_on = other;
                Ok(())
            }
        }
    }

    fn run_on(&mut self, refusal: Refusal) -> Result<(), Failure> {
        self.resume();
        let Some(resumed) = self.resumed.take() else {
            return Err(Failure::Refused(Box::new(refusal)));
        };
        self.pause = None;
        self.saved = None;
        let now = Instant::now();
        self.throttle = self.cap.take().map(|cap| Throttle::new(cap, now));
        self.held_back = false;
        self.peer.feed(self.now(), Event::RunsOn)?;
        self.notify()?;
        let reason = Verdict::from(&refusal).reason;
        self.emit_ran_on(resumed.pause, reason);
        Ok(())
    }

    /// Checks whether the guest has stopped, and whether the attempt has been cancelled.
    pub(super) fn poll_guest(&mut self) -> Result<(), Failure> {
        let cancelled = self.news.cancelled;
        // The machine has reached its end, but the stream is not committed yet.
        if cancelled && self.landing.asks_itself() && self.finishing {
            return Err(Failure::HungUp(Refused::Cancelled));
        }
        if cancelled && !self.cancel_fed && self.begun {
            self.cancel_fed = true;
            self.peer.feed(self.now(), Event::Cancel)?;
            self.notify()?;
        }
        if self.news.handed_over && !self.handover_fed {
            self.handover_fed = true;
            self.peer.feed(self.now(), Event::HandedOver)?;
            self.notify()?;
        }
        let Some(mut pause) = self.pause else {
            return Ok(());
        };
        // QEMU goes on writing into the guest's memory until it is stopped, which is after
        // the guest's own stop and before the answer.
        if pause.stopped.is_none() && !self.request.has_devices && self.is_suspended()? {
            self.stopped(&mut pause)?;
        }
        // The limit ends a pause in which QEMU does not stop.
        if pause.stopped.is_none() && self.saves_devices() && pause.suspended.is_none() {
            pause.suspended = self.is_suspended()?.then(Instant::now);
            self.pause = Some(pause);
        }
        if pause.answered {
            return Ok(());
        }
        let Some(answer) = self.host.suspend_answer().doing("libxl has gone")? else {
            return Ok(());
        };
        pause.answered = true;
        self.pause = Some(pause);
        // libxl's answer alone proves nothing. After it has cancelled a request that the
        // guest had not acknowledged, libxl reports that the guest has stopped (4.17:
        // libxl_dom_suspend.c takes the cancelling's success for the suspend's).
        if pause.stopped.is_none() && !self.is_suspended()? {
            self.peer.feed(self.now(), Event::SuspendFailed)?;
            return self.notify();
        }
        match answer {
            SuspendAnswer::Stopped if pause.stopped.is_some() => self.run_on_if_owed(),
            SuspendAnswer::Stopped => self.stopped(&mut pause),
            SuspendAnswer::Failed if self.request.has_devices => {
                let words = self.host.emulated().words().to_owned();
                Err(Failure::DevicesNotSaved(words))
            }
            SuspendAnswer::Failed => {
                let error = io::Error::other("libxl had stopped waiting for it");
                Err(error).doing("the guest stopped too late")
            }
        }
    }

    pub(super) fn is_suspended(&self) -> Result<bool, Failure> {
        Ok(self.guest_state()?.is_suspended())
    }

    /// The guest's state; an error if the guest will never run again. A dead guest must not
    /// be asked to stop, because libxl would wait a minute for the answer.
    pub(super) fn guest_state(&self) -> Result<DomainState, Failure> {
        let state = self.domains.guest();
        let state = state.doing("the guest's state cannot be read")?;
        let state = state.ok_or_else(|| Failure::Died("is gone".to_owned()))?;
        match state.death() {
            Some(death) => Err(Failure::Died(death)),
            None => Ok(state),
        }
    }

    /// The guest has stopped: take the final bitmap and pass gate 2.
    fn stopped(&mut self, pause: &mut Pause) -> Result<(), Failure> {
        let stopped = Instant::now();
        pause.stopped = Some(stopped);
        let highest = self
            .domains
            .highest_frame()
            .doing("the guest's size cannot be read")?;
        if highest >= self.listed.guest_pfns {
            return Err(Failure::Grown);
        }
        let Cleaned { dirty, took } = self.take_bitmap(Clean::Final)?;
        pause.bitmap = Some(took);
        self.pause = Some(*pause);
        let took_bitmap = Micros(took.as_micros() as u64);
        self.peer
            .feed(self.now(), Event::Suspended { dirty, took_bitmap })?;
        self.notify()?;
        self.emit_suspended(pause, stopped, dirty);
        Ok(())
    }

    /// Resumes the guest if this attempt has stopped it, unless it has to wait for the answer
    /// to the request.
    pub(super) fn resume(&mut self) {
        // A guest stopped by any other cause is not this attempt's to resume.
        let due = |pause: Pause| pause.answered || self.is_due_without_answer(&pause);
        if !self.pause.is_some_and(due) {
            return;
        }
        let decided = Instant::now();
        match self.domains.resume(self.host.emulated()) {
            Ok(domain::Resumed::Yes { at, devices, known }) => {
                self.note_resume(at, Some(at.duration_since(decided)), known);
                self.note_devices(devices);
            }
            Ok(domain::Resumed::WasNotSuspended) => self.resume_failed = false,
            Err(error) => {
                self.resume_failed = true;
                self.log("error", format!("the guest could not be resumed: {error}"));
            }
        }
    }

    fn note_devices(&mut self, devices: Devices) {
        if let Some(complaint) = devices.complaint(self.host.emulated().words()) {
            self.host.leave_devices();
            self.log("error", format!("the guest runs on here, but {complaint}"));
        }
    }

    fn note_resume(&mut self, at: Instant, took: Option<Duration>, known: bool) {
        self.resume_failed = false;
        self.resumed = self.pause.map(|pause| Resumed {
            pause: at.duration_since(pause.requested),
            took,
        });
        if !known {
            let unknown = domain::UNKNOWN;
            self.log("error", format!("the guest runs on here, but {unknown}"));
        }
    }

    /// Waits a short while for a guest that may still follow the request to suspend. The
    /// guard waits longer.
    fn outlive_request(&mut self, verdict: &mut Verdict) {
        if self.resumed.is_some() {
            return;
        }
        match self.domains.outlive_request(self.host.emulated()) {
            Ok(domain::Outlived::Resumed { at, devices, known }) => {
                self.note_resume(at, None, known);
                self.note_devices(devices);
            }
            Ok(domain::Outlived::Over) => {}
            Ok(domain::Outlived::MayStillStop) => {
                self.host.leave_guest();
                verdict.advise(&format!(
                    "The guest has acknowledged the request to suspend and not followed it yet: \
                     should it still stop within {} s, lull's guard resumes it.",
                    domain::LAST_STEPS.as_secs()
                ));
            }
            Err(error) => {
                self.host.leave_guest();
                self.log(
                    "error",
                    format!("the request to suspend cannot be taken back: {error}"),
                );
            }
        }
    }

    /// Resumes the guest if it is stopped. Otherwise waits for the answer to the suspend
    /// request that is still to come, and resumes the guest then.
    pub(super) fn ensure_running(&mut self, mut verdict: Verdict) -> Verdict {
        // A guest stopped by any other cause is not this attempt's to resume.
        if self.pause.is_none() {
            return verdict;
        }
        self.resume();
        let Some(pause) = self.pause.filter(|pause| !pause.answered) else {
            return verdict;
        };
        if self.landing.asks_itself() {
            // The request is the engine's own, so the engine may take it back.
            self.outlive_request(&mut verdict);
            return verdict;
        }
        // libxl waits up to 60 s for the guest's acknowledgement, and as long again for its
        // stop. A guest that stops after all must not stay stopped.
        let deadline = pause.requested + Duration::from_secs(150);
        while Instant::now() < deadline {
            match self.host.suspend_answer() {
                Ok(None) => {}
                // No further answer will come, but the guest may have been asked.
                Ok(Some(_)) | Err(_) => break,
            }
            self.note_stop();
            self.resume();
            // This loop reads libxl's answer and nothing else. A wait that the stream or the
            // stub can end would take the processor from libxl.
            thread::sleep(ANSWER_POLL_INTERVAL);
        }
        if let Some(pause) = &mut self.pause {
            pause.answered = true;
        }
        self.resume();
        // libxl, too, stops waiting for a slow guest.
        self.outlive_request(&mut verdict);
        verdict
    }

    /// Notes when the guest was first seen suspended.
    fn note_stop(&mut self) {
        let seen = self.is_suspended().is_ok_and(|suspended| suspended);
        if let Some(pause) = self.pause.as_mut().filter(|_| seen) {
            pause.suspended.get_or_insert_with(Instant::now);
        }
    }

    /// Whether a guest that has stopped is resumed although there is no answer to the request
    /// yet. Its QEMU, if it has one, may still be stopped until there is. libxl would wait in
    /// vain for a guest that runs again before libxl has looked; the limit comes first.
    fn is_due_without_answer(&self, pause: &Pause) -> bool {
        if self.request.has_devices {
            return false;
        }
        if self.landing.asks_itself() {
            return true;
        }
        let Some(stopped) = pause.stopped.or(pause.suspended) else {
            return false;
        };
        let resume = self.peer.machine().config().costs.resume;
        let left = self.left_of_limit(pause, resume);
        let is_last_look = left.is_some_and(|left| left <= ANSWER_POLL_INTERVAL);
        stopped.elapsed() >= LIBXL_LOOKS || is_last_look
    }
}

/// Interval between two looks for libxl's answer.
const ANSWER_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time that libxl has to see that the guest has stopped. xenstored tells libxl of the stop, so
/// this takes milliseconds, unless dom0 is busy. If the guest runs again before libxl has looked,
/// libxl waits for it for a minute, and this attempt waits for libxl.
const LIBXL_LOOKS: Duration = Duration::from_secs(1);
