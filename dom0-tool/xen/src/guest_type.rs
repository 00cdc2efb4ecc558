//! The types of guests, as libxl keeps them in xenstore.

use std::io;

use crate::DomId;
use crate::xenstore::Xenstore;

/// A guest's type (`/libxl/<domid>/type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestType {
    /// Hardware virtualisation without a device model.
    Pvh,
    /// Without hardware virtualisation.
    Pv,
    /// Hardware virtualisation with a device model.
    Hvm,
    /// Something else; empty if libxl does not know the domain.
    Unknown(String),
}

impl GuestType {
    /// Reads the type of a guest on this host.
    ///
    /// # Errors
    /// When xenstore does not answer.
    pub fn of(store: &mut Xenstore, domid: DomId) -> io::Result<Self> {
        let written = store.read(&format!("/libxl/{domid}/type"))?;
        Ok(Self::named(&written.unwrap_or_default()))
    }

    fn named(name: &str) -> Self {
        match name {
            "pvh" => Self::Pvh,
            "pv" => Self::Pv,
            "hvm" => Self::Hvm,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::GuestType::{self, Hvm, Pv, Pvh, Unknown};

    #[test]
    fn libxls_names_are_known() {
        let types = ["pvh", "pv", "hvm", "", "pvh2"].map(GuestType::named);
        let others = ["", "pvh2"].map(|name| Unknown(name.to_owned()));
        assert_eq!(types[..3], [Pvh, Pv, Hvm]);
        assert_eq!(types[3..], others);
    }
}
