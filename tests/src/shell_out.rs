//! Runs a program of this machine to its end.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs the command and returns its standard output.
///
/// # Errors
/// With the command's own messages, when it does not start or does not succeed.
pub fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = words.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{command:?}: {}\n{}", output.status, tail.join("\n"));
    }
    Ok(output.stdout)
}
