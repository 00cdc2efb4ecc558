//! Announces the guest's network interfaces once its copy runs.
//!
//! Switches go on sending a guest's frames to the host it has left until they see a frame
//! from it elsewhere. Linux says something by itself when its interface is connected again;
//! a guest that does not, and has nothing to send, would stay out of reach for minutes. So
//! one broadcast for each interface goes into its bridge or Open vSwitch as soon as the copy
//! runs, and is repeated, because any of them may be lost.
//!
//! Nothing is announced before the copy runs. Until then the source may still refuse, and
//! its guest would be the one out of reach.
//!
//! The frame is a RARP request, as other hypervisors send it: it carries a MAC address and
//! no IP address, and a host that gets it has nothing to do.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use lull_base::net_link::{Frames, NAME_ROOM};
use lull_store::limits;
use lull_xen::host;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, Xen};

use super::waiting::{Identity, SUFFIX};

/// Time in which the copy starts, or is not announced.
const STARTING: Duration = Duration::from_secs(20);

/// Interval between two checks whether the copy runs.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Pauses before each announcement, from the start of the copy.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
];

/// The most interfaces that are announced.
const MAX_INTERFACES: usize = 64;

/// The scripts that make an interface a port of a Linux bridge, and the one that makes it a
/// port of Open vSwitch (`tools/hotplug/Linux`, 4.17 to 4.22).
const BRIDGING: [&str; 2] = ["vif-bridge", "vif-lull"];
const SWITCHING: &str = "vif-openvswitch";

/// Length of an Ethernet frame without its checksum, in bytes, at the least.
const SHORTEST: usize = 60;

/// An interface of the guest.
#[derive(Debug, PartialEq, Eq)]
struct Interface {
    switch: Switch,
    mac: [u8; 6],
}

/// What an interface is a port of.
#[derive(Debug, PartialEq, Eq)]
enum Switch {
    Linux { bridge: String },
    OpenVswitch { bridge: String, port: String },
}

/// The backend's keys of an interface (`libxl_nic.c`, 4.17 to 4.22).
#[derive(Debug, Default)]
struct Keys {
    script: String,
    bridge: String,
    vlan: String,
    mac: String,
    vifname: String,
}

/// Announces the copy after a message on `starts`, as soon as it runs.
///
/// # Errors
/// What could not be asked or sent. The guest runs all the same.
pub fn announce(copy: Identity, starts: &Receiver<()>) -> io::Result<()> {
    let xen = Xen::open_here()?;
    // All that takes long is done before the guest stops.
    let interfaces = interfaces(copy.domain)?;
    if interfaces.is_empty() {
        return Ok(());
    }
    let frames = Frames::open()?;
    if starts.recv().is_err() {
        return Ok(());
    }
    let until = Instant::now() + STARTING;
    loop {
        // It may be started between the two questions.
        let waits = copy.waits(&xen)?;
        if copy.runs(&xen)? {
            break;
        }
        if !waits || Instant::now() > until {
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL);
    }
    for pause in PAUSES {
        thread::sleep(pause);
        // It may have moved on.
        if !copy.runs(&xen)? {
            break;
        }
        for interface in &interfaces {
            interface.announce(&frames)?;
        }
    }
    Ok(())
}

/// The interfaces to announce; none if the host's limits say so.
fn interfaces(copy: DomId) -> io::Result<Vec<Interface>> {
    let mut store = Xenstore::open()?;
    let name = store.read(&format!("/local/domain/{copy}/name"))?;
    let name = name.unwrap_or_default();
    let name = name.strip_suffix(SUFFIX).unwrap_or(&name);
    let limits = limits::effective(name, Some(&host::uuid(copy)?)).map_err(io::Error::other)?;
    if !limits.is_announced() {
        return Ok(Vec::new());
    }
    // This is libxl's own folder; the guest can write to its own.
    let folder = format!("/libxl/{copy}/device/vif");
    let mut found = Vec::new();
    for number in store.list(&folder)?.into_iter().take(MAX_INTERFACES) {
        let backend = store.read(&format!("{folder}/{number}/backend"))?;
        let backend = backend.unwrap_or_default();
        // Another domain's backend is not on this host's bridges.
        if !backend.starts_with(&format!("/local/domain/0/backend/vif/{copy}/")) {
            continue;
        }
        let mut key = |key: &str| -> io::Result<String> {
            let value = store.read(&format!("{backend}/{key}"))?;
            Ok(value.unwrap_or_default())
        };
        let keys = Keys {
            script: key("script")?,
            bridge: key("bridge")?,
            vlan: key("vlan")?,
            mac: key("mac")?,
            vifname: key("vifname")?,
        };
        found.extend(interface(&keys, &format!("vif{copy}.{number}")));
    }
    Ok(found)
}

/// The interface that the keys describe, with the name that the backend gave to it; `None`
/// if it is no port of a switch that is known here. A frame that is sent into a Linux
/// bridge would be in another VLAN than one of a port with a VLAN of its own.
fn interface(keys: &Keys, device: &str) -> Option<Interface> {
    let mac = mac_address(&keys.mac)?;
    let script = keys.script.rsplit('/').next()?;
    let port = match keys.vifname.as_str() {
        "" => device,
        name => name,
    };
    let switch = if BRIDGING.contains(&script) && keys.vlan.is_empty() {
        Switch::Linux {
            bridge: plain(&keys.bridge)?,
        }
    } else if script == SWITCHING {
        // The script reads VLANs behind the bridge's name.
        let bridge = keys.bridge.split(['.', ':']).next()?;
        Switch::OpenVswitch {
            bridge: plain(bridge)?,
            port: plain(port)?,
        }
    } else {
        return None;
    };
    Some(Interface { switch, mac })
}

