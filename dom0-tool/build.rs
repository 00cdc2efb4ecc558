//! Determines the commit of the sources.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest.parent().expect("the workspace is above");
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rustc-env=LULL_COMMIT={}", commit(root));
}

/// All files and folders from which the tool is built.
const INPUTS: [&str; 24] = [
    "core/src",
    "core/Cargo.toml",
    "dom0-tool/base/src",
    "dom0-tool/base/Cargo.toml",
    "dom0-tool/xen/src",
    "dom0-tool/xen/Cargo.toml",
    "dom0-tool/wire/src",
    "dom0-tool/wire/Cargo.toml",
    "dom0-tool/store/src",
    "dom0-tool/store/Cargo.toml",
    "dom0-tool/engine/src",
    "dom0-tool/engine/Cargo.toml",
    "dom0-tool/engine/build.rs",
    "dom0-tool/agents/src",
    "dom0-tool/agents/Cargo.toml",
    "dom0-tool/src",
    "dom0-tool/build.rs",
    "dom0-tool/simulator/src",
    "dom0-tool/Cargo.toml",
    "stubdom",
    "linker",
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
];

/// Returns git's name of the commit, with `+changes` if the sources differ from it;
/// `unknown` outside of git.
fn commit(root: &Path) -> String {
    // The git directory is given by name, because the sources may be unpacked within
    // another repository.
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(root.join(".git"));
        git.arg("--work-tree").arg(root).args(words);
        let output = git.current_dir(root).output().ok()?;
        let text = output.status.success().then_some(output.stdout)?;
        Some(String::from_utf8(text).ok()?.trim().to_owned())
    };
    let Some(name) = git(&["describe", "--always", "--tags", "--abbrev=12"]) else {
        return "unknown".to_owned();
    };
    // The log of HEAD grows with each commit and with each checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && root.join(&log).exists()
    {
        println!("cargo::rerun-if-changed={}", root.join(log).display());
    }
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(INPUTS);
    match git(&status).as_deref() {
        Some("") => name,
        _ => name + "+changes",
    }
}
