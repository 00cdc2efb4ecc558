//! Tells whether another process of this host is alive and who owns it.
//!
//! A process id alone proves nothing: the kernel reuses ids, and any user can start a
//! process with any name and arguments.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The names of lull's executable. For libvirt it has the name of Xen's own helper,
/// because libvirt's AppArmor profile allows no other name.
const NAMES: [&str; 2] = ["lull", "libxl-save-helper"];

/// Whether process `number` is a live lull process owned by root. Also true for Xen's
/// own helper, which has the same name.
pub fn is_lulls(number: u32) -> bool {
    let process = format!("/proc/{number}");
    let process = Path::new(&process);
    let name = program(process);
    let is_named = name.as_deref().is_some_and(|name| NAMES.contains(&name));
    is_roots(process) && (is_named || runs_this_program(number))
}

/// Whether process `number` runs the same program as this one, as far as its name tells.
pub fn runs_this_program(number: u32) -> bool {
    let name = program(Path::new(&format!("/proc/{number}")));
    name.is_some() && name == program(Path::new("/proc/self"))
}

/// Whether root owns the process with this folder below `/proc`. If this process runs
/// as another user, as in tests, that user is meant instead of root.
pub fn is_roots(process: &Path) -> bool {
    let owner = fs::metadata(process).map(|process| process.uid());
    owner.is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

/// The name of the executable that the process runs. An upgrade may have replaced the
/// file since the process started.
fn program(process: &Path) -> Option<String> {
    let exe = fs::read_link(process.join("exe")).ok()?;
    let name = exe.file_name()?.to_str()?;
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_number_that_is_anothers_is_no_lull() {
        assert!(is_lulls(std::process::id()));
        assert!(!is_lulls(u32::MAX));
        let mut other = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        assert!(!is_lulls(other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
