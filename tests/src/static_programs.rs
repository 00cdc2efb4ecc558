//! The rig's own programs that run elsewhere: the agent in dom0 and the guest
//! model. Linked statically, since neither place has this machine's libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell_out::output_of;
use crate::timeline::Timeline;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the built programs are.
pub struct StaticPrograms {
    /// The agent, for dom0.
    pub agent: PathBuf,
    /// The guest model, PID 1 of a guest.
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

/// Builds the product's binary for dom0.
pub fn build_lull(timeline: &Timeline) -> Result<PathBuf> {
    let folder = build_packages(&["-p", "lull", "--bin", "lull"])?;
    timeline.phase("lull built");
    Ok(folder.join("lull"))
}

/// The workspace this rig was built in.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Runs cargo with settings of its own, in a target folder of its own, so that
/// it neither waits for the cargo that runs the tests nor undoes its work.
fn build_packages(selection: &[&str]) -> Result<PathBuf> {
    let target = workspace().join("target/rig");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Of the outer cargo's settings none may leak in.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let leaks = ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_BUILD_TARGET"];
        if leaks.contains(&name.as_str()) || name.starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    output_of(
        command
            .current_dir(workspace())
            .args(["build", "--release", "--quiet"])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            .args(selection)
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )
    .context("cannot build the rig's static programs")?;
    Ok(target.join(TARGET).join("release"))
}
