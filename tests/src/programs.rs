//! The programs that the machine that runs the rig needs, and how they get there. Missing
//! ones are installed through apt-get if possible; otherwise the error lists every one of
//! them with its package.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::timeline::Timeline;

/// A program, or another file by its path, and the Debian package that contains it.
struct Program {
    name: &'static str,
    /// The package in apt-get's syntax, with the version where it matters.
    package: &'static str,
}

/// The programs that are needed. QEMU 10 (bookworm-backports) boots Xen, but PVH guests
/// shut down at once, so the version is part of the request.
const PROGRAMS: [Program; 9] = [
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86=1:7.2*",
    },
    Program {
        name: "mmdebstrap",
        package: "mmdebstrap",
    },
    Program {
        name: "ssh",
        package: "openssh-client",
    },
    Program {
        name: "ssh-keygen",
        package: "openssh-client",
    },
    Program {
        name: "setpriv",
        package: "util-linux",
    },
    Program {
        name: "xz",
        package: "xz-utils",
    },
    Program {
        name: "zstd",
        package: "zstd",
    },
    Program {
        name: "tar",
        package: "tar",
    },
    // The packages of Debian 13 are verified with this keyring.
    Program {
        name: "/usr/share/keyrings/debian-archive-trixie-stable.gpg",
        package: "debian-archive-keyring",
    },
];

/// Ensures that every program is installed.
///
/// # Errors
/// With the list of missing programs, when they cannot be installed.
pub fn ensure(timeline: &Timeline) -> Result<()> {
    let missing: Vec<&Program> = PROGRAMS.iter().filter(|p| find(p.name).is_none()).collect();
    if !missing.is_empty() {
        install(&missing, timeline)?;
    }
    check_qemu_version()
}

/// Returns the path of a program, if it is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn install(missing: &[&Program], timeline: &Timeline) -> Result<()> {
    let mut packages: Vec<&str> = missing.iter().map(|p| p.package).collect();
    packages.dedup();
    let wanted = packages.join(" ");
    let programs: Vec<&str> = missing.iter().map(|p| p.name).collect();
    let programs = programs.join(", ");

    if find("apt-get").is_none() {
        bail!(
            "missing programs: {programs}; this machine has no apt-get, so install by hand what Debian 12 calls: {wanted}"
        );
    }
    if !rustix::process::getuid().is_root() {
        bail!("missing programs: {programs}; as root, run: apt-get install {wanted}");
    }
    if !package_lists_present() {
        timeline.phase("apt-get update");
        apt_get(&["update"]).with_context(|| format!("missing programs: {programs}"))?;
    }
    timeline.phase(format_args!("apt-get install {wanted}"));
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&packages);
    apt_get(&arguments)
        .with_context(|| format!("missing programs: {programs} (packages of Debian 12: {wanted})"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot start apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Checks whether apt has package lists yet.
fn package_lists_present() -> bool {
    let Ok(entries) = Path::new("/var/lib/apt/lists").read_dir() else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn check_qemu_version() -> Result<()> {
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .context("cannot start qemu-system-x86_64")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .unwrap_or("unknown");
    if version.starts_with("10.") {
        bail!(
            "QEMU {version} is installed: Xen boots under QEMU 10, but PVH guests shut down at once; install {}",
            PROGRAMS[0].package
        );
    }
    Ok(())
}
