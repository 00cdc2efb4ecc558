//! Xen's own save helper, for the saves that lull does not do.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable with the path of the stock helper, if it is in none of the usual
/// places.
const VARIABLE: &str = "LULL_STOCK_HELPER";

const NAME: &str = "libxl-save-helper";

/// Executes the stock helper in this process, with the same command line and descriptors.
/// Returns only on failure.
pub fn become_it(args: &[OsString]) -> io::Error {
    match find() {
        Ok(path) => Command::new(path).args(args.iter().skip(1)).exec(),
        Err(error) => error,
    }
}

/// Finds the path of the stock helper.
///
/// # Errors
/// When it is in none of the usual places.
pub fn find() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Ok(path.into());
    }
    let ourselves = fs::metadata("/proc/self/exe")?;
    let is_ours = |path: &Path| {
        let same =
            |file: fs::Metadata| (file.dev(), file.ino()) == (ourselves.dev(), ourselves.ino());
        fs::metadata(path).is_ok_and(same)
    };
    let found = places()
        .into_iter()
        .find(|path| path.is_file() && !is_ours(path));
    found.ok_or_else(|| {
        let text =
            format!("Xen's own {NAME} is in none of the usual places; name it in {VARIABLE}");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// The directories where distributions install it; Debian has one for each Xen release.
fn places() -> Vec<PathBuf> {
    let running = lull_xen::version::detect().map(|version| format!("xen-{version}"));
    let release = running.unwrap_or_else(|_| "xen".into());
    [
        format!("/usr/lib/{release}/bin"),
        "/usr/libexec/xen/bin".into(),
        "/usr/lib/xen/bin".into(),
        "/usr/lib64/xen/bin".into(),
    ]
    .into_iter()
    .map(|folder| Path::new(&folder).join(NAME))
    .collect()
}
