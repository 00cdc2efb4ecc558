//! The memory that dom0 has mapped, and the routines that libcore requires.

use core::arch::asm;
use core::slice;

use lull_core::batch::BATCH_PAGES;
use lull_core::link::{
    BITMAP_BYTES_MAX, BITMAP_VA, LINK_VA, Link, PAYLOAD_VA, SLOT_BYTES, SLOTS, WINDOW_VA,
};
use lull_core::units::PAGE_SIZE;

/// Returns the link between dom0 and the stub.
pub fn link() -> &'static Link {
    // SAFETY: the builder maps these pages, zeroed, for as long as the domain lives; all of
    // it is atomics, so dom0's writes are no data race.
    unsafe { &*(LINK_VA as *const Link) }
}

/// Returns the bitmap of the round, which has `words` words. The reference must be dropped
/// before dom0 is asked for the next bitmap, because dom0 writes there.
pub fn bitmap<'round>(words: usize) -> &'round [u64] {
    assert!(words as u64 <= BITMAP_BYTES_MAX / 8, "bitmap too long");
    // SAFETY: the builder maps as many pages as the settings' guest_pfns need, and `words`
    // is computed from it; dom0 writes them only between a request for a bitmap and its
    // answer, when nothing holds the slice.
    unsafe { slice::from_raw_parts(BITMAP_VA as *const u64, words) }
}

/// Copies `pages` pages of a slot's window, from page `from` on, to its payload, from page
/// `to` on.
///
/// The guest may write the window's pages during the copy. The copy uses instructions that
/// the compiler does not interpret, and a page that changes is dirty again and will be sent
/// again.
pub fn copy_pages(slot: usize, from: usize, to: usize, pages: usize) {
    assert!(slot < SLOTS, "no such slot");
    assert!(
        from <= BATCH_PAGES && to <= BATCH_PAGES && pages <= BATCH_PAGES - from.max(to),
        "more pages than a slot has"
    );
    let bytes = pages as u64 * PAGE_SIZE;
    let from = WINDOW_VA + slot as u64 * SLOT_BYTES + from as u64 * PAGE_SIZE;
    let to = PAYLOAD_VA + slot as u64 * SLOT_BYTES + to as u64 * PAGE_SIZE;
    // SAFETY: dom0 has mapped the pages at `from` and sent a message about it; `to` is the
    // stub's own memory, which only dom0 reads. Both lie within the slot.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") bytes / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Whether a page of a slot's window is all zero. The answer is known at its first word that
/// is not, which is the first one of most pages.
pub fn is_zero(slot: usize, page: usize) -> bool {
    assert!(slot < SLOTS && page < BATCH_PAGES, "no such page");
    let page = WINDOW_VA + slot as u64 * SLOT_BYTES + page as u64 * PAGE_SIZE;
    (page..page + PAGE_SIZE).step_by(8).all(|word| {
        // SAFETY: dom0 has mapped the page and sent a message about it. The read is
        // volatile, because the guest may write to the page meanwhile.
        unsafe { (word as *const u64).read_volatile() == 0 }
    })
}

/// # Safety
/// The conditions are those of C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller guarantees the conditions of `memcpy`.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") count => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// # Safety
/// The conditions are those of C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: `to` does not lie within the source, so a forward copy is right.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller guarantees the conditions of `memmove`. The copy runs backwards,
    // because `to` overlaps the source's end. The direction flag is restored.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") count => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    to
}

/// # Safety
/// The conditions are those of C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller guarantees the conditions of `memset`.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") count => _,
            inout("rdi") to => _,
            in("al") byte as u8,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// # Safety
/// The conditions are those of C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for i in 0..count {
        // The reads are volatile, because the compiler would otherwise make this loop a
        // call of memcmp.
        // SAFETY: the caller guarantees the conditions of `memcmp`.
        let x = unsafe { a.wrapping_add(i).read_volatile() };
        // SAFETY: as above.
        let y = unsafe { b.wrapping_add(i).read_volatile() };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// The conditions are those of C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller guarantees the conditions of `bcmp`, which are those of `memcmp`.
    unsafe { memcmp(a, b, count) }
}
