//! The scan returns the same pages as bitvec's iterator, in batches.

use bitvec::{order::Lsb0, view::BitView};
use lull_core::{
    batch::{BATCH_PAGES, Batch, batch_pages},
    bitmap::{Bitmap, BitmapTooShort, Progress, Scan},
    units::Pfn,
};
use proptest::{collection::vec, prelude::*};

/// Returns every batch of a whole scan; all but the last are full.
fn batches(bitmap: &Bitmap<'_>) -> Vec<Vec<u64>> {
    let mut scan = Scan::new();
    let mut batches = Vec::new();
    loop {
        let mut batch = Batch::new();
        let progress = scan.fill(bitmap, &mut batch);
        batches.push(batch.as_slice().iter().map(|pfn| pfn.0).collect());
        match progress {
            Progress::BatchFull => assert!(batch.is_full()),
            Progress::Done => return batches,
        }
    }
}

fn oracle(words: &[u64], nr_pfns: usize) -> Vec<u64> {
    let bits = &words.view_bits::<Lsb0>()[..nr_pfns];
    bits.iter_ones().map(|pfn| pfn as u64).collect()
}

/// Generates clean runs, sparse words and full ones, as real bitmaps have them.
fn words() -> impl Strategy<Value = Vec<u64>> {
    let run = (
        prop_oneof![
            4 => Just(0),
            2 => Just(u64::MAX),
            1 => (0..64_u32).prop_map(|bit| 1 << bit),
            2 => any::<u64>(),
        ],
        1..24_usize,
    );
    vec(run, 0..12).prop_map(|runs| {
        let words = runs.into_iter().map(|(word, length)| vec![word; length]);
        words.flatten().collect()
    })
}

fn bitmap() -> impl Strategy<Value = (Vec<u64>, usize)> {
    words().prop_flat_map(|words| {
        let bits = words.len() * 64;
        (Just(words), 0..=bits)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn scan_is_bitvec_in_ascending_batches((words, nr_pfns) in bitmap()) {
        let bitmap = Bitmap::new(&words, nr_pfns as u64).unwrap();
        let batches = batches(&bitmap);
        for full in &batches[..batches.len() - 1] {
            prop_assert_eq!(full.len(), BATCH_PAGES);
        }
        let pfns = batches.concat();
        prop_assert!(pfns.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(bitmap.dirty_count(), pfns.len() as u64);
        prop_assert_eq!(pfns, oracle(&words, nr_pfns));
    }

    /// A batch may hold pfns already; the scan resumes at the place where the batch was
    /// full.
    #[test]
    fn scan_resumes_at_any_bit(
        (words, nr_pfns) in bitmap(),
        (limit, taken) in (1..=BATCH_PAGES).prop_flat_map(|limit| (Just(limit), 0..=limit)),
    ) {
        let bitmap = Bitmap::new(&words, nr_pfns as u64).unwrap();
        let mut batch = Batch::new();
        batch.set_limit(limit);
        for _ in 0..taken {
            batch.push(Pfn(0)).unwrap();
        }
        let mut scan = Scan::new();
        let mut pfns = Vec::new();
        while scan.fill(&bitmap, &mut batch) == Progress::BatchFull {
            prop_assert_eq!(batch.len(), limit);
            pfns.extend(batch.as_slice().iter().map(|pfn| pfn.0));
            batch.clear();
        }
        pfns.extend(batch.as_slice().iter().map(|pfn| pfn.0));
        prop_assert_eq!(&pfns[taken..], oracle(&words, nr_pfns));
    }

    #[test]
    fn typed_view_agrees((words, nr_pfns) in bitmap(), pfn in 0..20_000_u64) {
        let bitmap = Bitmap::new(&words, nr_pfns as u64).unwrap();
        prop_assert_eq!(bitmap.bits().unwrap().len(), nr_pfns);
        prop_assert_eq!(bitmap.is_dirty(Pfn(pfn)), oracle(&words, nr_pfns).contains(&pfn));
    }

    #[test]
    fn bitmap_never_promises_more_than_it_has(length in 0..100_usize, beyond in 1..u64::MAX) {
        let words = vec![u64::MAX; length];
        let nr_pfns = (length as u64 * 64).saturating_add(beyond);
        prop_assert_eq!(Bitmap::new(&words, nr_pfns).err(), Some(BitmapTooShort));
    }
}

/// Small rounds are cut into four, so that their parts overlap; large ones have full batches.
#[test]
fn small_round_is_cut_into_parts() {
    for (dirty, pages) in [(0, 64), (1, 64), (256, 64), (434, 109), (4_095, 1_024)] {
        assert_eq!(batch_pages(dirty), pages, "{dirty} dirty pages");
    }
    assert_eq!(batch_pages(u64::MAX), BATCH_PAGES);
}

#[test]
fn done_scan_stays_done() {
    let words = [u64::MAX; 3];
    let bitmap = Bitmap::new(&words, 130).unwrap();
    let mut scan = Scan::new();
    let mut batch = Batch::new();
    assert_eq!(scan.fill(&bitmap, &mut batch), Progress::Done);
    assert_eq!(batch.len(), 130);
    assert_eq!(scan.fill(&bitmap, &mut batch), Progress::Done);
    assert_eq!(batch.len(), 130);
}
