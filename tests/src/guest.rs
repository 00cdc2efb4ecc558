//! Guests that are made by `xl` and controlled over their network.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lull_guest::protocol::{Answer, Load, PORT, Request, Status};

use crate::device_model;
use crate::host::Host;
use crate::ssh::quote;

/// The type of a guest's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuestType {
    /// A hardware-assisted guest without an emulated machine.
    #[default]
    Pvh,
    /// A hardware-assisted guest with an emulated machine, of which it uses the disk and
    /// unplugs the network card. The host needs [`Host::install_device_model`].
    Hvm,
    /// A paravirtual guest, which migrates only under [`crate::Hypervisor::Xen417Shadow`].
    Pv,
}

/// The description of a guest to make.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// The guest's name, unique on the host.
    pub name: String,
    /// The memory in MiB.
    pub memory_mib: u32,
    /// The number of vCPUs.
    pub vcpus: u32,
    /// Whether the guest has a network interface; without one it cannot be controlled.
    pub vif: bool,
    /// The type of the guest's domain.
    pub kind: GuestType,
    /// Pages that the guest reserves for its load, the upper bound of a working set.
    pub reserve_pages: u64,
    /// A disk of the host's that the guest writes to, in xl's syntax.
    pub disk: Option<String>,
    /// The name of the guest's interface on the host.
    pub vifname: Option<String>,
    /// Whether the guest has a second interface, which stays unused.
    pub second_vif: bool,
    /// Whether a PV guest runs in a PVH domain with Xen's own shim. The guest's kind is
    /// then [`GuestType::Pvh`].
    pub pvshim: bool,
    /// Whether the guest ignores a request to suspend.
    pub ignores_suspend: bool,
    /// The emulated machine, if the guest has one.
    pub machine: Machine,
}

/// The emulated machine of an HVM guest, in xl's configuration and for the guest's Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Lines of xl's configuration, each with its end.
    pub lines: String,
    /// Words of the kernel's command line.
    pub words: String,
    /// What is added to the description of the first network interface, from a comma on.
    pub nic: String,
}

impl Machine {
    /// The guest does without most devices, because each costs time under emulation. It
    /// uses emulated and PV disks, and PV network cards only.
    pub fn small() -> Self {
        Self {
            lines: "vga = \"none\"\nvnc = 0\nnographic = 1\nserial = \"none\"\nusb = 0\n"
                .to_owned(),
            // Without this Linux would unplug the emulated disks as well.
            words: "xen_emul_unplug=nics".to_owned(),
            nic: String::new(),
        }
    }

    /// The same machine, but the guest's Linux does not know that it runs on Xen. Its
    /// console is a file in dom0, because it has no other.
    pub fn without_pv_drivers(name: &str) -> Self {
        let mut machine = Self::small();
        let serial = format!("serial = \"file:/var/log/xen/serial-{name}.log\"");
        machine.lines = machine.lines.replace("serial = \"none\"", &serial);
        // Under emulation ticks may be late, and Linux would take its timer for broken.
        machine.words = "nopv no_timer_check console=ttyS0".to_owned();
        machine.nic = ",model=rtl8139".to_owned();
        machine
    }
}

