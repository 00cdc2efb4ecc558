//! Runs a program to its end: one of this machine, or of an unpacked Debian.

use std::path::Path;
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

/// Returns a command that runs `program` of the unpacked tree `root`, under the name `called`
/// if one is given. It runs with the tree's own loader and libraries, because this machine may
/// have neither the program nor its libraries.
pub fn program_of(root: &Path, called: Option<&str>, program: &str) -> Command {
    let libraries = format!(
        "{0}/lib/x86_64-linux-gnu:{0}/usr/lib/x86_64-linux-gnu",
        root.display()
    );
    let mut command = Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    if let Some(called) = called {
        command.args(["--argv0", called]);
    }
    command
        .args(["--library-path", &libraries])
        .arg(root.join(program));
    command
}
