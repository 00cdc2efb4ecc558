//! An empty disk image in QEMU's format qcow2. dom0 has no program that makes one.

/// The size of a cluster as a power of two; QEMU's own default.
const CLUSTER_BITS: u32 = 16;

const CLUSTER: usize = 1 << CLUSTER_BITS;

/// Returns an image of a disk that holds that many bytes, at most 512 MiB, all zero.
///
/// Its clusters are the header, the table of reference counts with one block of them, and the
/// table of the disk's contents, which has no entry yet (QEMU, `docs/interop/qcow2.txt`,
/// version 2).
pub fn empty(bytes: u64) -> Vec<u8> {
    let cluster = CLUSTER as u64;
    let mut image = Vec::with_capacity(4 * CLUSTER);
    image.extend(b"QFI\xfb");
    image.extend(2_u32.to_be_bytes());
    // There is no backing file.
    image.extend([0_u8; 12]);
    image.extend(CLUSTER_BITS.to_be_bytes());
    image.extend(bytes.to_be_bytes());
    // It is not encrypted, and its table of contents has one entry.
    image.extend(0_u32.to_be_bytes());
    image.extend(1_u32.to_be_bytes());
    image.extend((3 * cluster).to_be_bytes());
    image.extend(cluster.to_be_bytes());
    image.extend(1_u32.to_be_bytes());
    // There is no snapshot.
    image.extend([0_u8; 12]);
    image.resize(CLUSTER, 0);
    image.extend((2 * cluster).to_be_bytes());
    image.resize(2 * CLUSTER, 0);
    for _ in 0..4 {
        image.extend(1_u16.to_be_bytes());
    }
    image.resize(4 * CLUSTER, 0);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_image_are_where_its_header_says() {
        let image = empty(1 << 20);
        let at = |place: usize| u64::from_be_bytes(image[place..place + 8].try_into().unwrap());
        assert_eq!(at(24), 1 << 20, "the size of the disk");
        assert_eq!(at(40), 3 << 16, "the table of contents");
        assert_eq!(at(48), 1 << 16, "the table of reference counts");
        assert_eq!(at(1 << 16), 2 << 16, "the block of reference counts");
        assert_eq!(image[2 << 16..][..10], [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
        assert!(image[3 << 16..].iter().all(|byte| *byte == 0));
    }
}
