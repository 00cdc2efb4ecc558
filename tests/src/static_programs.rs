//! The programs that run elsewhere: the product and the rig's agent in dom0, and the guest
//! model in guests. The workspace's settings link them statically, because these places do
//! not have this machine's libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell_out::output_of;
use crate::timeline::Timeline;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The paths of the built programs.
pub struct StaticPrograms {
    /// The path of the agent, for dom0.
    pub agent: PathBuf,
    /// The path of the guest model, PID 1 of a guest.
    pub guest: PathBuf,
}

/// Builds the agent and the guest model.
pub fn build(timeline: &Timeline) -> Result<StaticPrograms> {
    let folder = build_packages(&[
        "-p",
        "lull-tests",
        "--bin",
        "rig-agent",
        "-p",
        "lull-guest",
        "--bin",
        "lull-guest",
    ])?;
    timeline.phase("agent and guest model built");
    Ok(StaticPrograms {
        agent: folder.join("rig-agent"),
        guest: folder.join("lull-guest"),
    })
}

/// Builds the product as its users do: `cargo build --release -p lull`.
pub fn build_lull(timeline: &Timeline) -> Result<PathBuf> {
    let folder = build_packages(&["-p", "lull"])?;
    timeline.phase("lull built");
    Ok(folder.join("lull"))
}

/// Builds the product without what only a person at a terminal needs.
pub fn build_lull_without_terminal(timeline: &Timeline) -> Result<PathBuf> {
    let folder = build_packages(&["-p", "lull", "--no-default-features"])?;
    timeline.phase("lull built without its feature `terminal`");
    Ok(folder.join("lull"))
}

/// Builds the Debian package as README describes; returns its path.
///
/// # Errors
/// When the build leaves no package.
pub fn build_package(timeline: &Timeline) -> Result<PathBuf> {
    let said = output_of(cargo().arg("debian"))?;
    timeline.phase("the Debian package built");
    Ok(String::from_utf8(said)?.trim_end().into())
}

/// The workspace this rig was built in.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Returns a command for the workspace's own cargo, with the target folder in which this
/// program was built, so that nothing is built twice.
fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The variables that the outer cargo sets for a program must not reach the inner one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", target_folder());
    command
}

/// Builds programs; returns the folder that contains them.
fn build_packages(selection: &[&str]) -> Result<PathBuf> {
    let target = target_folder();
    output_of(
        cargo()
            .args(["build", "--release", "--quiet"])
            .args(selection),
    )
    .context("cannot build the programs that run in dom0 and in guests")?;
    Ok(target.join(TARGET).join("release"))
}

/// Returns the folder above this program that cargo has marked as its own, or the usual one
/// if the program was moved. Cargo marks the folder of the target in it too.
fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let marked =
        |folder: &&Path| !folder.ends_with(TARGET) && folder.join("CACHEDIR.TAG").is_file();
    match program.ancestors().skip(1).find(marked) {
        Some(folder) => folder.to_owned(),
        None => workspace().join("target"),
    }
}
