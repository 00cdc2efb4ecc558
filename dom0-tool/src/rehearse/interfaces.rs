//! The network interfaces of the probe guest. Most of a landing is the destination's work
//! on interfaces. The probe guest therefore has as many as the guest that is to follow, on
//! the same bridges and with the same scripts.

use std::io;

use lull_xen::DomId;
use lull_xen::xenstore::Xenstore;

/// The most interfaces copied from a guest; Linux has no room for more event channels.
const MAX_INTERFACES: usize = 64;

/// An interface as in xl's configuration; an empty one has xl's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    bridge: Option<String>,
    script: Option<String>,
    /// The driver domain's name.
    backend: Option<String>,
}

impl Interface {
    /// The interfaces of a guest on this host.
    ///
    /// They are read where only the toolstack writes, from libxl's own copy of what it wrote
    /// for the backend. In its own folder of xenstore the guest, or a driver domain, could name
    /// any bridge and any program.
    ///
    /// # Errors
    /// If xenstore does not answer, or a value cannot be put into a configuration. No value
    /// is left out: without its `backend=` a driver domain's script would run in dom0.
    pub fn of(store: &mut Xenstore, domid: DomId) -> io::Result<Vec<Self>> {
        let folder = format!("/libxl/{domid}/device/vif");
        let mut found = Vec::new();
        for device in store.list(&folder)?.into_iter().take(MAX_INTERFACES) {
            let mut read = |path: &str| store.read(path);
            let Some(path) = read(&format!("{folder}/{device}/backend"))? else {
                continue;
            };
            let interface = Self {
                bridge: read(&format!("{folder}/{device}/bridge"))?,
                script: read(&format!("{folder}/{device}/script"))?,
                backend: match driver_domain(&path) {
                    Some(domain) => {
                        let name = read(&format!("/local/domain/{domain}/name"))?;
                        Some(name.unwrap_or_default())
                    }
                    None => None,
                },
            };
            interface.check()?;
            found.push(interface);
        }
        Ok(found)
    }

    fn check(&self) -> io::Result<()> {
        for (name, value) in self.parts() {
            if value.is_some_and(|value| !is_plain(value)) {
                let value = value.unwrap_or_default().escape_debug();
                let why = format!("an interface's {name} is \"{value}\", which xl cannot be told");
                return Err(io::Error::other(why));
            }
        }
        Ok(())
    }

    fn parts(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("bridge", self.bridge.as_deref()),
            ("script", self.script.as_deref()),
            ("backend", self.backend.as_deref()),
        ]
    }

    /// The script that libxl runs when the interface is added or removed.
    pub fn script(&self) -> Option<&str> {
        self.script.as_deref()
    }

    /// The interface as an element of xl's `vif` list.
    pub fn to_config(&self) -> String {
        let parts = self.parts().into_iter();
        let parts: Vec<String> = parts
            .filter_map(|(name, value)| Some(format!("{name}={}", value?)))
            .collect();
        format!("\"{}\"", parts.join(","))
    }
}

/// The domain that serves the device, unless it is dom0, from
/// `/local/domain/BACKEND/backend/vif/GUEST/DEVICE`.
fn driver_domain(path: &str) -> Option<DomId> {
    let domain = path.strip_prefix("/local/domain/")?.split('/').next()?;
    domain.parse().ok().filter(|domain| *domain != 0)
}

/// Whether the value contains nothing that would end a string or begin another option.
fn is_plain(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    !value.is_empty() && value.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_says_what_is_known_of_it() {
        assert_eq!(Interface::default().to_config(), r#""""#);
        let interface = Interface {
            bridge: Some("xenbr0".to_owned()),
            script: Some("/etc/xen/scripts/vif-bridge".to_owned()),
            backend: None,
        };
        assert_eq!(
            interface.to_config(),
            r#""bridge=xenbr0,script=/etc/xen/scripts/vif-bridge""#
        );
    }

    #[test]
    fn what_xl_cannot_be_told_is_refused_and_not_left_out() {
        for odd in ["", "a\"", "a,b", "a\nb", "$(x)", "a b"] {
            for (bridge, backend) in [(Some(odd), None), (None, Some(odd))] {
                let interface = Interface {
                    bridge: bridge.map(str::to_owned),
                    backend: backend.map(str::to_owned),
                    ..Interface::default()
                };
                assert!(interface.check().is_err(), "{odd:?}");
            }
        }
        assert!(Interface::default().check().is_ok());
    }

    #[test]
    fn a_driver_domain_is_found_in_the_backends_path() {
        assert_eq!(driver_domain("/local/domain/5/backend/vif/7/0"), Some(5));
        assert_eq!(driver_domain("/local/domain/0/backend/vif/7/0"), None);
        assert_eq!(driver_domain("nonsense"), None);
    }
}
