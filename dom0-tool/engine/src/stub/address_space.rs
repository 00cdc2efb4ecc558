//! Lays out the stub's page tables before the domain exists.
//!
//! Four levels of 512 entries each. A table is a page like any other of the
//! domain; the tables themselves are mapped nowhere in it, so the stub can
//! neither read nor change them.

use std::collections::BTreeMap;

use lull_core::link::{
    BITMAP_VA, LINK_PAGES, LINK_VA, PAYLOAD_VA, SHARED_INFO_VA, SLOT_BYTES, SLOTS, STACK_BYTES,
    STACK_END_VA, WINDOW_VA,
};
use lull_xen::PAGE;
use lull_xen::mmu::pte;

use super::image::{Access, Image};

const ENTRIES: usize = 512;

/// What a virtual page of the stub maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// A page of the domain, by its pfn.
    Page(usize),
    /// Xen's shared_info page of the domain.
    SharedInfo,
    /// Empty at first; dom0 maps foreign frames here later.
    Window,
}

/// The layout of the domain: the use of each page, and the address that maps it.
pub struct AddressSpace {
    mappings: Vec<(u64, Behind, u64)>,
    /// First pfn of the pages shared with dom0: link, bitmap, payload.
    pub shared_pfn: usize,
    /// The number of pages of the bitmap.
    pub bitmap_pages: usize,
    /// The number of pages in front of the page tables.
    content_pages: usize,
    /// The page tables by level (1 is the last) and first address covered, in the order of
    /// their pfns.
    tables: Vec<(u32, u64)>,
}

/// The number of addresses that one table of `level` covers.
const fn span(level: u32) -> u64 {
    (PAGE as u64) << (9 * level)
}

/// Index of `va` in its table of `level`.
fn index(va: u64, level: u32) -> usize {
    (va / span(level - 1)) as usize % ENTRIES
}

impl AddressSpace {
    /// The layout of [`lull_core::link`], for a guest of `guest_pfns` frames.
    pub fn new(image: &Image, guest_pfns: u64) -> Self {
        const NX: u64 = pte::NO_EXECUTE;
        let mut space = Self {
            mappings: Vec::new(),
            shared_pfn: 0,
            bitmap_pages: guest_pfns.div_ceil(8 * PAGE as u64) as usize,
            content_pages: 0,
            tables: Vec::new(),
        };
        for segment in &image.segments {
            let rights = match segment.access {
                Access::Code => 0,
                Access::ReadOnly => NX,
                Access::Data => NX | pte::WRITABLE,
            };
            let bytes = segment.pages.end - segment.pages.start;
            space.add_pages(segment.pages.start, bytes, rights);
        }
        let data = NX | pte::WRITABLE;
        space.add_pages(STACK_END_VA - STACK_BYTES, STACK_BYTES, data);
        space
            .mappings
            .push((SHARED_INFO_VA, Behind::SharedInfo, data));
        space.shared_pfn = space.content_pages;
        space.add_pages(LINK_VA, LINK_PAGES * PAGE as u64, data);
        space.add_pages(BITMAP_VA, (space.bitmap_pages * PAGE) as u64, data);
        let slots = SLOTS as u64 * SLOT_BYTES;
        space.add_pages(PAYLOAD_VA, slots, data);
        for va in (WINDOW_VA..WINDOW_VA + slots).step_by(PAGE) {
            space.mappings.push((va, Behind::Window, 0));
        }
        let mut tables: Vec<_> = (1..=4)
            .flat_map(|level| {
                let starts = space
                    .mappings
                    .iter()
                    .map(move |(va, ..)| va - va % span(level));
                starts.map(move |start| (level, start))
            })
            .collect();
        tables.sort_unstable();
        tables.dedup();
        space.tables = tables;
        space
    }

    fn add_pages(&mut self, va: u64, bytes: u64, rights: u64) {
        for va in (va..va + bytes).step_by(PAGE) {
            let page = Behind::Page(self.content_pages);
            self.mappings.push((va, page, rights));
            self.content_pages += 1;
        }
    }

    /// The number of pages that the domain needs.
    pub fn pages(&self) -> usize {
        self.content_pages + self.tables.len()
    }

    /// The pfns of link, bitmap and payload, in that order.
    pub fn shared_pfns(&self) -> std::ops::Range<usize> {
        self.shared_pfn..self.content_pages
    }

    /// The pfn of the page at `va`, which must be one of the domain's own.
    pub fn pfn_at(&self, va: u64) -> usize {
        let found = self.mappings.iter().find(|mapping| mapping.0 == va);
        match found {
            Some((_, Behind::Page(pfn), _)) => *pfn,
            _ => unreachable!("no page of the stub at {va:#x}"),
        }
    }

    /// The pfns of the page tables.
    pub fn table_pfns(&self) -> std::ops::Range<usize> {
        self.content_pages..self.pages()
    }

