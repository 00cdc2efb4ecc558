//! A fresh Debian in a folder, in which a package can be installed. Each command runs in
//! its own namespaces with this folder as their root, so no mount and no process outlives
//! the command, however it ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::cache::{self, Key};
use crate::shell_out::output_of;
use crate::timeline::Timeline;
use crate::{debian, programs, workplace};

/// The PATH of root on Debian.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The folder, which is removed when this is dropped.
pub struct SmallDebian {
    folder: TempDir,
}

impl SmallDebian {
    /// Unpacks a fresh Debian, from the cache if it is there.
    ///
    /// # Errors
    /// When it cannot be made, for example without root or without a network.
    pub fn fresh() -> Result<Self> {
        let timeline = Timeline::start();
        ensure!(
            rustix::process::getuid().is_root(),
            "only root can install a package"
        );
        programs::ensure(&timeline)?;
        let recipe = include_bytes!("debian.rs");
        let key = Key::default().with("recipe", recipe).finish();
        let place = cache::entry(&format!("debian-{key}"), |place| {
            debian::bundle_small_debian(&place.join("root.tar"))
        })?;
        let folder = workplace::create()?;
        let small = Self { folder };
        fs::create_dir(small.root())?;
        output_of(
            Command::new("tar")
                .args(["--extract", "--numeric-owner", "--preserve-permissions"])
                .args(["--exclude=./dev/*", "--file"])
                .arg(place.join("root.tar"))
                .arg("--directory")
                .arg(small.root()),
        )?;
        // This is a plain file, because this machine may not allow a device here.
        fs::write(small.root().join("dev/null"), "")?;
        timeline.phase("a small Debian unpacked");
        Ok(small)
    }

    /// Returns the folder that is its `/`.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Runs a shell command in it, and returns its standard output if the command succeeds.
    ///
    /// # Errors
    /// With the command's own messages, when it fails.
    pub fn run(&self, command: &str) -> Result<String> {
        let mut unshare = Command::new("unshare");
        if !is_mounted(Path::new("/")) {
            // The root is no mount point, so its propagation cannot be made private.
            unshare.args(["--propagation", "unchanged"]);
        }
        let text = output_of(
            unshare
                .args(["--mount", "--pid", "--fork", "--mount-proc", "--root"])
                .arg(self.root())
                .args(["/bin/sh", "-ec", command])
                .env_clear()
                .env("PATH", PATH)
                .env("LC_ALL", "C.UTF-8")
                .env("DEBIAN_FRONTEND", "noninteractive"),
        );
        // If the mounts were not made private, the command's /proc is visible here too.
        let proc = self.root().join("proc");
        if is_mounted(&proc) {
            output_of(Command::new("umount").arg(&proc))?;
        }
        Ok(String::from_utf8(text?)?)
    }

    /// Returns a line for every file: mode, owner, and values that change when the file
    /// does. The records of dpkg and of the manual's index about packages are left out.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        list(&self.root(), Path::new("/"), &mut lines)?;
        lines.sort();
        Ok(lines)
    }
}

/// Checks whether something is mounted at that place. After a change of root to a plain
/// folder nothing is mounted at `/`.
fn is_mounted(place: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = place.to_string_lossy();
    mounts
        .lines()
        .any(|mount| mount.split(' ').nth(4) == Some(&place))
}

/// Logs and indexes, whose content depends on the past, and a file that stands for a
/// device.
const REMEMBERED: [&str; 4] = ["/var/lib/dpkg", "/var/log", "/var/cache/man", "/dev"];

fn list(root: &Path, below: &Path, lines: &mut Vec<String>) -> Result<()> {
    if REMEMBERED.iter().any(|place| below == Path::new(place)) {
        return Ok(());
    }
    let outside = root.join(below.strip_prefix("/").unwrap_or(below));
    for entry in fs::read_dir(&outside).with_context(|| format!("{}", outside.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        let path = below.join(entry.file_name());
        let owner = format!("{:o} {}:{}", about.mode(), about.uid(), about.gid());
        let content = match about.is_dir() {
            true => String::new(),
            false => format!(" {} bytes at {}", about.size(), about.mtime()),
        };
        lines.push(format!("{} {owner}{content}", path.display()));
        if about.is_dir() {
            list(root, &path, lines)?;
        }
    }
    Ok(())
}
