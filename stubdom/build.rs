//! Link arguments of the freestanding image; only this package's binary gets
//! them.

use std::env;
use std::path::Path;

fn main() {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let script = Path::new(&manifest).join("../linker/stubdom.ld");
    let script = script.canonicalize().expect("the linker script is there");
    println!("cargo::rerun-if-changed={}", script.display());
    // Only `.cargo/stubdom.toml` builds an image; `cargo check` and clippy on
    // the whole workspace must not need it.
    for argument in [
        &format!("-T{}", script.display()),
        "-Tdefmt.x",
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,noexecstack",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