    fn table_pfn(&self, level: u32, va: u64) -> usize {
        let wanted = (level, va - va % span(level));
        let found = self.tables.binary_search(&wanted);
        self.content_pages + found.expect("every address has its tables")
    }

    /// The root table's pfn.
    pub fn root_pfn(&self) -> usize {
        self.table_pfn(4, 0)
    }

    /// Machine address of the entry that maps `va`.
    pub fn entry_address(&self, va: u64, mfns: &[u64]) -> u64 {
        let table = mfns[self.table_pfn(1, va)];
        table * PAGE as u64 + (index(va, 1) * size_of::<u64>()) as u64
    }

    /// The tables' contents, in the order of [`Self::table_pfns`]; `mfns` are
    /// the machine frames of the domain's pages by pfn.
    pub fn table_contents(&self, mfns: &[u64], shared_info: u64) -> Vec<[u64; ENTRIES]> {
        const BELOW: u64 = pte::PRESENT | pte::ACCESSED | pte::USER | pte::WRITABLE | pte::DIRTY;
        const LEAF: u64 = pte::PRESENT | pte::ACCESSED | pte::DIRTY;
        let mut contents: BTreeMap<usize, [u64; ENTRIES]> =
            self.table_pfns().map(|pfn| (pfn, [0; ENTRIES])).collect();
        let mut set = |table: usize, index: usize, value: u64| {
            if let Some(entries) = contents.get_mut(&table) {
                entries[index] = value;
            }
        };
        for (va, behind, rights) in &self.mappings {
            let frame = match behind {
                Behind::Page(pfn) => mfns[*pfn],
                Behind::SharedInfo => shared_info,
                Behind::Window => continue,
            };
            let entry = (frame * PAGE as u64) | LEAF | rights;
            set(self.table_pfn(1, *va), index(*va, 1), entry);
        }
        for (level, start) in self.tables.iter().filter(|(level, _)| *level < 4) {
            let frame = mfns[self.table_pfn(*level, *start)];
            let parent = self.table_pfn(level + 1, *start);
            set(
                parent,
                index(*start, level + 1),
                (frame * PAGE as u64) | BELOW,
            );
        }
        contents.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the processor does, and returns the entry for `va`.
    fn walk(space: &AddressSpace, tables: &[[u64; ENTRIES]], va: u64) -> Option<u64> {
        let mut pfn = space.root_pfn();
        for level in (1..=4).rev() {
            let table = &tables[pfn - space.table_pfns().start];
            let entry = table[index(va, level)];
            if entry & pte::PRESENT == 0 {
                return None;
            }
            if level == 1 {
                return Some(entry);
            }
            // With mfn = pfn + 1000, the frame says which table is next.
            pfn = (entry >> 12 & 0xff_ffff_ffff) as usize - 1000;
        }
        None
    }

    #[test]
    fn every_place_of_the_link_is_mapped_with_its_rights_and_nothing_else_is() {
        let image = Image::embedded().unwrap();
        let space = AddressSpace::new(&image, 100_000);
        let mfns: Vec<u64> = (0..space.pages() as u64).map(|pfn| pfn + 1000).collect();
        let tables = space.table_contents(&mfns, 77);
        let writable = |va| walk(&space, &tables, va).map(|entry| entry & pte::WRITABLE != 0);
        let no_execute = |va| walk(&space, &tables, va).map(|entry| entry & pte::NO_EXECUTE != 0);

        assert_eq!(writable(image.entry), Some(false));
        assert_eq!(no_execute(image.entry), Some(false));
        let last_slot = PAYLOAD_VA + SLOTS as u64 * SLOT_BYTES - PAGE as u64;
        for va in [STACK_END_VA - 8, LINK_VA, BITMAP_VA, PAYLOAD_VA, last_slot] {
            assert_eq!(writable(va), Some(true), "{va:#x}");
            assert_eq!(no_execute(va), Some(true), "{va:#x}");
        }
        assert_eq!(
            walk(&space, &tables, SHARED_INFO_VA).unwrap() >> 12 & 0xff,
            77
        );
        let below_stack = STACK_END_VA - STACK_BYTES - 1;
        let beyond_bitmap = BITMAP_VA + 4 * PAGE as u64;
        for va in [
            0,
            8,
            below_stack,
            beyond_bitmap,
            WINDOW_VA,
            LINK_VA + (64 << 20),
        ] {
            assert_eq!(walk(&space, &tables, va), None, "{va:#x}");
        }
    }

    #[test]
    fn without_slots_and_bitmap_the_stub_needs_little() {
        let image = Image::embedded().unwrap();
        let space = AddressSpace::new(&image, 1);
        let slots = SLOTS as u64 * SLOT_BYTES / PAGE as u64;
        let rest = (space.pages() as u64 - slots) * PAGE as u64;
        assert!(rest <= 1 << 20, "{rest} bytes");
    }
}
