//! The server that answers the tests.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::dirtier::Dirtier;
use crate::disk::Disk;
use crate::machine::Machine;
use crate::protocol::{Answer, Load, PORT, Request, Status};
use crate::screen::Screen;
use crate::verifier::Verifier;
use crate::working_set::WorkingSet;

/// The complete guest model.
pub struct Model {
    set: Arc<WorkingSet>,
    dirtier: Dirtier,
    verifier: Verifier,
    disks: Vec<Disk>,
    machine: Option<Machine>,
    screen: Option<Screen>,
    start: Instant,
}

impl Model {
    /// Reserves the pages of the model.
    pub fn new(
        reserve_pages: u64,
        disks: Vec<Disk>,
        machine: Option<Machine>,
        screen: Option<Screen>,
    ) -> Self {
        let set = Arc::new(WorkingSet::new(reserve_pages.max(1)));
        Self {
            dirtier: Dirtier::new(Arc::clone(&set)),
            verifier: Verifier::new(Arc::clone(&set)),
            set,
            disks,
            machine,
            screen,
            start: Instant::now(),
        }
    }

    /// Writes, checks and answers for as long as the guest lives.
    ///
    /// # Errors
    /// When the port is not available.
    pub fn run(self) -> Result<()> {
        let model = Arc::new(self);
        let other = Arc::clone(&model);
        thread::spawn(move || other.dirtier.run());
        let other = Arc::clone(&model);
        thread::spawn(move || other.verifier.run());
        for index in 0..model.disks.len() {
            let other = Arc::clone(&model);
            thread::spawn(move || other.disks[index].run());
        }
        let other = Arc::clone(&model);
        thread::spawn(move || other.machine.as_ref().map(|machine| machine.run()));
        let other = Arc::clone(&model);
        thread::spawn(move || other.screen.as_ref().map(|screen| screen.run()));
        let listener = TcpListener::bind(("0.0.0.0", PORT)).context("cannot listen")?;
        println!("lull-guest: ready");
        for stream in listener.incoming().flatten() {
            let model = Arc::clone(&model);
            thread::spawn(move || model.serve(stream));
        }
        Ok(())
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let reader = BufReader::new(stream.try_clone()?);
        for line in reader.lines() {
            let answer = match serde_json::from_str(&line?) {
                Ok(request) => self.answer(request),
                Err(error) => Answer::Error(error.to_string()),
            };
            let mut text = serde_json::to_string(&answer)?;
            text.push('\n');
            stream.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Status => {}
            Request::SetLoad(load) => {
                if let Err(reason) = self.set_load(load) {
                    return Answer::Error(reason);
                }
            }
            Request::VerifyAll => {
                self.verifier.sweep();
                self.disks.iter().for_each(Disk::sweep);
            }
            Request::Crash => sysrq("c"),
            Request::PowerOff => sysrq("o"),
        }
        Answer::Status(Box::new(self.status()))
    }

    fn set_load(&self, load: Load) -> Result<(), String> {
        let reserve = self.set.reserve();
        if load.working_set_pages > reserve || load.working_set_pages == 0 {
            return Err(format!(
                "a working set of {} pages does not fit in {reserve}",
                load.working_set_pages
            ));
        }
        self.dirtier.set_load(load);
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            pages_written: self.dirtier.written(),
            verified: self.verifier.verified(),
            hash_errors: self.verifier.errors(),
            bad_pages: self.verifier.bad_pages(),
            uptime_ms: millis(self.start.elapsed()),
            wall_ms: millis(UNIX_EPOCH.elapsed().unwrap_or_default()),
            reserve_pages: self.set.reserve(),
            load: self.dirtier.load(),
            disk: Disk::status_of(&self.disks),
            machine: self.machine.as_ref().map(Machine::status),
            screen: self.screen.as_ref().map(Screen::status),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Sends a key to the kernel's sysrq, which works in any state of user space.
fn sysrq(key: &str) {
    // If the kernel refuses this, the caller detects that the guest still lives.
    let _ = std::fs::write("/proc/sys/kernel/sysrq", "1");
    let _ = std::fs::write("/proc/sysrq-trigger", key);
}
