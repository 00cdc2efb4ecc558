//! Figures for hosts that are scraped: a text file for the node exporter's
//! textfile collector.
//!
//! The process that keeps the record of an attempt ([`runs`](crate::runs))
//! counts it, when it begins and when it is over; so nothing here can hold up
//! or fail a migration. What has been counted ([`counts`]) outlives restarts in
//! a file of lull's own; who runs ([`running`]) is never counted but looked
//! for, since whoever is killed cannot count itself out.

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

/// Where the node exporter looks, as Debian installs it.
const COLLECTED: &str = "/var/lib/prometheus/node-exporter";

/// How long the lock is waited for: nobody holds it for longer than a write.
const PATIENCE: Duration = Duration::from_secs(5);

/// The files.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Counts and locks.
    state: PathBuf,
    /// Where the text goes, if it exists.
    collected: PathBuf,
}

impl Metrics {
    /// Of this host, with lull's own files in `state`.
    pub fn of(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            collected: COLLECTED.into(),
        }
    }

    /// An attempt begins: it counts as running as long as this process lives
    /// and holds what is returned.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn begun(&self) -> io::Result<Running> {
        let _lock = self.lock()?;
        let running = Running::enter(&self.running())?;
        self.write(&self.counts())?;
        Ok(running)
    }

    /// An attempt is over, and this was told of it.
    ///
    /// # Errors
    /// When a file cannot be written.
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

    /// Two attempts may begin or end together.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.state)?;
        let lock = file_lock::file(&self.state.join("metrics.lock"))?;
        match file_lock::lock(&lock, PATIENCE)? {
            true => Ok(lock),
            false => Err(io::Error::other("another lull holds the lock")),
        }
    }

    /// What was counted so far. Counters may start anew at any time, and what
    /// reads them knows: a file that makes no sense counts as none.
    fn counts(&self) -> Counts {
        Counts::read(&self.counted()).unwrap_or_default()
    }

    fn write(&self, counts: &Counts) -> io::Result<()> {
        // Also where nobody asks: it clears away what the dead left.
        let running = running::count(&self.running());
        if !self.collected.is_dir() {
            return Ok(());
        }
        let text = exposition::of(counts, running);
        // The collector reads nothing of another name.
        atomic_file::replace(&self.collected.join("lull.prom"), text.as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests;
