//! dom0's image: one initramfs, because then dom0 needs no disk and every boot starts from
//! the same state.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bzimage;
use crate::cache;
use crate::cpio::Archive;
use crate::debian::{self, Release};
use crate::kernel_modules::Modules;
use crate::shell_out::output_of;
use crate::timeline::Timeline;

/// The version of the recipe; raise it when the code below changes what it builds.
const RECIPE_VERSION: &str = "7";

/// The server configuration that Debian's package writes, without comments.
const DEBIAN_SSHD_CONFIG: &str = "\
Include /etc/ssh/sshd_config.d/*.conf
KbdInteractiveAuthentication no
UsePAM yes
X11Forwarding yes
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
";

/// The number of hosts that know each other by name, `host1` and up.
pub const MOST_HOSTS: u8 = 4;

const MODULES: &[&str] = &[
    "8021q",
    "act_mirred",
    "bridge",
    "cls_matchall",
    "cls_u32",
    "dummy",
    "e1000",
    "ifb",
    "loop",
    "nvme",
    "sch_ingress",
    "sch_netem",
    "sch_prio",
    "sch_tbf",
    "tun",
    "veth",
    "xen-blkback",
    "xen-evtchn",
    "xen-gntalloc",
    "xen-gntdev",
    "xen-netback",
    "xen-netfront",
    "xen-privcmd",
    "xenfs",
];

/// The hypervisor to boot; dom0 has the tools and the kernel of its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Hypervisor {
    /// 4.17.7 of Debian 12's security archive, which migrates PVH and HVM guests.
    #[default]
    Xen417,
    /// 4.17.5 of Debian 12's main archive, with shadow paging, which migrates PV guests
    /// too.
    Xen417Shadow,
    /// 4.20 of Debian 13.
    Xen420,
}

impl Hypervisor {
    /// Returns the Debian release that contains this hypervisor.
    pub const fn release(self) -> Release {
        match self {
            Self::Xen417 | Self::Xen417Shadow => Release::Bookworm,
            Self::Xen420 => Release::Trixie,
        }
    }
}

/// The files of a built image.
pub struct Dom0Image {
    folder: PathBuf,
}

impl Dom0Image {
    /// Returns the image from the cache, or builds it.
    ///
    /// # Errors
    /// When its packages cannot be fetched or unpacked.
    pub fn ready(release: Release, timeline: &Timeline) -> Result<Self> {
        let key = cache::Key::default()
            .with("recipe", RECIPE_VERSION.as_bytes())
            .with("packages", debian::recipe(release).as_bytes())
            .with("versions", debian::versions(release).as_bytes())
            .with("modules", format!("{MODULES:?}").as_bytes())
            .finish();
        let name = format!("dom0-{}-{key}", release.suite());
        let folder = cache::entry(&name, |place| build(place, release, timeline))?;
        timeline.phase(format_args!("dom0 image of {} ready", release.suite()));
        Ok(Self { folder })
    }

    /// Returns the hypervisor, uncompressed as QEMU's multiboot loader requires.
    pub fn hypervisor(&self, which: Hypervisor) -> PathBuf {
        self.folder.join(match which {
            Hypervisor::Xen417 | Hypervisor::Xen420 => "xen",
            Hypervisor::Xen417Shadow => "xen-shadow",
        })
    }

    /// Returns the Linux kernel of dom0, an ELF file. Guests on every host use that of
    /// Debian 12. Debian's kernel is compressed with xz, which takes seconds to unpack
    /// under emulation.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// Returns dom0's initramfs without the files that belong to one boot.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("dom0.cpio")
    }

    /// Returns busybox, for the guest's initramfs.
    pub fn busybox(&self) -> PathBuf {
        self.folder.join("busybox")
    }

    /// Returns the modules that a guest loads, in the order of loading.
    pub fn guest_modules(&self) -> Result<Vec<PathBuf>> {
        self.modules_in("guest-modules")
    }

    /// Returns the modules for the emulated disks and network card of an HVM guest, in the
    /// order of loading.
    pub fn hvm_modules(&self) -> Result<Vec<PathBuf>> {
        self.modules_in("hvm-modules")
    }

    /// Returns dom0's kernel as Debian packs it, which firmware can boot.
    pub fn packed_kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    fn modules_in(&self, list: &str) -> Result<Vec<PathBuf>> {
        let list = fs::read_to_string(self.folder.join(list))?;
        Ok(list.lines().map(|name| self.folder.join(name)).collect())
    }
}

