//! libxc's migration stream, version 3, as the sender of an HVM or PVH guest writes it
//! (`docs/specs/libxc-migration-stream.pandoc`,
//! `tools/libs/guest/xg_sr_stream_format.h`, 4.17 to 4.22).

use lull_xen::domctl::TscInfo;
use lull_xen::version::Version;

/// Image header: `IHDR_MARKER`, `IHDR_ID`, `IHDR_VERSION`.
const MARKER: u64 = u64::MAX;
const ID: u32 = 0x5845_4e46;
const STREAM_VERSION: u32 = 3;

/// Domain header: `DHDR_TYPE_X86_HVM`, which is used for HVM and PVH; pages are 2^12
/// bytes.
const GUEST_TYPE_HVM: u32 = 2;
const PAGE_SHIFT: u16 = 12;

/// Types of records (`REC_TYPE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Record {
    /// The end of the stream; nothing follows.
    End = 0,
    /// Pages of the guest.
    PageData = 1,
    /// The guest's TSC settings.
    TscInfo = 8,
    /// The state of vCPUs and platform.
    HvmContext = 9,
    /// The guest's HVM parameters.
    HvmParams = 0xa,
    /// From here on, the receiver compares pages with its own instead of storing them.
    Verify = 0xd,
    /// The static data is complete; page data may follow.
    StaticDataEnd = 0x10,
    /// The CPUID leaves that the guest sees.
    CpuidPolicy = 0x11,
    /// The model-specific registers that the guest sees.
    MsrPolicy = 0x12,
}

/// The HVM parameters that the stream carries, in the order of the format's
/// documentation (`xen/include/public/hvm/params.h`, 4.17).
pub const HVM_PARAMS: [u32; 16] = [
    1,  // STORE_PFN
    5,  // IOREQ_PFN
    6,  // BUFIOREQ_PFN
    27, // PAGING_RING_PFN
    28, // MONITOR_RING_PFN
    29, // SHARING_RING_PFN
    37, // VM86_TSS_SIZED
    17, // CONSOLE_PFN
    19, // ACPI_IOPORTS_LOCATION
    9,  // VIRIDIAN
    12, // IDENT_PT
    34, // VM_GENERATION_ID_ADDR
    32, // IOREQ_SERVER_PFN
    33, // NR_IOREQ_SERVER_PAGES
    36, // X87_FIP_WIDTH
    38, // MCA_CAP
];

/// The stream's headers: the image header, 24 bytes, and the domain header, 16 bytes.
pub fn headers(version: Version) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(MARKER.to_be_bytes());
    bytes.extend(ID.to_be_bytes());
    bytes.extend(STREAM_VERSION.to_be_bytes());
    // Options (0 means little endian), then reserved bytes.
    bytes.extend([0; 8]);
    bytes.extend(GUEST_TYPE_HVM.to_le_bytes());
    bytes.extend(PAGE_SHIFT.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(version.major.to_le_bytes());
    bytes.extend(version.minor.to_le_bytes());
    bytes
}

