//! Builds the stub domain's image, which the engine contains.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest.ancestors().nth(2).expect("the workspace is above");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    build_stub(root, &out);
}

/// All files and folders from which the image is built.
const INPUTS: [&str; 7] = [
    "core/src",
    "core/Cargo.toml",
    "stubdom",
    "linker",
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
];

/// The level of deflate that takes longest and gives the fewest bytes.
const SMALLEST: u8 = 10;

/// Builds the image and compresses it. Cargo runs in a separate target folder, without this
/// build's flags and wrappers; all flags of the image are in `.cargo/stubdom.toml`.
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
        .arg("--config")
        .arg(format!(
            "target.x86_64-unknown-linux-gnu.rustflags={:?}",
            unnamed_places()
        ))
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
    let packed = out.join("stub-image.packed");
    let bytes = fs::read(&image).expect("cargo has built the image");
    let bytes = miniz_oxide::deflate::compress_to_vec(&bytes, SMALLEST);
    fs::write(&packed, bytes).expect("the build's own folder can be written");
    println!("cargo::rustc-env=LULL_STUB_IMAGE={}", image.display());
    println!(
        "cargo::rustc-env=LULL_STUB_IMAGE_PACKED={}",
        packed.display()
    );
}

/// Returns flags that keep the paths of other crates' sources out of the image, so that the
/// same sources give the same image on every machine.
fn unnamed_places() -> Vec<String> {
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let Some(sources) = cargo.map(|cargo| cargo.join("registry/src")) else {
        return Vec::new();
    };
    let registries = fs::read_dir(sources).into_iter().flatten().flatten();
    let mut flags: Vec<String> = registries
        .map(|registry| format!("--remap-path-prefix={}=crates", registry.path().display()))
        .collect();
    flags.sort();
    flags
}
