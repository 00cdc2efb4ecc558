//! Debian packages: the ones that make up dom0, their versions, and their files without
//! their maintainer scripts (which would take ten times as long as the unpacking).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell_out::output_of;

/// A Debian release, which also determines a release of Xen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Release {
    /// Debian 12 with Xen 4.17.
    #[default]
    Bookworm,
    /// Debian 13 with Xen 4.20.
    Trixie,
}

impl Release {
    /// Returns the name of the release in Debian's archives.
    pub const fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Returns the release of Xen that it contains.
    pub const fn xen(self) -> &'static str {
        match self {
            Self::Bookworm => "4.17",
            Self::Trixie => "4.20",
        }
    }

    /// Returns the name of the package with the hypervisor.
    fn hypervisor(self) -> String {
        format!("xen-hypervisor-{}-amd64", self.xen())
    }

    /// Returns the name of the package with `xl`.
    fn tools(self) -> String {
        format!("xen-utils-{}", self.xen())
    }
}

/// The release of the machine that runs the rig, whose apt knows the archives.
const HERE: Release = Release::Bookworm;

/// Packages of dom0 beside Xen's; their dependencies are added automatically.
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
    "xenstore-utils",
];

/// Packages of libvirt with its Xen driver; their dependencies are added automatically.
const LIBVIRT_PACKAGES: &[&str] = &[
    "libvirt-clients",
    "libvirt-daemon-driver-xen",
    "libvirt-daemon-system",
];

/// Paths that are left out of dom0. They are not needed there, and each megabyte would be
/// unpacked under emulation.
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
    "./usr/lib/systemd",
    "./bin/udevadm",
    "./bin/systemd*",
    "./usr/bin/udevadm",
    "./usr/bin/systemd*",
    "./usr/bin/perl*",
    "./usr/lib/python3.1?/test",
    "./usr/lib/python3.1?/idlelib",
    "./usr/lib/python3.1?/ensurepip",
    "./usr/lib/python3.1?/pydoc_data",
    "./boot/*.efi",
    "./boot/System.map*",
    "./var/lib/dpkg",
    "./var/cache",
];

/// The archives from which a package is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// The release as it was published.
    Main,
    /// The release with its security updates.
    Security,
}

impl Archive {
    /// Returns lines for mmdebstrap with the mirror from which this machine's own apt takes
    /// its release; `LULL_RIG_MIRROR` names another mirror. If this machine has no security
    /// updates, they are not used here either.
    fn sources(self, release: Release) -> Result<Vec<String>> {
        let known = known_sources()?;
        let wanted: &[&str] = match self {
            Self::Main => &[""],
            Self::Security => &["", "-security"],
        };
        let mut sources = Vec::new();
        for archive in wanted {
            let ends = |release: Release| format!(" {}{archive} main", release.suite());
            // The same mirror holds all releases.
            let addresses = known
                .iter()
                .filter_map(|line| line.strip_suffix(&ends(HERE)));
            let lines = addresses.map(|address| address.to_owned() + &ends(release));
            sources.extend(lines.take(1));
        }
        if sources.is_empty() {
            bail!(
                "this machine's apt has no source for {} main; name a mirror in LULL_RIG_MIRROR",
                HERE.suite()
            );
        }
        Ok(sources)
    }
}

