//! Checks that no panic is reachable from lull-core: a linked release binary that calls all
//! of it contains nothing that a panic needs.
//!
//! The lints reject what may panic in the source. This test checks what remains in the
//! machine code, dependencies included.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object, ObjectSymbol};

/// Runs a command that must succeed, and returns its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Builds lull-core as the stub uses it, in a separate target directory, because the one in
/// use is locked by the cargo that runs this test.
fn release_library(target: &Path) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let messages = output(
        Command::new(env!("CARGO"))
            .args([
                "build",
                "--release",
                "--lib",
                "--offline",
                "--message-format=json",
            ])
            .arg("--manifest-path")
            .arg(manifest)
            .arg("--target-dir")
            .arg(target)
            // Coverage and similar flags of the outer build would add the symbols that this
            // test looks for.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    );
    let rlib = messages
        .split('"')
        .find(|part| part.contains("liblull_core") && part.ends_with(".rlib"));
    PathBuf::from(rlib.expect("cargo names the library it built"))
}

/// Returns the names of the symbols of the probe that only a panic needs.
fn panics_of_probe(target: &Path, library: &Path, cfg: &str) -> Vec<String> {
    let probe = target.join(format!("probe-{cfg}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no_panic/probe.rs");
    let dependencies = library.parent().expect("a file has a parent").join("deps");
    output(
        Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
            .args([
                "--edition=2024",
                "--crate-type=bin",
                "-Copt-level=3",
                "-Cpanic=abort",
            ])
            .args([
                "-Clink-args=-nostartfiles -nostdlib -static",
                "-Crelocation-model=static",
            ])
            .args(["-Cstrip=none", "--check-cfg=cfg(canary)", "--cfg", cfg])
            .arg("--extern")
            .arg(format!("lull_core={}", library.display()))
            .arg(format!("-Ldependency={}", dependencies.display()))
            .arg("-o")
            .arg(&probe)
            .arg(source),
    );
    let bytes = std::fs::read(&probe).expect("the probe was linked");
    let file = object::File::parse(&*bytes).expect("the probe is an object file");
    let names: Vec<String> = file
        .symbols()
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .collect();
    assert!(
        names.iter().any(|name| name.contains("lull_core")),
        "lull-core was optimised away"
    );
    let panicking = [
        "panicking",
        "rust_begin_unwind",
        "unwrap_failed",
        "expect_failed",
    ];
    names
        .into_iter()
        .filter(|name| panicking.iter().any(|word| name.contains(word)))
        .collect()
}

#[test]
fn no_panic_is_reachable() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_panic");
    let library = release_library(&target);
    assert_eq!(panics_of_probe(&target, &library, "probe"), [""; 0]);
    // This checks the test itself: it detects an index out of bounds.
    assert_ne!(panics_of_probe(&target, &library, "canary"), [""; 0]);
}
