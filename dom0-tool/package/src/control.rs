//! The files for dpkg: the package's description, sums, and scripts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::source::Source;
use crate::{put, run};

/// Adds `DEBIAN/` to a `root` that contains everything else.
pub fn fill(root: &Path, source: &Source) -> Result<()> {
    let mut files = Vec::new();
    list(root, Path::new(""), &mut files)?;
    files.sort();
    let mut sums = Command::new("md5sum");
    let sums = run(sums.current_dir(root).arg("--").args(&files))?;
    let mut kib = 0;
    for file in &files {
        kib += fs::metadata(root.join(file))?.size().div_ceil(1024);
    }
    let folder = root.join("DEBIAN");
    put(&folder.join("md5sums"), sums, 0o644)?;
    put(&folder.join("control"), control(source, kib), 0o644)?;
    for (name, script) in [
        ("postinst", include_str!("../debian/postinst")),
        ("prerm", include_str!("../debian/prerm")),
        ("postrm", include_str!("../debian/postrm")),
    ] {
        put(&folder.join(name), script, 0o755)?;
    }
    Ok(())
}

/// Returns the description of the package. It has no dependencies: the binary is static,
/// and reports itself what it needs. A host without Xen's tools may still replay and
/// simulate.
fn control(source: &Source, kib: u64) -> String {
    let (version, maintainer) = (&source.version, &source.maintainer);
    format!(
        "Package: lull
Version: {version}
Architecture: amd64
Maintainer: {maintainer}
Installed-Size: {kib}
Recommends: xen-utils, openssh-client
Suggests: libvirt-daemon-driver-xen, prometheus-node-exporter
Section: admin
Priority: optional
Description: live-migrates Xen guests without pausing them for too long
 lull moves a running Xen guest to another host so that it is never paused
 longer than its operator allows. Either the guest moves within the limit, or it
 keeps running where it was, and lull says why and what would have worked.
 .
 Stock xl on both ends stays in charge of everything else; the destination needs
 no lull. After `lull enable xl` or `lull enable libvirt`, plain `xl migrate` and
 `virsh migrate --live` keep the limits too.
"
    )
}

fn list(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(root, &path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}
