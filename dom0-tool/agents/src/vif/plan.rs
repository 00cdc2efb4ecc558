//! Decides what to do from the backend's keys and the state of the host. Anything but the
//! plain case is an `Err` with the reason and is left to `vif-bridge`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lull_base::net_link::NAME_ROOM;
use lull_xen::host::is_executable;
use lull_xen::xenstore::Xenstore;

use super::call::{Action, Call};

/// The folders in which `vif-bridge` finds its programs, iptables among them.
const PROGRAMS: [&str; 6] = [
    "usr/local/sbin",
    "usr/local/bin",
    "usr/sbin",
    "usr/bin",
    "sbin",
    "bin",
];

/// The backend's keys that matter (`libxl_nic.c`, Xen 4.17 to 4.22). An empty key counts as
/// absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    pub bridge: Option<String>,
    pub vifname: Option<String>,
    pub mtu: Option<String>,
    pub vlan: Option<String>,
}

impl Keys {
    /// Reads the keys from the backend's folder.
    ///
    /// # Errors
    /// If xenstore does not answer.
    pub fn read(store: &mut Xenstore, path: &str) -> io::Result<Self> {
        let mut value = |key: &str| -> io::Result<Option<String>> {
            let value = store.read(&format!("{path}/{key}"))?;
            Ok(value.filter(|value| !value.is_empty()))
        };
        Ok(Self {
            bridge: value("bridge")?,
            vifname: value("vifname")?,
            mtu: value("mtu")?,
            vlan: value("vlan")?,
        })
    }
}

/// The change to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    Attach(Attach),
    Detach(Detach),
}

/// An interface that becomes a port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The name that the backend gave to the interface.
    pub device: String,
    /// The name in the guest's configuration.
    pub rename: Option<String>,
    pub bridge: String,
    /// The MTU in bytes; `None` leaves it unchanged.
    pub mtu: Option<u32>,
    /// The node in which the guest reads the MTU. `vif-bridge` derives its path from the
    /// interface's name, and for a renamed interface writes a node that nothing reads.
    pub frontend_mtu: String,
}

impl Attach {
    /// The interface's final name.
    pub fn name(&self) -> &str {
        self.rename.as_deref().unwrap_or(&self.device)
    }
}

/// An interface to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// The name of the port; it may already be gone.
    pub port: Option<String>,
    pub bridge: String,
    pub is_on_bridge: bool,
}

/// The folders of the host; tests use a root of their own.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    scripts: PathBuf,
}

impl Host {
    /// The host below `root`, with its hotplug scripts in `scripts`.
    pub fn new(root: &Path, scripts: &Path) -> Self {
        Self {
            root: root.to_owned(),
            scripts: scripts.to_owned(),
        }
    }

    /// Why every interface on this host must be left to `vif-bridge`, as a clause; `None`
    /// if it need not.
    pub fn wants_stock(&self) -> Option<&'static str> {
        if self.has_iptables() {
            return Some("iptables is installed");
        }
        self.has_hooks().then_some("there are hooks in vif-post.d")
    }

    fn device(&self, name: &str) -> PathBuf {
        self.root.join("sys/class/net").join(name)
    }

    fn is_port_of(&self, bridge: &str, name: &str) -> bool {
        self.device(bridge).join("brif").join(name).exists()
    }

    /// `vif-bridge` sets and removes the rules of iptables. Only a call of iptables would
    /// show whether it works at all.
    fn has_iptables(&self) -> bool {
        let mut folders = PROGRAMS.iter().map(|folder| self.root.join(folder));
        folders.any(|folder| is_executable(&folder.join("iptables")))
    }

    /// Whether there are hooks: shell text that `vif-bridge` runs last, in its own shell.
    fn has_hooks(&self) -> bool {
        let Ok(found) = fs::read_dir(self.scripts.join("vif-post.d")) else {
            return false;
        };
        let mut hooks = found.filter_map(Result::ok);
        hooks.any(|hook| hook.file_name().as_bytes().ends_with(b".hook"))
    }

    /// The content of a file below an interface's folder.
    fn attribute(&self, name: &str, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.device(name).join(file)).ok()?;
        Some(text.trim().to_owned())
    }
}

