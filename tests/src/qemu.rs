//! The QEMU process: starts it, watches it, and ensures that it never outlives the rig.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// The description of the machine to boot.
pub struct Machine<'a> {
    /// The path of the hypervisor, loaded as a multiboot kernel.
    pub hypervisor: &'a Path,
    /// The path of dom0's kernel.
    pub kernel: &'a Path,
    /// The path of dom0's initramfs.
    pub initramfs: &'a Path,
    /// The memory of the machine in MiB.
    pub memory_mib: u32,
    /// The part of it that dom0 gets, in MiB; `None` stands for all memory.
    pub dom0_memory_mib: Option<u32>,
    /// The number of dom0's processors.
    pub dom0_processors: u32,
    /// The number of physical processors.
    pub processors: u32,
    /// The file with the content of the machine's disk. Guests may use it, because dom0
    /// needs none.
    pub disk: &'a Path,
    /// Arguments for dom0's init.
    pub words: &'a str,
    /// The time that the clock shows at the start: UTC, in QEMU's syntax.
    pub clock: &'a str,
    /// The port of the [`link`](crate::link) to other hosts, and the host's number there.
    pub link: Option<(u16, u8)>,
}

/// A running QEMU. It is killed when this is dropped or when this process dies.
pub struct Qemu {
    child: Arc<Mutex<Child>>,
    /// The loopback port that is forwarded to dom0's sshd.
    pub ssh_port: u16,
    /// The file with the output of the hypervisor and dom0.
    pub serial_log: PathBuf,
}

impl Qemu {
    /// Starts the machine, with its files in `folder`.
    pub fn start(machine: &Machine, folder: &Path) -> Result<Self> {
        let ssh_port = free_port()?;
        let serial_log = folder.join("serial.log");
        let mut command = command_line(machine, ssh_port, &serial_log);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("qemu.log"))?);
        Ok(Self {
            child: spawn_kept(command)?,
            ssh_port,
            serial_log,
        })
    }

    /// Returns the exit status of QEMU, if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().ok()?;
        child.try_wait().ok().flatten()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            // Both calls fail only if QEMU has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command_line(machine: &Machine, ssh_port: u16, serial_log: &Path) -> Command {
    // The kernel kills QEMU when the thread that started it ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-accel", "tcg,thread=multi"]);
    command.args(["-machine", "q35"]);
    // SVM with nested paging lets Xen run PVH guests; rdrand spares dom0 the search for
    // entropy. Other features are left out: with SSSE3 or AES ssh takes code paths that
    // cost nearly twice as much under emulation.
    command.args(["-cpu", "qemu64,+svm,+npt,+rdrand"]);
    command.args(["-smp", &machine.processors.to_string()]);
    command.args(["-m", &machine.memory_mib.to_string()]);
    command.args(["-serial", &format!("file:{}", serial_log.display())]);
    command.args([
        "-netdev",
        &format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-10.0.2.15:22"),
        "-device",
        "e1000,netdev=n0",
    ]);
    command.args(["-rtc", &format!("base={}", machine.clock)]);
    if let Some((port, number)) = machine.link {
        command.args([
            "-netdev",
            &format!("socket,id=n1,connect=127.0.0.1:{port}"),
            "-device",
            &format!("e1000,netdev=n1,mac=52:54:00:77:00:{number:02x}"),
        ]);
    }
    command.args([
        "-drive",
        &format!("if=none,id=d0,format=raw,file={}", machine.disk.display()),
        "-device",
        "nvme,drive=d0,serial=scratch",
    ]);
    let dom0_memory = machine
        .dom0_memory_mib
        .map_or_else(String::new, |mib| format!("dom0_mem={mib}M,max:{mib}M"));
    let dom0_processors = machine.dom0_processors;
    command.arg("-kernel").arg(machine.hypervisor);
    command.args([
        "-append",
        &format!(
            "{dom0_memory} dom0_max_vcpus={dom0_processors} dom0_vcpus_pin \
             com1=115200,8n1 console=com1 noreboot bootscrub=0 spec-ctrl=no \
             loglvl=info guest_loglvl=info conring_size=1M"
        ),
    ]);
    command.args([
        "-initrd",
        &format!(
            "{} console=hvc0 loglevel=4 mitigations=off random.trust_cpu=on panic=1 {},{}",
            machine.kernel.display(),
            machine.words,
            machine.initramfs.display()
        ),
    ]);
    command
}

/// Starts QEMU from a thread that lives as long as QEMU does, because the death signal is
/// tied to the thread, not to the program.
fn spawn_kept(mut command: Command) -> Result<Arc<Mutex<Child>>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("qemu-parent".into())
        .spawn(move || {
            let child = match command.spawn() {
                Ok(child) => Arc::new(Mutex::new(child)),
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            let _ = sender.send(Ok(Arc::clone(&child)));
            loop {
                thread::sleep(Duration::from_millis(200));
                let ended = child.lock().map(|mut c| c.try_wait());
                if !matches!(ended, Ok(Ok(None))) {
                    return;
                }
            }
        })?;
    receiver
        .recv()
        .context("the thread that starts QEMU died")?
        .context("cannot start QEMU")
}

/// Returns a port on which nothing listens. Another process may take it before QEMU does;
/// QEMU then exits at once with a message.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
