//! libvirt with its Xen driver in dom0, as Debian packages it. It is installed on request,
//! because one scenario needs it and every boot would take longer.
//!
//! Each of two hosts has a daemon, or one host stands for two. In that case a second daemon
//! with its own folders, UUID and sshd accepts guests for another host ([`THERE`]). The
//! name of a guest must differ then, because both daemons share one xenstore.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::debian::{self, Release};
use crate::dom0_image::Dom0Image;
use crate::host::Host;
use crate::layer::Layer;
use crate::ssh::quote;
use crate::timeline::Timeline;

/// The URI of the second daemon, for `virsh`.
pub const THERE: &str = "xen+ssh://there/system";

/// The URI of the first daemon, as the second reaches it.
pub const BACK: &str = "xen+unix:///system?socket=/run/rig/here/libvirt-sock";

/// The version of the recipe; raise it when the code below changes what it builds.
const RECIPE_VERSION: &str = "1";

/// The prefixes of the paths that are taken from the packages, beside libraries.
const WANTED: &[&str] = &[
    "lib/systemd/system/libvirtd.service",
    "usr/bin/virsh",
    "usr/bin/virt-ssh-helper",
    "usr/lib/libvirt/libvirt_iohelper",
    "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_libxl.so",
    "usr/sbin/libvirtd",
    "usr/share/libvirt/cpu_map/",
];

/// The processor model on which all others build.
const OLDEST_MODEL: &str = "usr/share/libvirt/cpu_map/x86_486.xml";

impl Host {
    /// Installs libvirt in dom0, and starts nothing.
    ///
    /// # Errors
    /// When libvirt cannot be fetched or installed, which is the rig's fault.
    pub fn install_libvirt(&self) -> Result<()> {
        let timeline = Timeline::start();
        let release = Release::default();
        let layer = Layer {
            name: "libvirt",
            version: RECIPE_VERSION,
            packages: debian::libvirt_recipe(release),
            wanted: WANTED,
            release,
            unpack,
        };
        layer.install(self, &Dom0Image::ready(release, &timeline)?)?;
        timeline.phase("libvirt installed in dom0");
        Ok(())
    }

    /// Starts the daemon with the settings of its drop-ins.
    ///
    /// # Errors
    /// With the daemon's log, when it does not answer.
    pub fn start_libvirt(&self) -> Result<Libvirt<'_>> {
        self.start_daemons("")
    }

    /// Starts the daemon and a second one beside it.
    ///
    /// # Errors
    /// With the logs of the daemons, when they do not answer.
    pub fn start_libvirt_twice(&self) -> Result<Libvirt<'_>> {
        self.start_daemons(START_ANOTHER)
    }

    fn start_daemons(&self, another: &str) -> Result<Libvirt<'_>> {
        let timeline = Timeline::start();
        let daemons = Libvirt { host: self };
        let script = format!("number={}{START}{another}", self.config().number);
        self.run(&format!("bash -ec {}", quote(&script)))?
            .checked()
            .context("libvirt's daemons do not start")?;
        timeline.phase("libvirt's daemons answer");
        Ok(daemons)
    }
}

/// Running daemons; they end when this is dropped.
pub struct Libvirt<'a> {
    host: &'a Host,
}

impl Drop for Libvirt<'_> {
    fn drop(&mut self) {
        let _ = self.host.run(STOP);
    }
}

/// Starts the daemon; `number` is that of the host. No systemd runs here, so the settings
/// are read from the drop-ins. dom0 has no DMI table either from which to take a UUID.
const START: &str = r#"
configure() {
    printf '%s\n' 'unix_sock_group = "root"' 'auth_unix_ro = "none"' 'auth_unix_rw = "none"' \
        "host_uuid = \"c0ffee00-0000-4000-8000-00000000000$1\"" \
        "log_outputs = \"2:file:/run/rig/libvirtd-$1.log\"" >/etc/libvirt/libvirtd.conf
}
answers() {
    timeout 60 sh -c 'until virsh list >/dev/null 2>&1; do sleep 0.3; done' ||
        { cat /run/rig/libvirtd-$1.log; exit 1; }
}
export $(sed -n 's/^Environment=//p' /etc/systemd/system/libvirtd.service.d/*.conf)
mkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/log/libvirt
configure $number
libvirtd --daemon --pid-file /run/rig/libvirtd-$number.pid
answers $number
"#;

/// Starts the second daemon with number 9, which no host has.
const START_ANOTHER: &str = r#"
printf '%s\n' 'Host there' 'HostName 127.0.0.1' 'Port 2222' 'HostKeyAlias dest' >/root/.ssh/config
(
    export -f configure answers
    unshare --mount bash -ec '
        mkdir -p /run/rig/here
        mount --bind /run/libvirt /run/rig/here
        for folder in /etc/libvirt /run/libvirt /var/lib/libvirt /var/log/libvirt; do
            mount -t tmpfs none $folder
        done
        configure 9
        libvirtd --daemon --pid-file /run/rig/libvirtd-9.pid
        /usr/sbin/sshd -p 2222 -o PidFile=/run/rig/sshd-9.pid
        answers 9'
)
"#;

const STOP: &str = "
for pid in /run/rig/libvirtd-*.pid /run/rig/sshd-9.pid; do
    [ ! -e $pid ] || kill $(cat $pid)
done
while pgrep -x libvirtd >/dev/null; do sleep 0.2; done
rm -f /root/.ssh/config";

/// Unpacks the packages. QEMU does not emulate the virtual-8086 extensions, without which no
/// model fits; and a daemon that finds no model of its processor has no Xen driver.
fn unpack(root: &Path, release: Release) -> Result<()> {
    debian::unpack_libvirt(root, release)?;
    let model = root.join(OLDEST_MODEL);
    let text = fs::read_to_string(&model)?;
    let lines = text.lines().filter(|line| !line.contains("'vme'"));
    fs::write(&model, lines.collect::<Vec<_>>().join("\n"))?;
    Ok(())
}
