//! The network interfaces of the throw-away guest. Most of a landing is the
//! destination's work on them, so they are as many, on the same bridges and by
//! the same scripts, as those of the guest that is to follow.

use std::io;

use crate::xen::DomId;
use crate::xen::xenstore::Xenstore;

/// Interfaces copied from a guest; Linux has room for no more channels.
const MOST: usize = 64;

/// An interface, as xl's configuration describes it; empty: by xl's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    bridge: Option<String>,
    script: Option<String>,
    /// The driver domain's name.
    backend: Option<String>,
}

impl Interface {
    /// Those of a guest on this host.
    ///
    /// Read where only the toolstack writes: in the guest's own folder of
    /// xenstore it could name any path.
    ///
    /// # Errors
    /// When xenstore does not answer.
    pub fn of(guest: DomId) -> io::Result<Vec<Self>> {
        let mut store = Xenstore::open()?;
        let folder = format!("/libxl/{guest}/device/vif");
        let mut found = Vec::new();
        for device in store.list(&folder)?.into_iter().take(MOST) {
            let Some(path) = store.read(&format!("{folder}/{device}/backend"))? else {
                continue;
            };
            found.push(Self {
                bridge: store.read(&format!("{path}/bridge"))?,
                script: store.read(&format!("{path}/script"))?,
                backend: match driver_domain(&path) {
                    Some(domain) => store.read(&format!("/local/domain/{domain}/name"))?,
                    None => None,
                },
            });
        }
        Ok(found)
    }

    /// What libxl runs when it comes or goes.
    pub fn script(&self) -> Option<&str> {
        self.script.as_deref()
    }

    /// As an element of xl's `vif`.
    pub fn to_config(&self) -> String {
        let parts = [
            ("bridge", &self.bridge),
            ("script", &self.script),
            ("backend", &self.backend),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter_map(|(name, value)| {
                let value = value.as_deref().filter(|value| is_plain(value))?;
                Some(format!("{name}={value}"))
            })
            .collect();
        format!("\"{}\"", parts.join(","))
    }
}

/// The domain that serves the device, unless dom0 does: from
/// `/local/domain/BACKEND/backend/vif/GUEST/DEVICE`.
fn driver_domain(path: &str) -> Option<DomId> {
    let domain = path.strip_prefix("/local/domain/")?.split('/').next()?;
    domain.parse().ok().filter(|domain| *domain != 0)
}

/// Nothing that would end a string or begin another option.
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
    fn nothing_but_a_name_gets_into_the_configuration() {
        for odd in ["", "a\"", "a,b", "a\nb", "$(x)", "a b"] {
            let interface = Interface {
                bridge: Some(odd.to_owned()),
                ..Interface::default()
            };
            assert_eq!(interface.to_config(), r#""""#, "{odd:?}");
        }
    }

    #[test]
    fn a_driver_domain_is_found_in_the_backends_path() {
        assert_eq!(driver_domain("/local/domain/5/backend/vif/7/0"), Some(5));
        assert_eq!(driver_domain("/local/domain/0/backend/vif/7/0"), None);
        assert_eq!(driver_domain("nonsense"), None);
    }
}
