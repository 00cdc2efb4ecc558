//! Finds the guest's frames that have a page, which make up the bitmap of round 0.

use std::io;

use lull_core::batch::BATCH_PAGES;

use super::domains::Domains;

/// The frames below `guest_pfns` that have a page, as a bitmap and a count.
///
/// The query costs Xen as much time as that of the stock sender's first pass.
///
/// # Errors
/// When Xen refuses the query.
pub fn populated(domains: &dyn Domains, guest_pfns: u64) -> io::Result<(Vec<u64>, u64)> {
    let mut words = vec![0; guest_pfns.div_ceil(64) as usize];
    let mut count = 0;
    for first in (0..guest_pfns).step_by(BATCH_PAGES) {
        let pfns: Vec<u64> = (first..guest_pfns.min(first + BATCH_PAGES as u64)).collect();
        for (populated, pfn) in domains.populated(&pfns)?.into_iter().zip(pfns) {
            if populated {
                words[(pfn / 64) as usize] |= 1 << (pfn % 64);
                count += 1;
            }
        }
    }
    Ok((words, count))
}

/// The frames whose bits are set, in ascending order.
pub fn listed(words: impl IntoIterator<Item = u64>) -> Vec<u64> {
    words
        .into_iter()
        .zip((0..).step_by(64))
        .flat_map(|(word, first)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| first + bit)
        })
        .collect()
}
