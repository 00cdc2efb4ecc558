//! The executable file of the running program.

use std::path::PathBuf;

use anyhow::Context;

/// The path of the executable, for starting it again.
///
/// # Errors
/// Returns an error if the file was replaced or removed since the program started.
pub fn path() -> anyhow::Result<PathBuf> {
    let lull = std::env::current_exe().context("lull's own file cannot be found")?;
    anyhow::ensure!(
        lull.is_file(),
        "lull's own file, {}, is gone.\nNothing was done. Start lull again.",
        lull.display()
    );
    Ok(lull)
}
