//! How libxl calls the script (`libxl_linux.c`, Xen 4.17): with a word for the action, with
//! `type_if=`, and with the device in the environment.

use std::ffi::{OsStr, OsString};

use lull_xen::DomId;

/// What to do with the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The interface was created, and the guest waits for it.
    Online,
    /// The interface is being removed.
    Offline,
}

/// A call that this script can handle itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub action: Action,
    /// The name that the backend gave to the interface.
    pub vif: String,
    /// The guest to which the interface belongs.
    pub domid: DomId,
    /// The number of the interface in the guest.
    pub device: u32,
    path: String,
}

impl Call {
    /// Parses the arguments after the script's name, and the environment.
    ///
    /// # Errors
    /// Why the call is not supported.
    pub fn read(
        words: &[OsString],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let words: Vec<&str> = words
            .iter()
            .filter_map(|word| OsStr::to_str(word))
            .collect();
        let action = match words.as_slice() {
            ["online"] | ["online", "type_if=vif"] => Action::Online,
            ["offline"] | ["offline", "type_if=vif"] => Action::Offline,
            // An emulated interface's own action (`add`, `remove`), or an unknown one.
            other => return Err(format!("called with {other:?}")),
        };
        let value = |name: &str| match environment(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("no {name} in the environment")),
        };
        let path = value("XENBUS_PATH")?;
        let (domid, device) =
            device_of(&path).ok_or_else(|| format!("no interface's path: {path}"))?;
        Ok(Self {
            action,
            vif: value("vif")?,
            domid,
            device,
            path,
        })
    }

    /// The backend's folder in xenstore. A relative path is below the folder of the domain
    /// in which this runs; xenstored resolves it in the same way.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// The guest and device from `…backend/vif/DOMID/DEVICE`.
fn device_of(path: &str) -> Option<(DomId, u32)> {
    let mut parts = path.rsplit('/');
    let device = parts.next()?.parse().ok()?;
    let domid = parts.next()?.parse().ok()?;
    let is_vif = parts.next() == Some("vif") && parts.next() == Some("backend");
    is_vif.then_some((domid, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str, environment: &[(&str, &str)]) -> Result<Call, String> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let value = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Call::read(&words, value)
    }

    const DEVICE: [(&str, &str); 2] = [("XENBUS_PATH", "backend/vif/7/1"), ("vif", "vif7.1")];

    #[test]
    fn libxls_call_is_understood() {
        let call = read("online type_if=vif", &DEVICE).unwrap();
        assert_eq!(call.action, Action::Online);
        assert_eq!((call.domid, call.device), (7, 1));
        assert_eq!(
            (call.vif.as_str(), call.path()),
            ("vif7.1", "backend/vif/7/1")
        );
        let call = read("offline", &DEVICE).unwrap();
        assert_eq!(call.action, Action::Offline);
        let whole = [
            ("XENBUS_PATH", "/local/domain/3/backend/vif/7/1"),
            DEVICE[1],
        ];
        assert_eq!(read("online", &whole).unwrap().domid, 7);
    }

    #[test]
    fn anything_else_is_not_ours() {
        for words in [
            "",
            "add type_if=tap",
            "online type_if=tap",
            "remove",
            "online type_if=vif bridge=x",
            "status",
        ] {
            assert!(read(words, &DEVICE).is_err(), "{words}");
        }
        for path in [
            "",
            "backend/vbd/7/1",
            "vif/7/1",
            "backend/vif/7",
            "backend/vif/x/1",
        ] {
            let odd = [("XENBUS_PATH", path), DEVICE[1]];
            assert!(read("online", &odd).is_err(), "{path}");
        }
        assert!(read("online", &DEVICE[..1]).is_err());
    }
}
