//! The file of the running program.

use std::path::PathBuf;

use anyhow::Context;

/// Its path, for a program that is to start it again.
///
/// # Errors
/// When it was replaced or removed since it was started.
pub fn path() -> anyhow::Result<PathBuf> {
    let lull = std::env::current_exe().context("lull's own file cannot be found")?;
    anyhow::ensure!(
        lull.is_file(),
        "lull's own file, {}, is gone.\nNothing was done. Start lull again.",
        lull.display()
    );
    Ok(lull)
}
