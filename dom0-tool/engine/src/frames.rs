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

/// The frames of a bitmap within the window of [`BATCH_PAGES`] frames that begins at `first`,
/// a multiple of that.
pub fn window(words: &[u64], first: u64) -> Vec<u64> {
    let from = usize::try_from(first / 64).unwrap_or(usize::MAX);
    let words = words.get(from..).unwrap_or_default();
    let within = listed(words.iter().copied().take(BATCH_PAGES / 64));
    within.into_iter().map(|pfn| first + pfn).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Receivers from Xen 4.21 on build a 2 MiB page of 512 frames in a row within a record.
    #[test]
    fn windows_are_aligned_whatever_holes_there_are() {
        let mut words = vec![u64::MAX; 40];
        words[3] = 0;
        words[20] = 0b101;
        let all = listed(words.iter().copied());
        let windows: Vec<_> = (0..3 * 1_024)
            .step_by(BATCH_PAGES)
            .map(|first| (first, window(&words, first)))
            .collect();
        for (first, window) in &windows {
            assert!(window.iter().all(|pfn| pfn / 1_024 * 1_024 == *first));
        }
        let together: Vec<u64> = windows.into_iter().flat_map(|(_, window)| window).collect();
        assert_eq!(together, all);
        assert!(window(&words, 9 * 1_024).is_empty());
    }
}