/// Decides what to do, without changing anything.
///
/// # Errors
/// Why `vif-bridge` must handle the call.
pub fn plan(call: &Call, keys: &Keys, host: &Host) -> Result<Work, String> {
    if let Some(why) = host.wants_stock() {
        return Err(why.to_owned());
    }
    if let Some(vlan) = &keys.vlan {
        return Err(format!("it belongs to VLAN {vlan}"));
    }
    // Without a bridge name, and for an old-style name, `vif-bridge` has rules of its own.
    // A bridge of Open vSwitch is not one to the kernel.
    let bridge = keys.bridge.clone().ok_or("no bridge is named")?;
    let names = [&bridge, &call.vif].into_iter().chain(&keys.vifname);
    if let Some(odd) = names.into_iter().find(|name| !is_name(name)) {
        return Err(format!("{odd:?} is no interface's name"));
    }
    if !host.device(&bridge).join("bridge").exists() {
        return Err(format!("{bridge} is no Linux bridge"));
    }
    match call.action {
        Action::Online => attach(call, keys, bridge, host).map(Work::Attach),
        Action::Offline => Ok(Work::Detach(detach(call, keys, bridge, host))),
    }
}

fn attach(call: &Call, keys: &Keys, bridge: String, host: &Host) -> Result<Attach, String> {
    let device = call.vif.clone();
    let flags = host.attribute(&device, "flags");
    let flags = flags.ok_or_else(|| format!("there is no {device}"))?;
    // An interface fresh from the backend is down, so it has no address to remove.
    let up = u32::from_str_radix(flags.trim_start_matches("0x"), 16).map(|flags| flags & 1 != 0);
    if up != Ok(false) {
        return Err(format!("{device} is up already"));
    }
    if host.device(&device).join("master").exists() {
        return Err(format!("{device} is a port already"));
    }
    let taken = keys.vifname.iter().find(|name| host.device(name).exists());
    if let Some(taken) = taken {
        return Err(format!("there is a {taken} already"));
    }
    let mtu = keys.mtu.clone().or_else(|| host.attribute(&bridge, "mtu"));
    let mtu = mtu.ok_or_else(|| format!("{bridge} has no MTU"))?;
    let mtu: u32 = mtu.parse().map_err(|_| format!("{mtu:?} is no MTU"))?;
    Ok(Attach {
        device,
        rename: keys.vifname.clone(),
        bridge,
        mtu: Some(mtu).filter(|mtu| *mtu > 0),
        frontend_mtu: format!(
            "/local/domain/{}/device/vif/{}/mtu",
            call.domid, call.device
        ),
    })
}

fn detach(call: &Call, keys: &Keys, bridge: String, host: &Host) -> Detach {
    let name = keys.vifname.clone().unwrap_or_else(|| call.vif.clone());
    Detach {
        is_on_bridge: host.is_port_of(&bridge, &name),
        port: Some(name).filter(|name| host.device(name).exists()),
        bridge,
    }
}