fn build(place: &Path, release: Release, timeline: &Timeline) -> Result<()> {
    let scratch = tempfile::tempdir_in(place.parent().unwrap_or(place))?;
    let root = scratch.path().join("root");
    timeline.phase(format_args!(
        "dom0 image: fetching packages of {}",
        release.suite()
    ));
    debian::unpack_dom0(&root, release)?;

    timeline.phase("dom0 image: choosing kernel modules");
    let kernel = debian::only_file(&root.join("boot"), "vmlinuz-", "")?;
    let kernel_release = kernel
        .file_name()
        .map(|name| name.to_string_lossy().replace("vmlinuz-", ""))
        .unwrap_or_default();
    let modules = Modules::index(&root, &kernel_release)?;
    if release == Release::default() {
        // The names of disks depend on the order: SCSI disks come after IDE disks.
        let emulated = ["ata_piix", "sd_mod", "sym53c8xx", "8139cp"];
        for (list, wanted) in [
            ("guest-modules", ["xen-netfront", "xen-blkfront"].as_slice()),
            ("hvm-modules", emulated.as_slice()),
        ] {
            copy_modules(&modules, wanted, place, list)?;
        }
        fs::copy(&kernel, place.join("vmlinuz"))?;
        let shadow = scratch.path().join("shadow");
        debian::unpack_shadow_hypervisor(&shadow)?;
        gunzip(&hypervisor_in(&shadow)?, &place.join("xen-shadow"))?;
    }
    modules.keep_only(MODULES)?;
    // The index is made again, so that modprobe's tables name only the remaining modules.
    Modules::index(&root, &kernel_release)?;

    gunzip(&hypervisor_in(&root)?, &place.join("xen"))?;
    fs::write(place.join("vmlinux"), bzimage::unpack(&fs::read(&kernel)?)?)?;
    fs::copy(root.join("bin/busybox"), place.join("busybox"))?;
    for entry in fs::read_dir(root.join("boot"))? {
        fs::remove_file(entry?.path())?;
    }

    timeline.phase("dom0 image: writing the initramfs");
    write_own_files(&root, release)?;
    let mut archive = Archive::new(BufWriter::new(File::create(place.join("dom0.cpio"))?));
    archive.tree(&root)?;
    archive.device("dev/console", 5, 1)?;
    archive.finish()?;
    Ok(())
}

/// Copies modules and all that they need into `place`, and lists them there in the order of
/// loading.
fn copy_modules(modules: &Modules, wanted: &[&str], place: &Path, list: &str) -> Result<()> {
    let mut names = Vec::new();
    for module in wanted {
        for file in modules.load_order(module)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if !names.contains(&name.to_string()) {
                fs::copy(&file, place.join(&*name))?;
                names.push(name.into_owned());
            }
        }
    }
    names.push(String::new());
    fs::write(place.join(list), names.join("\n"))?;
    Ok(())
}

fn hypervisor_in(root: &Path) -> Result<PathBuf> {
    debian::only_file(&root.join("boot"), "xen-4.", "-amd64.gz")
}

fn gunzip(from: &Path, to: &Path) -> Result<()> {
    let content = output_of(Command::new("gzip").args(["-dc"]).arg(from))?;
    fs::write(to, content)?;
    Ok(())
}

/// Writes the files that the packages' scripts would have made, and the rig's own.
fn write_own_files(root: &Path, release: Release) -> Result<()> {
    let accounts = "root:x:0:0:root:/root:/bin/bash\n\
                    sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n\
                    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    let mut hosts = String::from("127.0.0.1 localhost\n127.0.0.2 dest\n");
    for number in 1..=MOST_HOSTS {
        hosts.push_str(&format!("10.77.0.{number} host{number}\n"));
    }
    let python = format!("/usr/lib/xen-{}/lib/python\n", release.xen());
    let known = [
        // Debian's maintainer scripts make these files.
        ("etc/ssh/sshd_config", DEBIAN_SSHD_CONFIG, 0o644),
        (
            "etc/pam.d/common-auth",
            "auth required pam_permit.so\n",
            0o644,
        ),
        (
            "etc/pam.d/common-account",
            "account required pam_permit.so\n",
            0o644,
        ),
        (
            "etc/pam.d/common-session",
            "session required pam_permit.so\n",
            0o644,
        ),
        (
            "etc/pam.d/common-password",
            "password required pam_deny.so\n",
            0o644,
        ),
        ("etc/passwd", accounts, 0o644),
        (
            "etc/group",
            "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
            0o644,
        ),
        ("etc/shadow", "root:*:19000:0:99999:7:::\n", 0o600),
        ("etc/hosts", &hosts, 0o644),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
            0o644,
        ),
        ("usr/lib/python3/dist-packages/xen.pth", &python, 0o644),
        ("etc/shells", "/bin/bash\n/bin/sh\n", 0o644),
    ];
    for folder in [
        "root/.ssh",
        "etc/ssh",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "etc/pam.d",
        "usr/local/bin",
        "usr/local/etc",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    for (path, content, mode) in known {
        let path = root.join(path);
        fs::write(&path, content)?;
        set_mode(&path, mode)?;
    }
    set_mode(&root.join("root"), 0o700)?;
    set_mode(&root.join("root/.ssh"), 0o700)?;
    link(root, "bin/sh", "dash")?;
    link(root, "usr/bin/awk", "mawk")?;
    link(root, "var/run", "/run")?;
    link(root, "var/lock", "/run/lock")?;
    // Some small programs are in no package above.
    for applet in [
        "which", "less", "vi", "nc", "mount", "umount", "time", "wget", "xxd", "od", "top",
        "clear", "logger", "poweroff",
    ] {
        let there = ["bin", "usr/bin", "sbin", "usr/sbin"];
        let there = there.map(|folder| root.join(folder).join(applet));
        if !there.iter().any(|path| path.symlink_metadata().is_ok()) {
            link(root, &format!("bin/{applet}"), "/bin/busybox")?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn link(root: &Path, path: &str, target: &str) -> Result<()> {
    let path = root.join(path);
    if path.symlink_metadata().is_ok() {
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    std::os::unix::fs::symlink(target, &path)?;
    Ok(())
}
