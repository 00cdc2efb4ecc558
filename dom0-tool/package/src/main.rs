//! `cargo debian`: builds lull as its users do, and makes a package of it.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use lull_package::workspace;

fn main() -> ExitCode {
    match package() {
        Ok(file) => {
            println!("{}", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("no package: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn package() -> Result<PathBuf> {
    let lull = build()?;
    // The folder is three levels above `x86_64-unknown-linux-gnu/release/lull`.
    let folder = lull.ancestors().nth(3).context("cargo's own folder")?;
    lull_package::build(&lull, &folder.join("debian"))
}

/// Builds the binary; returns the path that cargo reports.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--release", "--locked", "--package", "lull"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "lull does not build");
    let text = String::from_utf8(output.stdout)?;
    let mut messages = text.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(message["executable"].as_str()?.into())
    });
    messages.next_back().context("cargo names no executable")
}
