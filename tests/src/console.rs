//! The output of the hypervisor and dom0 on the serial line, and the messages in it that
//! mean that the rig, not the product, is at fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Messages that mean that the emulated machine or its set-up failed.
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

/// The kind of a rig fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A guest's processor had a triple fault. It occurs about once in twenty guest
    /// lifetimes after a stock migration, without any part of lull involved.
    TripleFault,
    /// dom0's kernel reported an error of its own.
    Dom0Kernel,
    /// The hypervisor crashed.
    Hypervisor,
    /// dom0's start-up did not complete.
    Setup,
}

/// One line of the log that indicates a rig fault.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The kind of fault that the line indicates.
    pub kind: FaultKind,
    /// The text of the line.
    pub line: String,
}

/// The serial log of one machine.
#[derive(Debug, Clone)]
pub struct Console {
    log: PathBuf,
}

/// A position in the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(usize);

impl Console {
    /// Opens the log file that QEMU writes to.
    pub fn new(log: &Path) -> Self {
        Self {
            log: log.to_owned(),
        }
    }

    /// Returns everything printed so far.
    pub fn text(&self) -> String {
        self.since(Mark::default())
    }

    /// Returns everything printed since a mark.
    pub fn since(&self, mark: Mark) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(mark.0..).unwrap_or_default()).into_owned()
    }

    /// Returns a mark at the present end of the log.
    pub fn mark(&self) -> Mark {
        Mark(fs::metadata(&self.log).map_or(0, |m| usize::try_from(m.len()).unwrap_or(usize::MAX)))
    }

    /// Returns the lines since a mark that indicate a rig fault.
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

    /// Waits until `text` appears. `alive` is called in between, and the wait ends when it
    /// reports that the machine is gone.
    ///
    /// # Errors
    /// With the end of the log, when the text does not appear.
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