fn known_sources() -> Result<Vec<String>> {
    if let Ok(mirror) = std::env::var("LULL_RIG_MIRROR") {
        return Ok(vec![
            format!("deb {mirror}/debian {} main", HERE.suite()),
            format!(
                "deb {mirror}/debian-security {}-security main",
                HERE.suite()
            ),
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

/// Returns the versions that apt knows of the packages that decide how dom0 behaves, one
/// line each. They are part of the image's cache key.
///
/// The result is empty when this machine's apt does not know them, as for any release but
/// its own. The image is then kept until the rig itself changes.
pub fn versions(release: Release) -> String {
    let Ok(output) = Command::new("apt-cache")
        .args(["policy", "linux-image-amd64"])
        .args([release.hypervisor(), release.tools()])
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

/// Returns the recipe for dom0, for the cache key.
pub fn recipe(release: Release) -> String {
    format!("{release:?} {DOM0_PACKAGES:?} {LEFT_OUT:?}")
}

/// Unpacks dom0's packages into `root`.
pub fn unpack_dom0(root: &Path, release: Release) -> Result<()> {
    let (hypervisor, tools) = (release.hypervisor(), release.tools());
    let xen = [hypervisor.as_str(), tools.as_str()];
    let packages = [DOM0_PACKAGES, &xen].concat();
    unpack(root, &packages, release, Archive::Security, LEFT_OUT)
}

/// Returns the recipe for libvirt, for the cache key.
pub fn libvirt_recipe(release: Release) -> String {
    format!("{release:?} {LIBVIRT_PACKAGES:?}")
}

/// Unpacks libvirt's packages and all their dependencies into `root`.
pub fn unpack_libvirt(root: &Path, release: Release) -> Result<()> {
    unpack(
        root,
        LIBVIRT_PACKAGES,
        release,
        Archive::Security,
        &["./dev/*"],
    )
}

/// The package with the device model of HVM guests; its dependencies are added
/// automatically.
const DEVICE_MODEL_PACKAGE: &str = "qemu-system-xen";

/// Returns the recipe for the device model, for the cache key.
pub fn device_model_recipe(release: Release) -> String {
    format!("{release:?} {DEVICE_MODEL_PACKAGE}")
}

/// Unpacks the device model of HVM guests and all its dependencies into `root`.
pub fn unpack_device_model(root: &Path, release: Release) -> Result<()> {
    let packages = [DEVICE_MODEL_PACKAGE];
    unpack(root, &packages, release, Archive::Security, &["./dev/*"])
}

/// The packages with GRUB for machines with a BIOS; their dependencies are added
/// automatically.
const GRUB_PACKAGES: &[&str] = &["grub-common", "grub-pc-bin"];

/// Returns the recipe for GRUB, for the cache key.
pub fn grub_recipe(release: Release) -> String {
    format!("{release:?} {GRUB_PACKAGES:?}")
}

/// Unpacks GRUB and all its dependencies into `root`.
pub fn unpack_grub(root: &Path, release: Release) -> Result<()> {
    unpack(
        root,
        GRUB_PACKAGES,
        release,
        Archive::Security,
        &["./dev/*"],
    )
}

/// Unpacks the hypervisor that has shadow paging into `root`: the one of Debian 12's main
/// archive. A PV guest cannot be migrated live without shadow paging, and the security
/// update removed it.
pub fn unpack_shadow_hypervisor(root: &Path) -> Result<()> {
    unpack(root, &[&HERE.hypervisor()], HERE, Archive::Main, &[])
}

/// Makes `bundle`, a tar file with a separate, configured Debian in which dpkg and the
/// manual work.
pub fn bundle_small_debian(bundle: &Path) -> Result<()> {
    mmdebstrap("essential", &["man-db"], HERE, Archive::Security, bundle)
}

fn unpack(
    root: &Path,
    packages: &[&str],
    release: Release,
    archive: Archive,
    left_out: &[&str],
) -> Result<()> {
    fs::create_dir_all(root)?;
    let parent = root.parent().context("a root needs a parent")?;
    let scratch = tempfile::tempdir_in(parent)?;
    let bundle = scratch.path().join("root.tar");
    // mmdebstrap writes a tar file, because only that works for every user: as a user other
    // than root it works in a user namespace, whose file owners cannot be kept here.
    mmdebstrap("extract", packages, release, archive, &bundle)?;
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

fn mmdebstrap(
    variant: &str,
    packages: &[&str],
    release: Release,
    archive: Archive,
    bundle: &Path,
) -> Result<()> {
    output_of(
        Command::new("mmdebstrap")
            .args(["--quiet", "--architectures=amd64"])
            .arg(format!("--variant={variant}"))
            .args(["--aptopt=APT::Install-Recommends \"false\""])
            .arg(format!("--include={}", packages.join(",")))
            .arg(release.suite())
            .arg(bundle)
            .args(archive.sources(release)?),
    )
    .context("cannot fetch Debian packages (the rig needs a Debian mirror, see LULL_RIG_MIRROR)")?;
    Ok(())
}

/// Returns the only file of `folder` whose name starts with `prefix` and ends with
/// `suffix`.
///
/// # Errors
/// When there is no such file, or more than one.
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