/// A record with this body, padded to 8 bytes.
pub fn record(kind: Record, body: &[u8]) -> Vec<u8> {
    let mut bytes = record_header(kind, body.len());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn record_header(kind: Record, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("records are far below 4 GiB");
    let mut bytes = Vec::with_capacity(8 + 8);
    bytes.extend((kind as u32).to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes
}

/// A page-data record without its pages, which follow in the order of `pfns`. All pages
/// of an HVM guest have type 0.
pub fn page_data_header(pfns: &[u64]) -> Vec<u8> {
    let body = 8 + pfns.len() * (8 + lull_xen::PAGE);
    let mut bytes = record_header(Record::PageData, body);
    let count = u32::try_from(pfns.len()).expect("a batch of pages");
    bytes.extend(count.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(pfns.iter().flat_map(|pfn| pfn.to_le_bytes()));
    bytes
}

/// The type of a page that the receiver only allocates: no contents follow
/// (`XEN_DOMCTL_PFINFO_XALLOC` in `xen/include/public/domctl.h`, 4.17, as the stream writes
/// types).
const ALLOCATE: u64 = 0xe << 60;

/// A page-data record whose pages the receiver only allocates.
pub fn allocate(pfns: &[u64]) -> Vec<u8> {
    let count = u32::try_from(pfns.len()).expect("a batch of pages");
    let mut body = Vec::with_capacity(8 + 8 * pfns.len());
    body.extend(count.to_le_bytes());
    body.extend([0; 4]);
    body.extend(pfns.iter().flat_map(|pfn| (pfn | ALLOCATE).to_le_bytes()));
    record(Record::PageData, &body)
}

/// The body of the TSC record, whose field order differs from the domctl's.
pub fn tsc_info_body(tsc: &TscInfo) -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    body.extend(tsc.mode.to_le_bytes());
    body.extend(tsc.khz.to_le_bytes());
    body.extend(tsc.elapsed_ns.to_le_bytes());
    body.extend(tsc.incarnation.to_le_bytes());
    body.extend([0; 4]);
    body
}

/// Reads the TSC settings from a body that [`tsc_info_body`] wrote.
pub fn tsc_info_of(body: &[u8; 24]) -> TscInfo {
    let word = |n: usize| u32::from_le_bytes([body[n], body[n + 1], body[n + 2], body[n + 3]]);
    TscInfo {
        mode: word(0),
        khz: word(4),
        elapsed_ns: u64::from(word(8)) | u64::from(word(12)) << 32,
        incarnation: word(16),
    }
}

/// The body of the HVM parameters record; `None` if no parameter is set.
pub fn hvm_params_body(params: &[(u32, u64)]) -> Option<Vec<u8>> {
    let set: Vec<_> = params.iter().filter(|(_, value)| *value != 0).collect();
    if set.is_empty() {
        return None;
    }
    let mut body = Vec::with_capacity(8 + 16 * set.len());
    body.extend(u32::try_from(set.len()).expect("few").to_le_bytes());
    body.extend([0; 4]);
    for (index, value) in set {
        body.extend(u64::from(*index).to_le_bytes());
        body.extend(value.to_le_bytes());
    }
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_xen::version::KNOWN;

    #[test]
    fn headers_are_as_the_format_says() {
        let bytes = headers(KNOWN[0]);
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..8], [0xff; 8]);
        assert_eq!(&bytes[8..16], b"XENF\0\0\0\x03");
        assert_eq!(
            bytes[24..],
            [2, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 17, 0, 0, 0]
        );
    }

    #[test]
    fn records_are_padded_and_say_their_unpadded_length() {
        assert_eq!(record(Record::End, &[]), [0; 8]);
        let bytes = record(Record::HvmContext, &[1, 2, 3]);
        assert_eq!(bytes, [9, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn page_data_announces_its_pages() {
        let bytes = page_data_header(&[5, 77]);
        assert_eq!(bytes.len(), 8 + 8 + 16);
        assert_eq!(bytes[4..8], (8 + 16 + 2 * 4096_u32).to_le_bytes());
        assert_eq!(bytes[8..16], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..32], 77_u64.to_le_bytes());
    }

    #[test]
    fn pages_that_are_only_allocated_have_no_contents() {
        let bytes = allocate(&[5, 77]);
        assert_eq!(bytes.len(), 8 + 8 + 16);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 24, 0, 0, 0]);
        assert_eq!(bytes[8..16], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..24], [5, 0, 0, 0, 0, 0, 0, 0xe0]);
        assert_eq!(bytes[24..32], [77, 0, 0, 0, 0, 0, 0, 0xe0]);
    }

    #[test]
    fn parameters_that_are_zero_stay_behind() {
        assert_eq!(hvm_params_body(&[(1, 0)]), None);
        let body = hvm_params_body(&[(1, 0), (17, 0xfeffc)]).unwrap();
        assert_eq!(body[..4], 1_u32.to_le_bytes());
        assert_eq!(body[8..16], 17_u64.to_le_bytes());
        assert_eq!(body[16..], 0xfeffc_u64.to_le_bytes());
    }
}
