//! The process that hosts the engine in the model, and libxl behind it.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use lull_core::limits::Timeout;
use lull_core::machine::{self, Action, Machine};
use lull_core::units::Micros;
use lull_wire::events::Event;
use lull_wire::trace::Recorder;
use lull_xen::device_model::{self, MakeRun};

use super::destination::Destination;
use super::world::{DEVICES, Guest, Phase, World};
use crate::{Host, News, OperatorRequest, Reply, SuspendAnswer};

/// How long the operator waits for a destination that stalls.
const TIMEOUT: Duration = Duration::from_millis(300);

/// How long xl's handshake takes.
const HANDSHAKE: Duration = Duration::from_millis(20);

/// How long QEMU may take to stop.
const QEMU_STOPS: Duration = Duration::from_millis(3_000);

/// Time from the guest's stop until libxl looks at it.
const LIBXL_LOOKS: Duration = Duration::from_millis(15);

/// How long libxl waits for a guest to follow.
const LIBXL_WAITS: Duration = Duration::from_millis(2_000);

pub struct FakeHost<'w> {
    world: &'w World,
    pub destination: RefCell<Destination<'w>>,
    started: Instant,
    asked: Option<Instant>,
    /// Whether the operator has set a timeout.
    timed: bool,
    first_pass_done: bool,
    /// When xl's handshake began, while the guest runs.
    handing_over: Option<Instant>,
    asks_to_start: bool,
    /// Whether the copy runs, if it was to be started.
    pub started_there: Option<bool>,
    devices: Devices<'w>,
    /// Since when the guest's QEMU is being stopped.
    stopping: Option<Instant>,
    /// When xenstored told libxl that the guest has stopped.
    libxl_told: Option<Instant>,
    /// What was reported.
    pub reported: Vec<Event>,
}

impl<'w> FakeHost<'w> {
    pub fn new(world: &'w World, destination: Destination<'w>) -> Self {
        Self {
            world,
            destination: RefCell::new(destination),
            started: Instant::now(),
            asked: None,
            timed: false,
            first_pass_done: false,
            handing_over: None,
            asks_to_start: false,
            started_there: None,
            devices: Devices(world),
            stopping: None,
            libxl_told: None,
            reported: Vec::new(),
        }
    }
}

/// The guest's emulated devices, if it has any.
struct Devices<'w>(&'w World);

impl MakeRun for Devices<'_> {
    fn make_run(&mut self) -> device_model::Devices {
        let Self(world) = self;
        if !world.landing.has_devices() {
            return device_model::Devices::None;
        }
        world.qemu_runs.set(true);
        device_model::Devices::Run
    }

    fn words(&self) -> &str {
        match self.0.qemu_hangs.get() {
            true => "does not answer in time",
            false => "",
        }
    }
}

impl FakeHost<'_> {
    /// QEMU is stopped once the guest has. It writes until it has stopped.
    fn qemu_has_stopped(&mut self) -> Option<bool> {
        let Some(since) = self.stopping else {
            self.stopping = Some(Instant::now());
            self.world.write_by_qemu();
            return None;
        };
        if self.world.qemu_hangs.get() {
            return (since.elapsed() > QEMU_STOPS).then_some(false);
        }
        self.world.write_by_qemu();
        self.world.qemu_runs.set(false);
        self.stopping = None;
        Some(true)
    }
}