impl GuestSpec {
    /// Describes a PVH guest of 192 MiB with one processor and a network, of which 100 MiB
    /// can be dirtied.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 192,
            vcpus: 1,
            vif: true,
            kind: GuestType::Pvh,
            reserve_pages: 25_600,
            disk: None,
            vifname: None,
            second_vif: false,
            pvshim: false,
            ignores_suspend: false,
            machine: Machine::small(),
        }
    }

    /// Describes an HVM guest of 160 MiB, of which 32 MiB can be dirtied, with the host's own
    /// disk as an emulated one.
    pub fn hvm(name: &str) -> Self {
        Self {
            memory_mib: 160,
            kind: GuestType::Hvm,
            reserve_pages: 8_192,
            disk: Some("phy:/dev/nvme0n1,hda,w".to_owned()),
            ..Self::new(name)
        }
    }

    fn config(&self, address: &str, mac: &str) -> String {
        let kind = match self.kind {
            GuestType::Pvh => "pvh",
            GuestType::Hvm => "hvm",
            GuestType::Pv => "pv",
        };
        let is_hvm = self.kind == GuestType::Hvm;
        let mut extra = format!(
            "console=hvc0 quiet mitigations=off random.trust_cpu=on panic=1 rdinit=/init lull.reserve={}",
            self.reserve_pages
        );
        if self.vif {
            extra.push_str(&format!(" lull.ip={address}"));
        }
        let mut disk = String::new();
        if let Some(words) = &self.disk {
            extra.push_str(if is_hvm {
                " lull.disk=sda"
            } else {
                " lull.disk=xvda"
            });
            disk = format!("disk = [\"{words}\"]\n");
        }
        if self.ignores_suspend {
            // This call sets the watch on control/shutdown. Without the watch the kernel
            // neither acknowledges a request nor acts on it.
            extra.push_str(" initcall_blacklist=xen_setup_shutdown_event");
        }
        let vif = if self.vif {
            let vifname = self.vifname.as_ref();
            let mut vifname = vifname.map_or_else(String::new, |name| format!(",vifname={name}"));
            if is_hvm {
                vifname.push_str(&self.machine.nic);
            }
            let second = match self.second_vif {
                true => ",\"bridge=xenbr0\"",
                false => "",
            };
            format!("vif = [\"bridge=xenbr0,mac={mac}{vifname}\"{second}]\n")
        } else {
            String::new()
        };
        let shim = if self.pvshim { "pvshim = 1\n" } else { "" };
        let (kernel, initramfs, machine) = match is_hvm {
            true => (
                device_model::KERNEL,
                device_model::INITRAMFS,
                self.machine.lines.as_str(),
            ),
            false => ("/boot/vmlinux", "/boot/guest.cpio", ""),
        };
        if is_hvm {
            // Without this parameter an early quirk asks for each device on each of 256
            // buses, and each question is a turn of the emulated QEMU: that takes minutes.
            extra.push_str(&format!(" {} pci=noearly", self.machine.words));
        }
        // The guest never runs on dom0's processor. QEMU's emulation loses guests that move
        // between processors while dirty logging is on (a triple fault, with the
        // hypervisor's own registers in the guest's place): about one in three minutes. Of
        // those that stayed on one processor, none was lost in eight.
        format!(
            "name = \"{}\"\ntype = \"{kind}\"\nmemory = {}\nvcpus = {}\n\
             kernel = \"{kernel}\"\nramdisk = \"{initramfs}\"\nextra = \"{extra}\"\n\
             cpus = \"all,^0\"\n\
             on_crash = \"preserve\"\non_reboot = \"destroy\"\non_poweroff = \"destroy\"\n{vif}{disk}{shim}{machine}",
            self.name, self.memory_mib, self.vcpus
        )
    }
}

/// The longest time that `xl create` may take: for an HVM guest it starts a QEMU.
const CREATING: Duration = Duration::from_secs(300);

/// A guest that was made. It stays when this handle is dropped; see [`Guest::destroy`].
#[derive(Clone)]
pub struct Guest {
    host: Host,
    name: String,
    address: String,
    mac: String,
}

impl Guest {
    pub(crate) fn create(host: &Host, spec: &GuestSpec) -> Result<Self> {
        Self::create_by(host, spec, |file| format!("xl create -q {file}"))
    }

    /// Makes a guest with a shell command, which gets the name of the configuration file
    /// for xl.
    pub fn create_by(
        host: &Host,
        spec: &GuestSpec,
        command: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let number = host.next_address();
        let guest = Self {
            host: host.clone(),
            name: spec.name.clone(),
            address: format!("10.77.0.{number}"),
            mac: format!("00:16:3e:77:00:{number:02x}"),
        };
        let config = spec.config(&guest.address, &guest.mac);
        let file = format!("/run/rig/{}.cfg", spec.name.replace(' ', "-"));
        let create = format!("printf %s {} >{file} && {}", quote(&config), command(&file));
        host.run_for(&create, CREATING)?
            .checked()
            .with_context(|| format!("cannot create {}", spec.name))?;
        if spec.vif {
            guest.wait_until_up(spec.kind)?;
        }
        Ok(guest)
    }

