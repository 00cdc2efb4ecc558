//! One page that can be verified: it contains its index and its version, every other word
//! is computed from them, and a checksum is at the end.

/// The number of 64-bit words in a page.
const WORDS: usize = 512;

/// The positions of the index (word 0), the version (word 1) and the checksum (the last
/// word).
const INDEX: usize = 0;
const VERSION: usize = 1;
const CHECKSUM: usize = WORDS - 1;

/// The distance between words that depend on the version. A write touches only these words,
/// so that a high rate costs little processor time.
const STRIDE: usize = 32;

/// The kind of damage of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The page has another index, or is no page at all.
    Index,
    /// The page is intact, but has another version than the last one written: a write was
    /// lost.
    Version,
    /// The words of the page do not match each other.
    Content,
}

/// The number of bytes in a page.
pub const BYTES: usize = WORDS * size_of::<u64>();

/// The bytes of a page, aligned for a device that bypasses the page cache.
#[repr(C, align(4096))]
#[derive(Clone)]
pub struct Block(pub [u8; BYTES]);

/// One page of the model.
#[repr(C, align(4096))]
#[derive(Clone)]
pub struct Page([u64; WORDS]);

impl Page {
    /// Returns the page with that index as it is before the first write.
    pub fn new(index: u64) -> Self {
        let mut page = Self([0; WORDS]);
        for (position, word) in page.0.iter_mut().enumerate() {
            *word = filler(index, position);
        }
        page.0[INDEX] = index;
        page.write(0);
        page
    }

    /// Reads a page from a block, whatever its content.
    pub fn from_block(block: &Block) -> Self {
        let mut page = Self([0; WORDS]);
        let (words, _) = block.0.as_chunks();
        for (word, bytes) in page.0.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        page
    }

    /// Returns the page as it is written to a disk.
    pub fn to_block(&self) -> Block {
        let mut block = Block([0; BYTES]);
        let (words, _) = block.0.as_chunks_mut();
        for (word, bytes) in self.0.iter().zip(words) {
            *bytes = word.to_le_bytes();
        }
        block
    }

    /// Writes a version into the page.
    pub fn write(&mut self, version: u64) {
        let index = self.0[INDEX];
        self.0[VERSION] = version;
        let mut sum = checksum_of(index, version);
        for position in (STRIDE..CHECKSUM).step_by(STRIDE) {
            let word = versioned(index, version, position);
            self.0[position] = word;
            sum = sum.wrapping_add(word);
        }
        self.0[CHECKSUM] = sum;
    }

    /// Checks every word of the page.
    ///
    /// # Errors
    /// With the kind of damage.
    pub fn check(&self, index: u64, version: u64) -> Result<(), Damage> {
        if self.0[INDEX] != index {
            return Err(Damage::Index);
        }
        let found = self.0[VERSION];
        let mut sum = checksum_of(index, found);
        for position in 2..CHECKSUM {
            let word = self.0[position];
            let expected = if position % STRIDE == 0 {
                sum = sum.wrapping_add(word);
                versioned(index, found, position)
            } else {
                filler(index, position)
            };
            if word != expected {
                return Err(Damage::Content);
            }
        }
        if self.0[CHECKSUM] != sum {
            return Err(Damage::Content);
        }
        if found != version {
            return Err(Damage::Version);
        }
        Ok(())
    }
}

fn filler(index: u64, position: usize) -> u64 {
    index
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(position as u64)
}

fn versioned(index: u64, version: u64, position: usize) -> u64 {
    filler(index, position) ^ version.wrapping_mul(0xff51_afd7_ed55_8ccd)
}

fn checksum_of(index: u64, version: u64) -> u64 {
    index.rotate_left(32) ^ version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_page_checks() {
        let mut page = Page::new(7);
        assert_eq!(page.check(7, 0), Ok(()));
        page.write(41);
        assert_eq!(page.check(7, 41), Ok(()));
    }

    #[test]
    fn a_page_comes_back_from_its_block() {
        let mut page = Page::new(7);
        page.write(41);
        assert_eq!(Page::from_block(&page.to_block()).check(7, 41), Ok(()));
    }

    #[test]
    fn every_changed_word_is_noticed() {
        for position in 0..WORDS {
            let mut page = Page::new(7);
            page.write(3);
            page.0[position] ^= 1 << 17;
            assert!(page.check(7, 3).is_err(), "word {position}");
        }
    }

    #[test]
    fn a_lost_write_and_a_swapped_page_are_told_apart() {
        let page = Page::new(7);
        assert_eq!(page.check(7, 1), Err(Damage::Version));
        assert_eq!(page.check(8, 0), Err(Damage::Index));
    }
}
