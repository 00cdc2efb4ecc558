//! Finds the guest's frames that have a page, which make up the bitmap of round 0.

use std::io;

use lull_xen::buffer::HypercallBuffer;
use lull_xen::domctl::{PAGE_TYPES_MAX, is_populated};
use lull_xen::{DomId, Xen};

/// The frames below `guest_pfns` that have a page, as a bitmap and a count.
///
/// The query costs Xen as much time as that of the stock sender's first pass.
///
/// # Errors
/// When Xen refuses the query.
pub fn populated(xen: &Xen, guest: DomId, guest_pfns: u64) -> io::Result<(Vec<u64>, u64)> {
    let mut types = HypercallBuffer::<u64>::new(PAGE_TYPES_MAX)?;
    let mut words = vec![0; guest_pfns.div_ceil(64) as usize];
    let mut count = 0;
    for first in (0..guest_pfns).step_by(PAGE_TYPES_MAX) {
        let pfns = first..guest_pfns.min(first + PAGE_TYPES_MAX as u64);
        let asked = (pfns.end - pfns.start) as usize;
        for (entry, pfn) in types.iter_mut().zip(pfns.clone()) {
            *entry = pfn;
        }
        xen.page_types(guest, &mut types, asked)?;
        for (page_type, pfn) in types.iter().zip(pfns) {
            if is_populated(*page_type) {
                words[(pfn / 64) as usize] |= 1 << (pfn % 64);
                count += 1;
            }
        }
    }
    Ok((words, count))
}

/// Whether at least one of these frames has a page. `pfns` holds at most one batch.
///
/// # Errors
/// When Xen refuses the query.
pub fn any_populated(xen: &Xen, guest: DomId, pfns: &[u64]) -> io::Result<bool> {
    let mut types = HypercallBuffer::<u64>::new(pfns.len())?;
    types[..pfns.len()].copy_from_slice(pfns);
    xen.page_types(guest, &mut types, pfns.len())?;
    Ok(types[..pfns.len()].iter().any(|kind| is_populated(*kind)))
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
