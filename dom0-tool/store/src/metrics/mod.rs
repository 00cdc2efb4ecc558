//! Metrics for hosts that are scraped: a text file for the node exporter's textfile
//! collector.
//!
//! The process that keeps the record of an attempt ([`runs`](crate::runs)) counts it when
//! it begins and when it is over, so metrics can neither delay nor fail a migration. The
//! counters ([`counts`]) are kept in a file of lull and survive restarts. The number of
//! running attempts ([`running`]) is not a counter but is determined each time, because a
//! killed process could not decrement it.

mod counts;
mod exposition;
mod running;

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::runs::Run;
use counts::Counts;
use lull_base::{atomic_file, file_lock};

pub use running::Running;

/// The folder that the node exporter reads, as Debian installs it.
const COLLECTED: &str = "/var/lib/prometheus/node-exporter";

/// How long to wait for the lock. It is never held for longer than one write.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The paths of the metrics files.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The folder with counters and locks.
    state: PathBuf,
    /// The folder of the collected text, if it exists.
    collected: PathBuf,
}

impl Metrics {
    /// The metrics of this host, with lull's own files in `state`.
    pub fn of(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            collected: COLLECTED.into(),
        }
    }

    /// Records that an attempt begins. It counts as running as long as this process lives
    /// and holds the returned value.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn begun(&self) -> io::Result<Running> {
        let _lock = self.lock()?;
        let running = Running::enter(&self.running())?;
        self.write(&self.counts())?;
        Ok(running)
    }

    /// Counts an attempt that is over, from its record.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn over(&self, running: Option<Running>, run: &Run) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut counts = self.counts();
        counts.add(run);
        atomic_file::replace(&self.counted(), &serde_json::to_vec(&counts)?, 0o600)?;
        drop(running);
        self.write(&counts)
    }

    fn counted(&self) -> PathBuf {
        self.state.join("metrics.json")
    }

    fn running(&self) -> PathBuf {
        self.state.join("running")
    }

    /// Locks the files, because two attempts may begin or end at the same time.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.state)?;
        let lock = file_lock::file(&self.state.join("metrics.lock"))?;
        match file_lock::lock(&lock, TIMEOUT)? {
            true => Ok(lock),
            false => Err(io::Error::other("another lull holds the lock")),
        }
    }

    /// Reads the counters. A corrupt file counts as empty: counters may restart at any
    /// time, and Prometheus handles that.
    fn counts(&self) -> Counts {
        Counts::read(&self.counted()).unwrap_or_default()
    }

    fn write(&self, counts: &Counts) -> io::Result<()> {
        // Also if there is no collector, because this removes the files of dead processes.
        let running = running::count(&self.running());
        if !self.collected.is_dir() {
            return Ok(());
        }
        let text = exposition::of(counts, running);
        // The collector reads only files with this extension.
        atomic_file::replace(&self.collected.join("lull.prom"), text.as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests;
