//! Pauses a domain at a moment for which a shell would be too slow.

use std::io;
use std::process::Command;

use anyhow::{Result, ensure};

use super::memory::Privcmd;

/// Waits until its input has delivered that many lines, and runs a shell command while the
/// domain is paused.
pub fn run(lines: usize, domain: u16, command: &str) -> Result<()> {
    let xen = Privcmd::open()?;
    let read = io::stdin()
        .lines()
        .take(lines)
        .collect::<Result<Vec<_>, _>>()?;
    ensure!(read.len() == lines, "{} of {lines} lines", read.len());
    xen.pause(domain)?;
    let status = Command::new("sh").args(["-c", command]).status();
    xen.unpause(domain)?;
    ensure!(status?.success(), "{command} failed");
    Ok(())
}
