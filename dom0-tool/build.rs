//! Builds the stub domain's image, which the tool carries inside itself.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest.parent().expect("the workspace is above");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for input in [
        "core/src",
        "core/Cargo.toml",
        "stubdom",
        "linker",
        ".cargo/stubdom.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    build_stub(root, &out);
}

/// Runs cargo in a target folder of its own, free of this build's flags and
/// wrappers: the image's are all in `.cargo/stubdom.toml`.
fn build_stub(root: &Path, out: &Path) {
    let target_dir = out.join("stub");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args([
            "build",
            "--package",
            "lull-stubdom",
            "--release",
            "--locked",
        ])
        .arg("--config")
        .arg(root.join(".cargo/stubdom.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(root)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the stub domain's image does not build");
    let image = target_dir.join("x86_64-unknown-linux-gnu/release/lull-stubdom");
    println!("cargo::rustc-env=LULL_STUB_IMAGE={}", image.display());
}
