//! What the hypervisor and dom0 print on the serial line, and what in it means
//! that the rig, not the product, is at fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Signs that the emulated machine or its set-up went wrong.
const FAULT_SIGNS: &[(&str, FaultKind)] = &[
    ("Triple fault", FaultKind::TripleFault),
    ("lull-rig: FAULT", FaultKind::Setup),
    ("BUG: ", FaultKind::Dom0Kernel),
    ("Oops: ", FaultKind::Dom0Kernel),
    ("Kernel panic", FaultKind::Dom0Kernel),
    ("Out of memory: Killed", FaultKind::Dom0Kernel),
    ("FATAL TRAP", FaultKind::Hypervisor),
    ("Xen BUG at", FaultKind::Hypervisor),
    ("Panic on CPU", FaultKind::Hypervisor),
    ("Assertion '", FaultKind::Hypervisor),
];

/// What kind of rig fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A guest's processor gave up. Seen about once in twenty guest lifetimes
    /// after a stock migration, without any part of lull involved.
    TripleFault,
    /// dom0's kernel reported an error of its own.
    Dom0Kernel,
    /// The hypervisor stopped.
    Hypervisor,
    /// dom0's start-up did not get through.
    Setup,
}

/// One line of the log that means a rig fault.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What it means.
    pub kind: FaultKind,
    /// The line itself.
    pub line: String,
}

/// The serial log of one machine.
#[derive(Debug, Clone)]
pub struct Console {
    log: PathBuf,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(usize);

impl Console {
    /// Reads from the file that QEMU writes to.
    pub fn new(log: &Path) -> Self {
        Self {
            log: log.to_owned(),
        }
    }

    /// Everything printed so far.
    pub fn text(&self) -> String {
        self.since(Mark::default())
    }

    /// Everything printed since a mark.
    pub fn since(&self, mark: Mark) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(mark.0..).unwrap_or_default()).into_owned()
    }

    /// The end of the log as it is now.
    pub fn mark(&self) -> Mark {
        Mark(fs::metadata(&self.log).map_or(0, |m| usize::try_from(m.len()).unwrap_or(usize::MAX)))
    }

    /// The lines since a mark that mean a rig fault.
    pub fn faults_since(&self, mark: Mark) -> Vec<Fault> {
        let text = self.since(mark);
        text.lines()
            .filter_map(|line| {
                FAULT_SIGNS
                    .iter()
                    .find(|(sign, _)| line.contains(sign))
                    .map(|(_, kind)| Fault {
                        kind: *kind,
                        line: line.trim().to_owned(),
                    })
            })
            .collect()
    }

    /// Waits until `text` appears. `alive` is asked in between, and its word
    /// that the machine is gone ends the wait.
    ///
    /// # Errors
    /// With the end of the log, when it does not appear.
    pub fn wait_for(
        &self,
        text: &str,
        limit: Duration,
        alive: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.text().contains(text) {
            let gone = alive().err();
            if gone.is_some() || Instant::now() > deadline {
                let log = self.text();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                let why = gone.map_or_else(
                    || format!("no \"{text}\" after {} s", limit.as_secs()),
                    |error| format!("{error:#}"),
                );
                bail!("{why}; the console's last lines:\n{}", tail.join("\n"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
