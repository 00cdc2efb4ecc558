//! Which Xen this is, and what its interface is called there.
//!
//! A new Xen is an entry in [`KNOWN`], not a rewrite: between the releases
//! listed only these numbers differ.

use std::{fmt, fs, io};

/// A release of Xen and its interface versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// `XENVER_version >> 16`.
    pub major: u32,
    /// `XENVER_version & 0xffff`.
    pub minor: u32,
    /// `XEN_DOMCTL_INTERFACE_VERSION` (`xen/include/public/domctl.h`).
    pub domctl: u32,
    /// `struct xen_domctl_createdomain` has `altp2m_opts` (since 4.19) before
    /// `vmtrace_size`.
    pub has_altp2m_opts: bool,
}

/// The releases lull knows, oldest first.
pub const KNOWN: [Version; 6] = [
    entry(17, 0x15, false),
    entry(18, 0x16, false),
    entry(19, 0x17, true),
    entry(20, 0x17, true),
    entry(21, 0x17, true),
    entry(22, 0x18, true),
];

const fn entry(minor: u32, domctl: u32, has_altp2m_opts: bool) -> Version {
    Version {
        major: 4,
        minor,
        domctl,
        has_altp2m_opts,
    }
}

/// Why the version is not usable.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// No hypervisor, or its version cannot be read.
    #[error("this is not a Xen host, or its version cannot be read from {path}: {source}")]
    Unreadable {
        /// The file in sysfs.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A Xen lull has no entry for.
    #[error("Xen {major}.{minor} is not known to this lull, which knows {}", Range)]
    Unknown {
        /// As read.
        major: u32,
        /// As read.
        minor: u32,
    },
}

/// The known range, for messages.
struct Range;

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([first, .., last], ..) = (KNOWN,);
        write!(f, "{first} to {last}")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Finds the running hypervisor's version in the table.
///
/// # Errors
/// When there is no Xen, or none that is known.
pub fn detect() -> Result<Version, VersionError> {
    lookup(number("major")?, number("minor")?)
}

fn number(name: &str) -> Result<u32, VersionError> {
    let path = format!("/sys/hypervisor/version/{name}");
    let read = fs::read_to_string(&path).and_then(|text| {
        let number = text.trim().parse();
        number.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    read.map_err(|source| VersionError::Unreadable { path, source })
}

fn lookup(major: u32, minor: u32) -> Result<Version, VersionError> {
    let known = KNOWN
        .into_iter()
        .find(|version| (version.major, version.minor) == (major, minor));
    known.ok_or(VersionError::Unknown { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_ends_are_found_and_what_lies_beyond_is_refused_by_name() {
        assert_eq!(lookup(4, 17).unwrap().domctl, 0x15);
        assert_eq!(lookup(4, 22).unwrap().domctl, 0x18);
        let error = lookup(4, 23).unwrap_err().to_string();
        assert!(error.contains("Xen 4.23"), "{error}");
        assert!(error.contains("4.17 to 4.22"), "{error}");
    }
}