/// An interface's name without any character that a path or `ovs-ofctl` takes otherwise.
fn plain(name: &str) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_name = (1..NAME_ROOM).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with(['.', '-']);
    is_name.then(|| name.to_owned())
}

impl Interface {
    fn announce(&self, frames: &Frames) -> io::Result<()> {
        let frame = announcement(self.mac);
        match &self.switch {
            Switch::Linux { bridge } => {
                // A bridge of Open vSwitch that vif-bridge serves would take dom0 for the
                // guest.
                let is_bridge = fs::exists(format!("/sys/class/net/{bridge}/bridge"))?;
                match is_bridge {
                    true => frames.send(bridge, &frame),
                    false => Ok(()),
                }
            }
            Switch::OpenVswitch { bridge, port } => packet_out(bridge, port, &frame),
        }
    }
}

/// Has Open vSwitch handle a frame as if it came from that port: it learns the port, and
/// the port's VLAN applies.
fn packet_out(bridge: &str, port: &str, frame: &[u8]) -> io::Result<()> {
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new("ovs-ofctl");
    command.args(["--timeout=5", "packet-out", bridge]);
    command.arg(format!("in_port={port},packet={hex},actions=NORMAL"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    match command.status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "ovs-ofctl sends nothing from {port} into {bridge}"
        ))),
    }
}

/// A unicast address of six pairs of hexadecimal digits.
fn mac_address(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_hex)?;
    }
    let is_unicast = mac[0] & 1 == 0 && mac != [0; 6];
    (parts.next().is_none() && is_unicast).then_some(mac)
}

/// A RARP request that asks for the sender's own address (RFC 903), to all stations.
fn announcement(mac: [u8; 6]) -> [u8; SHORTEST] {
    let mut frame = [0; SHORTEST];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // EtherType RARP; then hardware Ethernet, protocol IPv4, their lengths, and the request.
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0, 0x16, 0x3e, 0xa, 0xb, 0xff];

    #[test]
    fn an_address_is_six_pairs_of_digits_of_one_station() {
        assert_eq!(mac_address("00:16:3e:0a:0B:ff"), Some(MAC));
        for text in [
            "",
            "00:16:3e:0a:0b",
            "00:16:3e:0a:0b:ff:00",
            "00:16:3e:0a:0b:ff:",
            "0:16:3e:0a:0b:ff",
            "00:16:3e:0a:0b:+f",
            "00:16:3e:0a:0b:fg",
            "00-16-3e-0a-0b-ff",
            "01:16:3e:0a:0b:ff",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(mac_address(text), None, "{text}");
        }
    }

    fn found(script: &str, bridge: &str, vlan: &str, vifname: &str) -> Option<Switch> {
        let keys = Keys {
            script: script.into(),
            bridge: bridge.into(),
            vlan: vlan.into(),
            mac: "00:16:3e:0a:0b:ff".into(),
            vifname: vifname.into(),
        };
        let interface = interface(&keys, "vif8.0")?;
        assert_eq!(interface.mac, MAC);
        Some(interface.switch)
    }

    #[test]
    fn only_a_port_of_a_known_switch_is_announced() {
        let script = "/etc/xen/scripts/vif-bridge";
        let bridge = || Switch::Linux {
            bridge: "xenbr0".into(),
        };
        assert_eq!(found(script, "xenbr0", "", ""), Some(bridge()));
        assert_eq!(found("vif-lull", "xenbr0", "", "web1.0"), Some(bridge()));
        for (script, bridge, vlan) in [
            ("vif-route", "xenbr0", ""),
            ("", "xenbr0", ""),
            (script, "xenbr0", "10"),
            (script, "", ""),
            (script, "../../etc", ""),
            (script, "sixteen-is-over!", ""),
        ] {
            assert_eq!(found(script, bridge, vlan, ""), None, "{script} {bridge}");
        }
        assert!(interface(&Keys::default(), "vif8.0").is_none());
    }

    #[test]
    fn open_vswitch_is_told_the_port() {
        let script = "/etc/xen/scripts/vif-openvswitch";
        let port = |port: &str| Switch::OpenVswitch {
            bridge: "ovsbr0".into(),
            port: port.into(),
        };
        for bridge in ["ovsbr0", "ovsbr0.10", "ovsbr0:20:30", "ovsbr0.10:20:30"] {
            assert_eq!(found(script, bridge, "", ""), Some(port("vif8.0")));
        }
        assert_eq!(found(script, "ovsbr0", "", "web1.0"), Some(port("web1.0")));
        for name in ["a,actions=drop", "a b", "-t", "LOCAL=1"] {
            assert_eq!(found(script, "ovsbr0", "", name), None, "{name}");
        }
    }

    #[test]
    fn the_frame_carries_the_address_three_times() {
        let frame = announcement(MAC);
        assert_eq!(frame[..6], [0xff; 6]);
        for place in [6, 22, 32] {
            assert_eq!(frame[place..place + 6], MAC);
        }
        assert_eq!(frame[12..14], [0x80, 0x35]);
        let rest = [&frame[28..32], &frame[38..]].concat();
        assert!(rest.iter().all(|byte| *byte == 0));
    }
}