/// Whether the kernel accepts the name (`dev_valid_name`), and it is not a pattern.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| !(c.is_whitespace() || c.is_control() || "/:%".contains(c));
    !matches!(name, "" | "." | "..") && name.len() < NAME_ROOM && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A host with a bridge `br0` and a fresh `vif7.0`.
    fn host() -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path(), &root.path().join("etc/xen/scripts"));
        put(&host.device("br0").join("bridge/bridge_id"), "");
        put(&host.device("br0").join("mtu"), "9000\n");
        put(&host.device("vif7.0").join("flags"), "0x1002\n");
        (root, host)
    }

    fn put(file: &Path, text: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn call(word: &str) -> Call {
        let device = |name: &str| match name {
            "vif" => Some("vif7.0".to_owned()),
            _ => Some("backend/vif/7/0".to_owned()),
        };
        Call::read(&[OsString::from(word)], device).unwrap()
    }

    fn keys() -> Keys {
        Keys {
            bridge: Some("br0".into()),
            ..Keys::default()
        }
    }

    fn attached(keys: &Keys, host: &Host) -> Attach {
        match plan(&call("online"), keys, host) {
            Ok(Work::Attach(attach)) => attach,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fresh_interface_goes_onto_its_bridge_with_the_bridges_mtu() {
        let (_root, host) = host();
        let expected = Attach {
            device: "vif7.0".into(),
            rename: None,
            bridge: "br0".into(),
            mtu: Some(9000),
            frontend_mtu: "/local/domain/7/device/vif/0/mtu".into(),
        };
        assert_eq!(attached(&keys(), &host), expected);
    }

    #[test]
    fn the_configurations_name_and_mtu_come_first() {
        let (_root, host) = host();
        let keys = Keys {
            vifname: Some("web1".into()),
            mtu: Some("1400".into()),
            ..keys()
        };
        let attach = attached(&keys, &host);
        assert_eq!((attach.name(), attach.mtu), ("web1", Some(1400)));
        assert_eq!(attach.device, "vif7.0");
        let unset = Keys {
            mtu: Some("0".into()),
            ..keys
        };
        assert_eq!(attached(&unset, &host).mtu, None);
    }

    #[test]
    fn what_is_not_the_plain_case_is_left_to_the_stock_script() {
        let odd = |change: fn(&mut Keys)| {
            let mut keys = keys();
            change(&mut keys);
            keys
        };
        let (_root, host) = host();
        for keys in [
            odd(|keys| keys.bridge = None),
            odd(|keys| keys.bridge = Some("ovs0".into())),
            odd(|keys| keys.bridge = Some("../br0".into())),
            odd(|keys| keys.vlan = Some("10/100".into())),
            odd(|keys| keys.vifname = Some("longer-than-a-name".into())),
            odd(|keys| keys.vifname = Some("web%d".into())),
            odd(|keys| keys.vifname = Some("br0".into())),
            odd(|keys| keys.mtu = Some("large".into())),
        ] {
            assert!(plan(&call("online"), &keys, &host).is_err(), "{keys:?}");
        }
    }

    #[test]
    fn an_interface_that_somebody_was_at_is_left_to_the_stock_script() {
        let (_root, host) = host();
        put(&host.device("vif7.0").join("flags"), "0x1003\n");
        assert!(plan(&call("online"), &keys(), &host).is_err());
        put(&host.device("vif7.0").join("flags"), "0x1002\n");
        put(&host.device("vif7.0").join("master/mtu"), "");
        assert!(plan(&call("online"), &keys(), &host).is_err());
        fs::remove_dir_all(host.device("vif7.0")).unwrap();
        assert!(plan(&call("online"), &keys(), &host).is_err());
    }

    #[test]
    fn rules_and_hooks_are_the_stock_scripts() {
        for (file, what) in [
            ("usr/sbin/iptables", "iptables"),
            ("etc/xen/scripts/vif-post.d/10-shape.hook", "hooks"),
        ] {
            let (root, host) = host();
            let file = root.path().join(file);
            put(&file, "");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            for word in ["online", "offline"] {
                let why = plan(&call(word), &keys(), &host).unwrap_err();
                assert!(why.contains(what), "{why}");
            }
        }
    }

    #[test]
    fn an_interface_that_has_gone_needs_nothing_more() {
        let (_root, host) = host();
        let detached = |keys: &Keys| match plan(&call("offline"), keys, &host) {
            Ok(Work::Detach(detach)) => (detach.port, detach.is_on_bridge),
            other => panic!("{other:?}"),
        };
        assert_eq!(detached(&keys()), (Some("vif7.0".into()), false));
        put(&host.device("br0").join("brif/vif7.0/state"), "");
        assert_eq!(detached(&keys()), (Some("vif7.0".into()), true));
        let renamed = Keys {
            vifname: Some("web1".into()),
            ..keys()
        };
        assert_eq!(detached(&renamed), (None, false));
    }
}
