//! Finds the present position in xl's migration stream. It parses just enough of the
//! formats to recognise a phase of the migration (Xen 4.17: tools/xl/xl.h,
//! docs/specs/libxl-migration-stream.pandoc, libxc-migration-stream.pandoc).

/// A place in the stream, recognised by the part that has just passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// libxl's context record, after which libxl starts the helper.
    Helper,
    /// The pages of the first round.
    FirstRound,
    /// The pages of a later round.
    LaterRound,
    /// The records after the last page: the clock and the CPUs.
    CpuState,
}

/// The `REC_TYPE_*` values of libxl's and of libxc's stream.
const LIBXC_CONTEXT: u32 = 1;
const END: u32 = 0;
const PAGE_DATA: u32 = 1;
const TSC_INFO: u32 = 8;

/// The bits of an entry of a page record that hold the frame number; the type is above
/// them.
const PFN: u64 = (1 << 52) - 1;

/// The number of page records after which the first round counts as well under way.
const UNDER_WAY: u32 = 3;

/// The part that comes next in the stream.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// xl's header; its last word is the length of the data that belongs to it.
    XlHeader,
    LibxlHeader,
    LibxlRecord,
    /// libxc's image header and domain header.
    LibxcHeaders,
    Record,
    /// The count and the first frame of a page record with a body of this length.
    Pages(u64),
    /// Bytes that need no parsing.
    Rest,
}

impl Part {
    const fn length(self) -> usize {
        match self {
            Self::XlHeader => 48,
            Self::LibxlHeader | Self::Pages(_) => 16,
            Self::LibxlRecord | Self::Record => 8,
            Self::LibxcHeaders => 24 + 16,
            Self::Rest => usize::MAX,
        }
    }
}

/// Parses the stream as it passes.
pub struct Reader {
    part: Part,
    held: Vec<u8>,
    skip: u64,
    page_records: u32,
    round: u32,
    last: u64,
}

impl Reader {
    /// Returns a reader at the beginning of a stream.
    pub const fn new() -> Self {
        Self {
            part: Part::XlHeader,
            held: Vec::new(),
            skip: 0,
            page_records: 0,
            round: 0,
            last: 0,
        }
    }

    /// Parses further. If `point` is reached, it returns how many of `bytes` have passed by
    /// then, and does not parse the rest.
    pub fn find(&mut self, point: Point, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let left = bytes.len() - at;
            if self.skip > 0 {
                let skipped = left.min(usize::try_from(self.skip).unwrap_or(left));
                self.skip -= skipped as u64;
                at += skipped;
                continue;
            }
            let wanted = self.part.length() - self.held.len();
            let taken = left.min(wanted);
            self.held.extend_from_slice(&bytes[at..at + taken]);
            at += taken;
            if taken == wanted && self.step() == Some(point) {
                return Some(at);
            }
            if matches!(self.part, Part::Rest) {
                return None;
            }
        }
        None
    }

    /// Processes a part that is complete.
    fn step(&mut self) -> Option<Point> {
        let held = std::mem::take(&mut self.held);
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| held[at + byte]));
        let padded = |length: u32| u64::from(length).next_multiple_of(8);
        let mut reached = None;
        self.part = match self.part {
            Part::XlHeader => {
                self.skip = u64::from(word(44));
                Part::LibxlHeader
            }
            Part::LibxlHeader => Part::LibxlRecord,
            Part::LibxlRecord if word(0) == LIBXC_CONTEXT => {
                reached = Some(Point::Helper);
                Part::LibxcHeaders
            }
            Part::LibxlRecord => {
                self.skip = padded(word(4));
                Part::LibxlRecord
            }
            Part::LibxcHeaders => Part::Record,
            Part::Record => match word(0) {
                PAGE_DATA => Part::Pages(padded(word(4))),
                END => Part::Rest,
                kind => {
                    reached = (kind == TSC_INFO).then_some(Point::CpuState);
                    self.skip = padded(word(4));
                    Part::Record
                }
            },
            Part::Pages(length) => {
                let first = (u64::from(word(12)) << 32 | u64::from(word(8))) & PFN;
                self.skip = length.saturating_sub(16);
                reached = self.pages_from(first);
                Part::Record
            }
            Part::Rest => Part::Rest,
        };
        reached
    }

    /// Detects a new round, because within a round frame numbers ascend.
    fn pages_from(&mut self, first: u64) -> Option<Point> {
        self.page_records += 1;
        if self.page_records > 1 && first <= self.last {
            self.round += 1;
        }
        self.last = first;
        match self.round {
            0 if self.page_records < UNDER_WAY => None,
            0 => Some(Point::FirstRound),
            _ => Some(Point::LaterRound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = body.len() as u32;
        let padding = vec![0; body.len().next_multiple_of(8) - body.len()];
        [&kind.to_le_bytes(), &length.to_le_bytes(), body, &padding].concat()
    }

    fn pages(first: u64) -> Vec<u8> {
        let body = [&1_u64.to_le_bytes()[..], &first.to_le_bytes(), &[7; 4096]].concat();
        record(PAGE_DATA, &body)
    }

    /// Returns a stream and the positions at which its parts end.
    fn stream() -> (Vec<u8>, Vec<(Point, usize)>) {
        let mut stream = vec![0; 44];
        stream.extend(5_u32.to_le_bytes());
        stream.extend([1; 5]);
        stream.extend([0; 16]);
        stream.extend(record(LIBXC_CONTEXT, &[]));
        let mut points = vec![(Point::Helper, stream.len())];
        stream.extend([0xff; 40]);
        stream.extend(record(0x10, &[]));
        for first in [0, 100, 200] {
            stream.extend(pages(first));
        }
        points.push((Point::FirstRound, stream.len() - 4096));
        stream.extend(pages(9));
        points.push((Point::LaterRound, stream.len() - 4096));
        stream.extend(record(TSC_INFO, &[1; 20]));
        points.push((Point::CpuState, stream.len() - 24));
        stream.extend(record(END, &[]));
        stream.extend([3; 99]);
        (stream, points)
    }

    #[test]
    fn points_are_found_whatever_the_pieces() {
        let (stream, points) = stream();
        for (point, place) in points {
            for piece in [1, 7, 64, stream.len()] {
                let mut reader = Reader::new();
                let mut before = 0;
                let found = stream.chunks(piece).find_map(|bytes| {
                    let found = reader.find(point, bytes).map(|at| before + at);
                    before += bytes.len();
                    found
                });
                assert_eq!(found, Some(place), "{point:?} in pieces of {piece}");
            }
        }
    }
}
