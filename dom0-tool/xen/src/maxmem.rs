//! The size that a guest may reach, as its toolstack configured it, whatever frame
//! numbers the guest uses.

use std::io;

use super::xenstore::Xenstore;
use super::{DomId, PAGE, Xen};

/// Number of frames below 4 GiB. A guest also has things other than memory there, so a
/// frame may lie there however little memory the guest has.
const LOW_FRAMES: u64 = 1 << 20;

/// Pages that the toolstack allows a guest beyond its memory (`LIBXL_MAXMEM_CONSTANT`,
/// `tools/libs/light/libxl_internal.h`, 4.17: 1 MiB).
const EXTRA_PAGES: u64 = 256;

/// A guest's `maxmem`, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maxmem(u64);

/// The number of frame numbers of a guest. The guest itself chooses the highest: see
/// `Maxmem::frames_up_to`.
///
/// # Errors
/// Returns an error if Xen or xenstore does not provide the value, or if the guest has
/// mapped a frame far beyond its memory.
pub fn guest_frames(xen: &Xen, domid: DomId) -> io::Result<u64> {
    let highest = xen.maximum_gpfn(domid)?;
    let maxmem = Xenstore::open().and_then(|mut store| Maxmem::of(&mut store, domid));
    let unknown = |error| io::Error::other(format!("its maxmem is not known: {error}"));
    maxmem.map_err(unknown)?.frames_up_to(highest)
}

impl Maxmem {
    /// Reads a domain's `maxmem` from xenstore.
    ///
    /// # Errors
    /// Returns an error if xenstore does not provide the value.
    pub fn of(store: &mut Xenstore, domain: DomId) -> io::Result<Self> {
        let path = format!("/local/domain/{domain}/memory/static-max");
        let maxmem = store.read(&path)?.and_then(|kib| Self::from_kib(&kib));
        maxmem.ok_or_else(|| io::Error::other("xenstore does not have it"))
    }

    fn from_kib(kib: &str) -> Option<Self> {
        let kib: u64 = kib.trim_end_matches('\0').parse().ok()?;
        Some(Self(kib / (PAGE as u64 / 1024)))
    }

    /// The highest frame number that the guest may use, plus one.
    pub const fn frames(self) -> u64 {
        self.0.saturating_add(LOW_FRAMES)
    }

    /// The number of pages that the guest may have, including those of its platform.
    pub const fn pages(self) -> u64 {
        self.0.saturating_add(EXTRA_PAGES)
    }

    /// The `maxmem` in MiB, for messages.
    pub const fn mib(self) -> u64 {
        self.0 / (1024 * 1024 / PAGE as u64)
    }

    /// The number of frame numbers of a guest whose highest is `highest`. A guest may
    /// map a page at any number, but that must not make lull's per-frame lists equally
    /// long.
    ///
    /// # Errors
    /// Returns an error if that is more than the guest may have.
    fn frames_up_to(self, highest: u64) -> io::Result<u64> {
        match highest.checked_add(1) {
            Some(frames) if frames <= self.frames() => Ok(frames),
            _ => Err(io::Error::other(format!(
                "it has mapped frame {highest:#x}, far beyond its maxmem of {} MiB",
                self.mib()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_becomes_no_larger_than_it_is_configured() {
        let maxmem = Maxmem::from_kib("262144").unwrap();
        assert_eq!(maxmem.pages(), 65_536 + 256);
        assert_eq!(maxmem.frames(), 65_536 + (1 << 20));
        assert_eq!(maxmem.mib(), 256);
        for none in ["", "-1", "256 MiB"] {
            assert_eq!(Maxmem::from_kib(none), None);
        }
        assert!(Maxmem::from_kib(&u64::MAX.to_string()).unwrap().frames() > 0);
    }

    #[test]
    fn a_frame_far_beyond_its_memory_is_no_reason_for_long_lists() {
        let maxmem = Maxmem::from_kib("262144").unwrap();
        assert_eq!(maxmem.frames_up_to(0xf_ffff).unwrap(), 1 << 20);
        let most = maxmem.frames();
        assert_eq!(maxmem.frames_up_to(most - 1).unwrap(), most);
        for far in [most, 0x7fff_ffff, u64::MAX] {
            let error = maxmem.frames_up_to(far).unwrap_err();
            assert!(error.to_string().contains("256 MiB"), "{error}");
        }
    }
}