impl Host for FakeHost<'_> {
    fn ask_to_suspend(&mut self) -> io::Result<()> {
        assert_eq!(self.world.guest.get(), Guest::Running);
        let handed_over = self
            .handing_over
            .is_some_and(|at| at.elapsed() >= HANDSHAKE);
        assert_eq!(handed_over, self.world.landing.is_handshake_first());
        self.asked = Some(Instant::now());
        self.world.guest.set(Guest::Stopping);
        Ok(())
    }

    fn suspend_answer(&mut self) -> io::Result<Option<SuspendAnswer>> {
        let Some(asked) = self.asked else {
            return Ok(None);
        };
        let has_devices = self.world.landing.has_devices();
        if has_devices && self.world.look() == Guest::Suspended && self.world.qemu_runs.get() {
            let answer = match self.qemu_has_stopped() {
                None => return Ok(None),
                Some(true) => SuspendAnswer::Stopped,
                Some(false) => SuspendAnswer::Failed,
            };
            self.asked = None;
            self.stopping = None;
            return Ok(Some(answer));
        }
        let answer = match self.world.guest.get() {
            Guest::Stopping if asked.elapsed() < LIBXL_WAITS => return Ok(None),
            // Too late: the request is withdrawn.
            Guest::Stopping => {
                self.world.guest.set(Guest::Running);
                SuspendAnswer::Failed
            }
            // The engine looks itself.
            _ if self.world.landing.is_fast() => SuspendAnswer::Stopped,
            Guest::Suspended => {
                let told = *self.libxl_told.get_or_insert_with(Instant::now);
                if told.elapsed() < LIBXL_LOOKS || self.world.libxl_is_slow.get() {
                    return Ok(None);
                }
                SuspendAnswer::Stopped
            }
            // The engine runs it again, and libxl has not seen that it had stopped.
            Guest::Running if self.world.resumes.get() > 0 && asked.elapsed() < LIBXL_WAITS => {
                self.world.unseen.set(true);
                return Ok(None);
            }
            _ => SuspendAnswer::Stopped,
        };
        self.libxl_told = None;
        self.asked = None;
        Ok(Some(answer))
    }

    fn cancel_suspend_request(&mut self) -> io::Result<bool> {
        let unanswered = self.world.guest.get() == Guest::Stopping;
        if unanswered {
            self.asked = None;
            self.world.guest.set(Guest::Running);
        }
        Ok(unanswered)
    }

    fn poll(&mut self) -> io::Result<News> {
        if self.asks_to_start {
            thread::sleep(self.world.held_up.take());
            if self.world.leaves.take() {
                self.world.closed.set(true);
                self.destination.borrow_mut().go_on();
            }
        }
        Ok(News {
            cancelled: self.world.cancelled.get(),
            target_ready: self.first_pass_done && self.destination.borrow().ended,
            handed_over: self
                .handing_over
                .is_some_and(|at| at.elapsed() >= HANDSHAKE),
            may_start: self.asks_to_start,
            hung_up: None,
        })
    }

    /// Once the destination stalls, or has all frames and does not begin, the operator
    /// sets a timeout that is soon over. A timeout from the start could be over before the phase
    /// of the fault, on a slow host.
    fn request(&mut self) -> Option<OperatorRequest> {
        let named = self.destination.borrow().copy.len() as u64;
        let does_not_begin = self.world.never_arms.get() && named == self.world.pages();
        let waits = self.world.stalled.get() || does_not_begin;
        if !waits || self.timed {
            return None;
        }
        let timeout = self.started.elapsed() + TIMEOUT;
        Some(OperatorRequest::Limits {
            max_suspend: None,
            timeout: Timeout::new(Micros(timeout.as_micros() as u64)),
            bandwidth: None,
        })
    }

    fn reply(&mut self, reply: Reply) {
        self.timed = reply.is_ok();
    }

    /// The engine is about to wait, so the destination may work.
    fn wake_on(&self) -> Vec<BorrowedFd<'_>> {
        self.destination.borrow_mut().go_on();
        Vec::new()
    }

    fn emit(&mut self, event: Event) {
        if matches!(&event, Event::Log(log) if log.from == "stub") {
            let pausing = matches!(self.world.guest.get(), Guest::Stopping | Guest::Suspended);
            let lines = &self.world.logged[usize::from(pausing)];
            lines.set(lines.get() + 1);
        }
        self.reported.push(event);
    }

    fn first_pass_done(&mut self) -> io::Result<()> {
        let armed = self.destination.borrow().armed;
        assert_eq!(armed, self.world.landing.has_devices());
        self.first_pass_done = true;
        self.world.enter(Phase::Building);
        Ok(())
    }

    fn hand_over(&mut self) -> io::Result<()> {
        assert_eq!(self.world.guest.get(), Guest::Running);
        assert!(self.handing_over.is_none(), "handed over twice");
        self.handing_over = Some(Instant::now());
        Ok(())
    }

    fn ask_to_start(&mut self) {
        assert_eq!(self.world.guest.get(), Guest::Suspended);
        assert!(self.destination.borrow().landed);
        self.asks_to_start = true;
    }

    fn report_started(&mut self, started: bool) {
        self.started_there = Some(started);
    }

    fn leave_guest(&mut self) {
        self.world.left.set(true);
    }

    fn log_devices(&mut self, on: bool) -> io::Result<()> {
        assert!(!on, "it is switched on before that");
        self.world.log_ends.set(self.world.log_ends.get() + 1);
        Ok(())
    }

    fn saved_devices(&mut self) -> io::Result<Vec<u8>> {
        // It runs again if another program has resumed the guest.
        let resumed = self.world.guest.get() == Guest::Running;
        assert!(resumed || !self.world.qemu_runs.get(), "it is not saved");
        Ok(DEVICES.to_vec())
    }

    fn emulated(&mut self) -> &mut dyn MakeRun {
        &mut self.devices
    }

    fn leave_devices(&mut self) {}

    fn commit(&mut self) {
        self.world.commits.set(self.world.commits.get() + 1);
    }
}

/// Keeps no record.
pub struct Unrecorded;

impl Recorder for Unrecorded {
    fn record(&mut self, _: Micros, _: machine::Event, _: &Action, _: &Machine) {}
}
