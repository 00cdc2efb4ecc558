//! A running Xen host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::console::{Console, Fault, Mark};
use crate::debian::Release;
use crate::device_model;
use crate::dom0_image::{Dom0Image, Hypervisor};
use crate::guest::{Guest, GuestSpec};
use crate::guest_image::GuestImage;
use crate::link::Link;
use crate::overlay::{self, Extra};
use crate::programs;
use crate::qemu::{Machine, Qemu};
use crate::shell_out::output_of;
use crate::ssh::{Connection, Output, Spawned};
use crate::static_programs;
use crate::timeline::Timeline;
use crate::workplace;

/// The longest time that a command in dom0 may take unless its caller sets another.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// The longest time from QEMU's start to the last line of dom0's init; 15 s on a quiet
/// machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// The size in bytes of the host's own disk, `/dev/nvme0n1` in dom0. The guest model uses
/// that much.
const DISK_BYTES: u64 = 1 << 20;

/// The largest number of guests that are made on a host.
const ADDRESSES: u8 = 60;

/// The description of a host to boot.
#[derive(Clone)]
pub struct HostConfig {
    /// The hypervisor to boot.
    pub hypervisor: Hypervisor,
    /// The memory of the whole machine in MiB.
    pub memory_mib: u32,
    /// The part of it that dom0 gets, in MiB; `None` stands for all memory.
    pub dom0_memory_mib: Option<u32>,
    /// The number of dom0's processors.
    pub dom0_processors: u32,
    /// The number of physical processors.
    pub processors: u32,
    /// Whether ssh, sshd and xl are configured as Debian installs them. Otherwise they are
    /// configured to cost less under emulation.
    pub as_installed: bool,
    /// The host's number: number 2 has the name `host2` and the address 10.77.0.2.
    pub number: u8,
    /// The number of seconds by which the host's clock is ahead.
    pub clock_ahead: i64,
    /// The link to other hosts.
    pub link: Option<Link>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            hypervisor: Hypervisor::default(),
            // This leaves room for two guests of 1.5 GiB, source and copy. Memory that is
            // not used is not taken from the machine that runs the rig.
            memory_mib: 5120,
            dom0_memory_mib: Some(1024),
            dom0_processors: 1,
            processors: 2,
            as_installed: false,
            number: 1,
            clock_ahead: 0,
            link: None,
        }
    }
}

impl HostConfig {
    /// Describes a host as it is after an installation of Debian and its Xen without
    /// changes: dom0 has all memory and all processors.
    pub fn as_installed(hypervisor: Hypervisor, number: u8) -> Self {
        Self {
            hypervisor,
            memory_mib: 2048,
            dom0_memory_mib: None,
            dom0_processors: 2,
            as_installed: true,
            number,
            ..Self::default()
        }
    }

    fn clock(&self) -> Result<String> {
        let ahead = format!("now {:+} seconds", self.clock_ahead);
        let text = output_of(Command::new("date").args(["-u", "-d", &ahead, "+%FT%T"]))?;
        Ok(String::from_utf8(text)?.trim().to_owned())
    }
}

/// A running Xen host. Its machine ends with the last handle to it, and with this process.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

// Fields are dropped in the order in which they are declared.
struct Inner {
    connection: Connection,
    qemu: Qemu,
    console: Console,
    folder: TempDir,
    config: HostConfig,
    next_address: AtomicU8,
}

impl Host {
    /// Boots a host and prints a line for each phase.
    ///
    /// # Errors
    /// With the program, package or phase that failed. That is always the rig's fault,
    /// never the product's.
    pub fn boot(config: &HostConfig) -> Result<Self> {
        let timeline = Timeline::start();
        programs::ensure(&timeline)?;
        let image = Dom0Image::ready(config.hypervisor.release(), &timeline)?;
        let programs = static_programs::build(&timeline)?;
        // Guests are the same on every host, and move from one to another.
        let guests = Dom0Image::ready(Release::default(), &timeline)?;
        let guest = GuestImage::ready(&guests, &programs.guest)?;

        let folder = workplace::create()?;
        let initramfs = folder.path().join("dom0.cpio");
        let extras = [
            Extra {
                path: "usr/local/bin/rig-agent",
                mode: 0o755,
                source: programs.agent,
            },
            Extra {
                path: "boot/vmlinux",
                mode: 0o644,
                source: guests.kernel(),
            },
            Extra {
                path: "boot/guest.cpio",
                mode: 0o644,
                source: guest.initramfs(),
            },
        ];
        let keys = overlay::write(&image.initramfs(), &extras, &initramfs)?;

        let disk = folder.path().join("disk");
        File::create(&disk)?.set_len(DISK_BYTES)?;
        let mut words = format!("lull.host={}", config.number);
        if config.as_installed {
            words.push_str(" lull.as-installed");
        }
        let qemu = Qemu::start(
            &Machine {
                hypervisor: &image.hypervisor(config.hypervisor),
                kernel: &image.kernel(),
                initramfs: &initramfs,
                memory_mib: config.memory_mib,
                dom0_memory_mib: config.dom0_memory_mib,
                dom0_processors: config.dom0_processors,
                processors: config.processors,
                disk: &disk,
                words: &words,
                clock: &config.clock()?,
                link: config.link.as_ref().map(|link| (link.port, config.number)),
            },
            folder.path(),
        )?;
        timeline.phase("QEMU started");
        let console = Console::new(&qemu.serial_log);
        for (sign, phase) in [
            ("(XEN) Xen version", "hypervisor runs"),
            ("lull-rig: file systems mounted", "dom0's kernel is up"),
            ("lull-rig: ready", "dom0 is up, xl answers"),
        ] {
            console
                .wait_for(sign, BOOT_LIMIT, || still_runs(&qemu, folder.path()))
                .with_context(|| format!("waiting for: {phase}"))?;
            timeline.phase(phase);
        }
        let mut connection = Connection::new(
            qemu.ssh_port,
            &keys.private,
            &keys.known_hosts,
            folder.path(),
        );
        connection.open(Duration::from_secs(60))?;
        timeline.phase("ssh connected");

        // QEMU read the file when it started.
        std::fs::remove_file(&initramfs)?;

        let host = Self {
            inner: Arc::new(Inner {
                connection,
                qemu,
                console,
                folder,
                config: config.clone(),
                // Guests of other hosts may be on this host too.
                next_address: AtomicU8::new(config.number * ADDRESSES - ADDRESSES + 10),
            }),
        };
        if let Some(fault) = host.rig_faults().first() {
            bail!("the host came up with a fault: {}", fault.line);
        }
        Ok(host)
    }

