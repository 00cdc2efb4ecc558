//! Other processes of this host: alive, and whose.
//!
//! A number alone says nothing: the kernel gives it to another process, and any user
//! may start one with any name and any arguments.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What lull's file is called: for libvirt, whose AppArmor profile knows no other name,
/// as Xen's own helper.
const NAMES: [&str; 2] = ["lull", "libxl-save-helper"];

/// Whether process `number` is a lull of root's that lives; or Xen's own helper, which
/// cannot be told from it by its name.
pub fn is_lulls(number: u32) -> bool {
    let process = format!("/proc/{number}");
    let process = Path::new(&process);
    let name = program(process);
    let is_named = name.as_deref().is_some_and(|name| NAMES.contains(&name));
    is_roots(process) && (is_named || name.is_some() && name == program(Path::new("/proc/self")))
}

/// Whether a process, by its folder below `/proc`, is root's. Where this runs as
/// somebody else, as in tests, it is whoever that is.
pub fn is_roots(process: &Path) -> bool {
    let owner = fs::metadata(process).map(|process| process.uid());
    owner.is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

/// The name of what it runs; an upgrade may have replaced the file since.
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