    /// Returns the same guest under its new name.
    pub fn renamed(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }

    /// Returns the same guest after its move to that host.
    pub fn on(&self, host: &Host) -> Self {
        Self {
            host: host.clone(),
            ..self.clone()
        }
    }

    /// Returns the guest's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the host that the guest is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the MAC address of the guest's network card.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// Returns the guest's IP address on dom0's bridge.
    pub fn ip(&self) -> &str {
        &self.address
    }

    /// Returns the present domid, which changes with every migration.
    pub fn domid(&self) -> Result<u32> {
        let text = self
            .host
            .run(&format!("xl domid {}", quote(&self.name)))?
            .checked()?;
        text.trim().parse().context("xl domid printed no number")
    }

    /// Changes the guest's load.
    pub fn set_load(&self, load: Load) -> Result<Status> {
        self.ask(Request::SetLoad(load))
    }

    /// Returns the guest's counters.
    pub fn status(&self) -> Result<Status> {
        self.ask(Request::Status)
    }

    /// Makes the guest check every page of its reserve once.
    pub fn verify_all(&self) -> Result<Status> {
        self.ask(Request::VerifyAll)
    }

    /// Crashes the guest's kernel. The domain stays, in the state crashed.
    pub fn crash(&self) -> Result<()> {
        // A crash sends no answer.
        self.exchange(Request::Crash, 1)?;
        Ok(())
    }

    /// Destroys the domain.
    pub fn destroy(&self) -> Result<()> {
        self.host
            .run(&format!("xl destroy {}", quote(&self.name)))?
            .checked()
            .with_context(|| format!("cannot destroy {}", self.name))?;
        Ok(())
    }

    fn wait_until_up(&self, kind: GuestType) -> Result<()> {
        let longest = match kind {
            // Firmware, the unpacking of the kernel and each register of a device pass
            // through emulation.
            GuestType::Hvm => 600,
            _ => 90,
        };
        self.answer(Request::Status, longest).map(drop)
    }

    fn ask(&self, request: Request) -> Result<Status> {
        let longest = match request {
            // Each block of an emulated disk passes through emulation.
            Request::VerifyAll => 120,
            _ => 30,
        };
        match serde_json::from_str(&self.answer(request, longest)?)? {
            Answer::Status(status) => Ok(*status),
            Answer::Error(reason) => bail!("{} refuses {request:?}: {reason}", self.name),
        }
    }

    /// Returns the guest's answer; an error if none comes within that many seconds.
    fn answer(&self, request: Request, seconds: u64) -> Result<String> {
        self.exchange(request, seconds)?.checked().with_context(|| {
            format!(
                "{} does not answer {request:?}; {}",
                self.name,
                self.last_signs()
            )
        })
    }

    /// Collects the remaining evidence about a guest that does not answer.
    fn last_signs(&self) -> String {
        let name = quote(&self.name);
        let signs = self
            .host
            .run(&format!(
                "xl list; xl vcpu-list {name}; ping -c 2 -w 4 {}; \
                 tail -n 20 /var/log/xen/guest-{name}.log /var/log/xen/serial-{name}.log 2>&1",
                self.address
            ))
            .map_or_else(|e| e.to_string(), |o| o.stdout);
        format!("domains, processors, pings, console:\n{signs}")
    }

    fn exchange(&self, request: Request, seconds: u64) -> Result<crate::ssh::Output> {
        let request = serde_json::to_string(&request)?;
        self.host.run_for(
            &format!(
                "rig-agent ask {}:{PORT} {} {seconds}",
                self.address,
                quote(&request)
            ),
            Duration::from_secs(seconds + 30),
        )
    }
}
