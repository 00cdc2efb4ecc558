//! Detects the version of Xen, and lists the differences between the versions that lull
//! knows.
//!
//! Support for a new Xen is a new entry in [`KNOWN`], not a rewrite. Where releases
//! differ but one way to call works on all of them, there is no table entry. The code
//! that makes the call documents the difference:
//!
//! - `XEN_DOMCTL_getdomaininfo` continues with the next domain up to 4.17, and answers
//!   for exactly one domain since 4.18 (`xen/common/domctl.c`). [`Xen::domain_info`]
//!   handles both; [`Xen::domains`] lists all domains.
//! - `XEN_DOMCTL_createdomain` takes domid 0 as "any free one" up to 4.21, and only
//!   `DOMID_ANY` since 4.22 (`xen/common/domid.c`). `DOMID_ANY` works on all of them.
//! - `struct xen_domctl_createdomain` has four bytes for altp2m before `vmtrace_size`
//!   since 4.19 (`xen/include/public/domctl.h`): `altp2m_opts`, and since 4.21
//!   `altp2m.opts` and `altp2m.nr`. lull sets everything from there on to zero.
//! - `XEN_DOMCTL_shadow_op` on a domain that is being destroyed returns 0 and writes
//!   nothing up to 4.17, and returns -EINVAL since 4.18 (`xen/arch/x86/mm/paging.c`).
//!   [`Xen::dirty_count`] recognises both.
//! - Since 4.22 the dirty count falls when the guest gives a dirty page back
//!   (`xen/arch/x86/mm/p2m.c`); earlier it only rose. No code here depends on either.
//! - `XEN_DOMCTL_sethvmcontext` checks all entries before it loads any since 4.19
//!   (`xen/arch/x86/hvm/save.c`). A later failure is still possible, so lull never
//!   starts a copy whose state was refused.
//!
//! [`Xen::domain_info`]: super::Xen::domain_info
//! [`Xen::domains`]: super::Xen::domains
//! [`Xen::dirty_count`]: super::Xen::dirty_count

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
    /// `XEN_SYSCTL_INTERFACE_VERSION` (`xen/include/public/sysctl.h`), which changed in
    /// 4.21.
    pub sysctl: u32,
    /// Whether lull has been run on this release.
    pub seen: Seen,
}

/// How lull knows a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// lull's tests have been run on it.
    Run,
    /// lull knows the release only from its headers and its source.
    FromHeaders,
}

/// The releases lull knows, oldest first.
pub const KNOWN: [Version; 6] = [
    entry(17, 0x15, 0x15, Seen::Run),
    entry(18, 0x16, 0x15, Seen::FromHeaders),
    entry(19, 0x17, 0x15, Seen::FromHeaders),
    entry(20, 0x17, 0x15, Seen::Run),
    entry(21, 0x17, 0x16, Seen::FromHeaders),
    entry(22, 0x18, 0x16, Seen::FromHeaders),
];

const fn entry(minor: u32, domctl: u32, sysctl: u32, seen: Seen) -> Version {
    Version {
        major: 4,
        minor,
        domctl,
        sysctl,
        seen,
    }
}

/// Why the version is not usable.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// There is no hypervisor, or its version cannot be read.
    #[error("this is not a Xen host, or its version cannot be read from {path}: {source}")]
    Unreadable {
        /// The file in sysfs that could not be read.
        path: String,
        /// The error of reading the file.
        source: io::Error,
    },
    /// lull has no entry for this Xen.
    #[error("Xen {major}.{minor} is not known to this lull, which knows {}", Range)]
    Unknown {
        /// The major version of the running Xen.
        major: u32,
        /// The minor version of the running Xen.
        minor: u32,
    },
}

/// The range of known releases, for messages.
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
/// Returns an error if there is no Xen, or if its version is not known.
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
