//! `HYPERVISOR_sysctl`: the list of domains, and free memory
//! (`xen/include/public/sysctl.h`, 4.17).

use std::io;

use super::buffer::HypercallBuffer;
use super::domctl::DomainInfo;
use super::privcmd::{Xen, number};
use super::version::Version;
use super::{DOMID_FIRST_RESERVED, DomId, PAGE};

/// `XEN_SYSCTL_physinfo`, and the positions of `free_pages` and `outstanding_pages` in
/// words of 8 bytes from the start of the request.
const PHYSINFO: u32 = 3;
const FREE_PAGES: usize = 7;
const OUTSTANDING_PAGES: usize = 9;

/// `XEN_SYSCTL_getdomaininfolist`: the command that lists domains.
const GETDOMAININFOLIST: u32 = 6;

/// Maximum number of domains in one request.
const BATCH: usize = 64;

/// `struct xen_sysctl`, 136 bytes: a header of 8 with the command and the interface
/// version, then the command's own structure.
type Request = [u64; 17];

/// Builds a request for a command without arguments.
fn command(version: Version, command: u32) -> Request {
    let mut request = [0; 17];
    request[0] = u64::from(command) | u64::from(version.sysctl) << 32;
    request
}

/// Builds a request for the first [`BATCH`] domains from domid `first` on, which Xen
/// writes to `buffer`.
fn request(version: Version, first: DomId, buffer: u64) -> Request {
    let mut request = command(version, GETDOMAININFOLIST);
    request[1] = u64::from(first) | (BATCH as u64) << 32;
    request[2] = buffer;
    request
}

/// `num_domains`, which Xen sets to the number of domains written.
fn count_of(request: &Request) -> usize {
    request[3] as u32 as usize
}

impl Xen {
    /// Memory that no domain owns or has claimed, in bytes: `free_memory` of `xl info`.
    ///
    /// # Errors
    /// Returns Xen's errno.
    pub fn free_memory(&self) -> io::Result<u64> {
        let mut request = command(self.version, PHYSINFO);
        // SAFETY: the call takes this structure as argument 0 and fills it in.
        unsafe { self.hypercall_with(number::SYSCTL, [0; 5], 0, &mut request) }?;
        let pages = request[FREE_PAGES].saturating_sub(request[OUTSTANDING_PAGES]);
        Ok(pages.saturating_mul(PAGE as u64))
    }

    /// All domains in ascending order of domid, including dom0 and those that are being
    /// destroyed. A domain that is created or destroyed meanwhile may be missing.
    ///
    /// # Errors
    /// Returns Xen's errno, or an error if the answer is not a valid list.
    pub fn domains(&self) -> io::Result<Vec<DomainInfo>> {
        let buffer = HypercallBuffer::<u64>::new(BATCH * DomainInfo::WORDS)?;
        gather(|first| {
            let mut request = request(self.version, first, buffer.address());
            // SAFETY: the call takes one structure; Xen writes at most BATCH elements
            // to the buffer, which has room for them and no other user.
            unsafe { self.hypercall_with(number::SYSCTL, [0; 5], 0, &mut request) }?;
            batch(first, &buffer, count_of(&request))
        })
    }
}

/// Requests one batch after another. This terminates, because each batch begins above
/// the previous one.
fn gather(
    mut ask: impl FnMut(DomId) -> io::Result<Vec<DomainInfo>>,
) -> io::Result<Vec<DomainInfo>> {
    let mut domains = Vec::new();
    let mut first = 0;
    loop {
        let batch = ask(first)?;
        let is_full = batch.len() == BATCH;
        domains.extend(batch);
        match domains.last() {
            Some(last) if is_full => first = last.domain + 1,
            _ => return Ok(domains),
        }
    }
}

/// The `count` domains that Xen wrote to `words`. Their domids must ascend from
/// `first`.
fn batch(first: DomId, words: &[u64], count: usize) -> io::Result<Vec<DomainInfo>> {
    let (all, _) = words.as_chunks::<{ DomainInfo::WORDS }>();
    let batch: Option<Vec<_>> = all
        .get(..count)
        .map(|some| some.iter().map(DomainInfo::read).collect());
    let mut next = first;
    let in_order = |info: &DomainInfo| {
        let follows = (next..DOMID_FIRST_RESERVED).contains(&info.domain);
        next = info.domain.saturating_add(1);
        follows
    };
    batch
        .filter(|batch| batch.iter().all(in_order))
        .ok_or_else(|| io::Error::other("Xen's list of domains makes no sense"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::KNOWN;

    #[test]
    fn the_list_is_asked_for_with_the_bytes_each_xen_reads() {
        let expected = |version: u8| {
            let mut bytes = vec![6, 0, 0, 0, version, 0, 0, 0];
            bytes.extend([0x34, 0x12, 0, 0, 64, 0, 0, 0]);
            bytes.extend([0x00, 0x10, 0xde, 0xc0, 0xad, 0x7f, 0, 0]);
            bytes.resize(136, 0);
            bytes
        };
        let versions = [0x15, 0x15, 0x15, 0x15, 0x16, 0x16];
        for (known, version) in KNOWN.into_iter().zip(versions) {
            let request = request(known, 0x1234, 0x7fad_c0de_1000);
            let bytes: Vec<u8> = request.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert_eq!(bytes, expected(version), "Xen {known}");
        }
    }

    fn listed(domains: &[DomId]) -> Vec<u64> {
        let mut words = vec![0; BATCH * DomainInfo::WORDS];
        for (at, domain) in domains.iter().enumerate() {
            words[at * DomainInfo::WORDS] = u64::from(*domain) | 1 << 32;
        }
        words
    }

    fn numbers(infos: &[DomainInfo]) -> Vec<DomId> {
        infos.iter().map(|info| info.domain).collect()
    }

    #[test]
    fn more_domains_than_fit_at_once_are_all_listed() {
        let there: Vec<DomId> = (0..).step_by(3).take(2 * BATCH + 1).collect();
        let mut asked = Vec::new();
        let all = gather(|first| {
            asked.push(first);
            let some: Vec<DomId> = there
                .iter()
                .copied()
                .filter(|domain| *domain >= first)
                .take(BATCH)
                .collect();
            batch(first, &listed(&some), some.len())
        });
        assert_eq!(numbers(&all.unwrap()), there);
        assert_eq!(asked, [0, 190, 382]);
        assert!(gather(|_| Ok(Vec::new())).unwrap().is_empty());
    }

    #[test]
    fn an_answer_that_is_no_list_is_refused() {
        assert_eq!(
            numbers(&batch(2, &listed(&[2, 5, 0x7fef]), 3).unwrap()),
            [2, 5, 0x7fef]
        );
        for nonsense in [&[1][..], &[2, 2], &[5, 3], &[2, 0x7ff0]] {
            assert!(batch(2, &listed(nonsense), nonsense.len()).is_err());
        }
        assert!(batch(0, &listed(&[]), BATCH + 1).is_err());
        assert!(batch(0, &listed(&[]), usize::MAX).is_err());
    }
}
