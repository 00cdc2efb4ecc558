//! Debian packages: which ones dom0 is made of, their versions, and their
//! files without their maintainer scripts (which would take ten times as long
//! as the unpacking).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell_out::output_of;

const SUITE: &str = "bookworm";

/// Packages of dom0; what they depend on comes with them.
const DOM0_PACKAGES: &[&str] = &[
    "bash",
    "bsdutils",
    "busybox-static",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-amd64",
    "mawk",
    "openssh-client",
    "openssh-server",
    "openssh-sftp-server",
    "procps",
    "python3",
    "sed",
    "strace",
    "util-linux",
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xenstore-utils",
];

/// Packages of libvirt with its Xen driver; what they depend on comes with them.
const LIBVIRT_PACKAGES: &[&str] = &[
    "libvirt-clients",
    "libvirt-daemon-driver-xen",
    "libvirt-daemon-system",
];

/// The hypervisor of Debian 12's main archive still has shadow paging, without
/// which no PV guest can be migrated live; the security update dropped it.
const HYPERVISOR: &str = "xen-hypervisor-4.17-amd64";

/// Left out of dom0: nobody reads them there, and each megabyte is unpacked
/// under emulation.
const LEFT_OUT: &[&str] = &[
    "./dev/*",
    "./usr/share/doc*",
    "./usr/share/man",
    "./usr/share/info",
    "./usr/share/locale",
    "./usr/share/i18n",
    "./usr/share/perl*",
    "./usr/share/zoneinfo",
    "./usr/share/bash-completion",
    "./usr/share/mime",
    "./usr/share/X11",
    "./usr/share/qemu*",
    "./usr/share/seabios*",
    "./usr/share/xml",
    "./usr/share/initramfs-tools",
    "./usr/lib/x86_64-linux-gnu/perl*",
    "./usr/lib/x86_64-linux-gnu/gconv",
    "./usr/lib/udev",
    "./lib/udev",
    "./lib/systemd",
    "./bin/udevadm",
    "./bin/systemd*",
    "./usr/bin/perl*",
    "./usr/lib/python3.11/test",
    "./usr/lib/python3.11/idlelib",
    "./usr/lib/python3.11/ensurepip",
    "./usr/lib/python3.11/pydoc_data",
    "./boot/*.efi",
    "./boot/System.map*",
    "./var/lib/dpkg",
    "./var/cache",
];

/// Which archives to take a package from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// The release as it was published.
    Main,
    /// With its security updates.
    Security,
}

impl Archive {
    /// Lines for mmdebstrap, from where this machine's own apt takes the
    /// release; `LULL_RIG_MIRROR` names another mirror. A machine without
    /// security updates does without them here too.
    fn sources(self) -> Result<Vec<String>> {
        let known = known_sources()?;
        let wanted = match self {
            Self::Main => vec![SUITE.to_owned()],
            Self::Security => vec![SUITE.to_owned(), format!("{SUITE}-security")],
        };
        let mut sources = Vec::new();
        for release in wanted {
            let is_it = |line: &&String| line.ends_with(&format!(" {release} main"));
            sources.extend(known.iter().find(is_it).cloned());
        }
        if sources.is_empty() {
            bail!(
                "this machine's apt has no source for {SUITE} main; name a mirror in LULL_RIG_MIRROR"
            );
        }
        Ok(sources)
    }
}

fn known_sources() -> Result<Vec<String>> {
    if let Ok(mirror) = std::env::var("LULL_RIG_MIRROR") {
        return Ok(vec![
            format!("deb {mirror}/debian {SUITE} main"),
            format!("deb {mirror}/debian-security {SUITE}-security main"),
        ]);
    }
    let output = Command::new("apt-get")
        .args(["indextargets", "--format"])
        .arg("deb $(REPO_URI) $(RELEASE) $(COMPONENT)")
        .arg("Created-By: Packages")
        .output()
        .context("cannot ask apt for its sources")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// The versions that apt knows of the packages that decide how dom0 behaves:
/// one line each. Part of the image's cache key.
///
/// Empty when this machine's apt does not know them: the image is then kept
/// until the rig itself changes.
pub fn versions() -> String {
    let deciding = ["linux-image-amd64", HYPERVISOR, "xen-utils-4.17"];
    let Ok(output) = Command::new("apt-cache")
        .arg("policy")
        .args(deciding)
        .output()
    else {
        return String::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.starts_with(' ') || line.trim_start().starts_with("Candidate:"))
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
}

/// What the recipe for dom0 consists of, for the cache key.
pub fn recipe() -> String {
    format!("{SUITE} {DOM0_PACKAGES:?} {LEFT_OUT:?}")
}

/// Unpacks dom0's packages into `root`.
pub fn unpack_dom0(root: &Path) -> Result<()> {
    unpack(root, DOM0_PACKAGES, Archive::Security, LEFT_OUT)
}

/// What the recipe for libvirt consists of, for the cache key.
pub fn libvirt_recipe() -> String {
    format!("{SUITE} {LIBVIRT_PACKAGES:?}")
}

/// Unpacks libvirt's packages, and all that they depend on, into `root`.
pub fn unpack_libvirt(root: &Path) -> Result<()> {
    unpack(root, LIBVIRT_PACKAGES, Archive::Security, &["./dev/*"])
}

/// Unpacks the hypervisor that has shadow paging into `root`.
pub fn unpack_shadow_hypervisor(root: &Path) -> Result<()> {
    unpack(root, &[HYPERVISOR], Archive::Main, &[])
}

/// Makes `bundle`, a tar file with a Debian of its own that dpkg and a manual
/// work in, all of it configured.
pub fn bundle_small_debian(bundle: &Path) -> Result<()> {
    mmdebstrap("essential", &["man-db"], Archive::Security, bundle)
}

fn unpack(root: &Path, packages: &[&str], archive: Archive, left_out: &[&str]) -> Result<()> {
    fs::create_dir_all(root)?;
    let parent = root.parent().context("a root needs a parent")?;
    let scratch = tempfile::tempdir_in(parent)?;
    let bundle = scratch.path().join("root.tar");
    // By way of a tar file, because only that works for everyone: as another
    // user mmdebstrap works in a user namespace, whose owners we cannot keep.
    mmdebstrap("extract", packages, archive, &bundle)?;
    output_of(
        Command::new("tar")
            .arg("--extract")
            .arg("--no-same-owner")
            .arg("--wildcards")
            .arg("--file")
            .arg(&bundle)
            .arg("--directory")
            .arg(root)
            .args(left_out.iter().map(|path| format!("--exclude={path}"))),
    )?;
    Ok(())
}

fn mmdebstrap(variant: &str, packages: &[&str], archive: Archive, bundle: &Path) -> Result<()> {
    output_of(
        Command::new("mmdebstrap")
            .args(["--quiet", "--architectures=amd64"])
            .arg(format!("--variant={variant}"))
            .args(["--aptopt=APT::Install-Recommends \"false\""])
            .arg(format!("--include={}", packages.join(",")))
            .arg(SUITE)
            .arg(bundle)
            .args(archive.sources()?),
    )
    .context("cannot fetch Debian packages (the rig needs a Debian mirror, see LULL_RIG_MIRROR)")?;
    Ok(())
}

/// The only file of `folder` whose name starts with `prefix` and ends with
/// `suffix`.
///
/// # Errors
/// When there is none, or more than one.
pub fn only_file(folder: &Path, prefix: &str, suffix: &str) -> Result<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        others => bail!(
            "{}: expected one file {prefix}…{suffix}, found {}",
            folder.display(),
            others.len()
        ),
    }
}