    /// Fetches and builds everything that [`boot`](Self::boot) needs, and the device model.
    ///
    /// # Errors
    /// With the part that is not available.
    pub fn prepare() -> Result<()> {
        let timeline = Timeline::start();
        programs::ensure(&timeline)?;
        for release in [Release::Bookworm, Release::Trixie] {
            let image = Dom0Image::ready(release, &timeline)?;
            if release == Release::default() {
                device_model::prepare(release, &image, &timeline)?;
            }
        }
        Ok(())
    }

    /// Makes a guest and waits until it answers, if it has a network.
    pub fn create_guest(&self, spec: &GuestSpec) -> Result<Guest> {
        Guest::create(self, spec)
    }

    /// Runs a shell command in dom0, with a limit of two minutes.
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_for(command, COMMAND_LIMIT)
    }

    /// Runs a shell command in dom0, with the limit `limit`.
    pub fn run_for(&self, command: &str, limit: Duration) -> Result<Output> {
        self.inner.connection.run(command, limit)
    }

    /// Starts a shell command in dom0 in the background.
    pub fn spawn(&self, command: &str) -> Result<Spawned<'_>> {
        self.inner.connection.spawn(command)
    }

    /// Builds the product's binary and puts it at /usr/local/bin/lull.
    pub fn install_lull(&self) -> Result<()> {
        self.install_built(static_programs::build_lull)
    }

    /// Puts a binary without the feature `terminal` there.
    pub fn install_lull_without_terminal(&self) -> Result<()> {
        self.install_built(static_programs::build_lull_without_terminal)
    }

    fn install_built(&self, build: fn(&Timeline) -> Result<PathBuf>) -> Result<()> {
        let timeline = Timeline::start();
        self.put(&build(&timeline)?, "/usr/local/bin/lull")?;
        timeline.phase("lull installed in dom0");
        Ok(())
    }

    /// Copies a file into dom0.
    pub fn put(&self, local: &Path, remote: &str) -> Result<()> {
        self.inner.connection.put(local, remote)
    }

    /// Copies a file out of dom0.
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        self.inner.connection.get(remote, local)
    }

    /// Returns the output of the hypervisor and dom0.
    pub fn console(&self) -> &Console {
        &self.inner.console
    }

    /// Returns all messages since the boot that mean that the rig is at fault.
    pub fn rig_faults(&self) -> Vec<Fault> {
        self.rig_faults_since(Mark::default())
    }

    /// Returns all messages since a mark that mean that the rig is at fault.
    pub fn rig_faults_since(&self, mark: Mark) -> Vec<Fault> {
        self.inner.console.faults_since(mark)
    }

    /// Checks whether QEMU still runs.
    pub fn is_running(&self) -> bool {
        self.inner.qemu.ended().is_none()
    }

    /// Returns the folder with this boot's logs and keys, which is removed with the host.
    pub fn folder(&self) -> PathBuf {
        self.inner.folder.path().to_owned()
    }

    /// Returns the command line with which a person logs in to dom0.
    pub fn ssh_command(&self) -> String {
        self.inner.connection.for_people()
    }

    /// Returns the configuration with which the host was booted.
    pub fn config(&self) -> &HostConfig {
        &self.inner.config
    }

    /// Returns the name that other hosts use for this host.
    pub fn name(&self) -> String {
        format!("host{}", self.inner.config.number)
    }

    pub(crate) fn next_address(&self) -> u8 {
        use std::sync::atomic::Ordering;
        self.inner.next_address.fetch_add(1, Ordering::Relaxed)
    }
}

fn still_runs(qemu: &Qemu, folder: &Path) -> Result<()> {
    if let Some(status) = qemu.ended() {
        let words = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
        bail!("QEMU ended ({status}): {}", words.trim());
    }
    Ok(())
}
