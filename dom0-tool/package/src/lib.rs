//! lull's Debian package.
//!
//! `layout` determines where each file goes. `control` and the scripts beside it, in
//! `debian/`, hold the files for dpkg. The archive itself is made by `dpkg-deb`, which
//! every Debian has. The same commit and the same binary give the same package, byte for
//! byte.

mod control;
mod layout;
mod source;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use source::Source;

/// Returns the workspace in which this was built.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Makes a package of the binary `lull` in `folder`; returns its path.
///
/// # Errors
/// When a program that every Debian has is missing or fails, or `folder` cannot
/// be written.
pub fn build(lull: &Path, folder: &Path) -> Result<PathBuf> {
    let source = Source::look(workspace());
    let stage = tempfile::tempdir()?;
    let root = stage.path();
    layout::fill(root, lull, &source)?;
    control::fill(root, &source)?;
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let package = folder.join(format!("lull_{}_amd64.deb", source.version));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "--build"])
        .args([root, &package])
        .env("SOURCE_DATE_EPOCH", source.epoch.to_string()))
    .context("is this a Debian? dpkg-deb makes the package")?;
    Ok(package)
}

/// Writes a file into the stage, independent of this user's umask.
fn put(file: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    let place = || format!("{}", file.display());
    folder(file.parent().unwrap_or(Path::new("/")))?;
    fs::write(file, content).with_context(place)?;
    fs::set_permissions(file, Permissions::from_mode(mode)).with_context(place)
}

/// Creates a folder of the stage, and the folders above it that do not exist yet.
fn folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    folder(path.parent().unwrap_or(Path::new("/")))?;
    fs::create_dir(path).with_context(|| format!("{}", path.display()))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// Runs a program to its end, and returns its standard output.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
