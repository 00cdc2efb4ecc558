//! Frames of the source, read in the pieces in which they arrive. The pages of a batch are
//! read where they belong, into the copy's own memory.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use lull_wire::channel::{self, BATCH_COUNT, HEADER, Pages, Purpose, ToLand};
use lull_xen::PAGE;
use lull_xen::foreign::ForeignPages;
use rustix::io::Errno;

use super::serve::End;

/// The place of a batch's pages, in their order.
pub trait Place {
    /// Reads once into these bytes. Returns 0 at the end of the input.
    fn read_from(&mut self, from: BorrowedFd<'_>, range: Range<usize>) -> io::Result<usize>;
}

impl Place for ForeignPages {
    fn read_from(&mut self, from: BorrowedFd<'_>, range: Range<usize>) -> io::Result<usize> {
        Self::read_from(self, from, range)
    }
}

/// Finds the place of a batch's pages. `None` if they are to be read into this process.
pub type FindPlace<'f> = &'f mut dyn FnMut(&Pages) -> Result<Option<Box<dyn Place>>, End>;

/// A frame that is complete.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It was read into this process.
    Here(ToLand),
    /// A batch, whose pages were read into their place.
    InPlace(Pages),
}

/// The part of a frame that is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    /// The number of a batch's entries.
    Count,
    /// A batch without its contents.
    Batch,
    Body,
}

/// The frame that is arriving on one connection. Nothing beyond it is read.
pub struct Inlet {
    /// The longest body, in bytes.
    longest: usize,
    head: [u8; HEADER],
    /// As much of the body as is read into this process, and is awaited now.
    body: Vec<u8>,
    /// The number of bytes of head and body that have arrived.
    arrived: usize,
    part: Part,
    /// The batch whose pages arrive in their place.
    batch: Option<Batch>,
}

struct Batch {
    pages: Pages,
    place: Box<dyn Place>,
    /// The number of bytes that are in place.
    done: usize,
}

impl Inlet {
    /// Nothing has arrived, and a body may have `longest` bytes.
    pub const fn of(longest: usize) -> Self {
        Self {
            longest,
            head: [0; HEADER],
            body: Vec::new(),
            arrived: 0,
            part: Part::Header,
            batch: None,
        }
    }

    /// Whether a part of a frame has arrived.
    pub const fn is_within_a_frame(&self) -> bool {
        self.arrived > 0
    }

    /// Reads once from a connection that is readable. Returns the frame if it is complete.
    ///
    /// # Errors
    /// When the source has closed its end, sends what is no frame, or names pages that have no
    /// place.
    pub fn read(
        &mut self,
        from: BorrowedFd<'_>,
        find_place: FindPlace<'_>,
    ) -> Result<Option<Arrived>, End> {
        if let Some(batch) = &mut self.batch {
            let bytes = batch.pages.present.len() * PAGE;
            batch.done += count(batch.place.read_from(from, batch.done..bytes))?;
            return Ok(match batch.done < bytes {
                true => None,
                false => self.end_batch(),
            });
        }
        let rest = match self.arrived.checked_sub(HEADER) {
            None => &mut self.head[self.arrived..],
            Some(arrived) => &mut self.body[arrived..],
        };
        // This bypasses std's buffer, because poll does not see the bytes buffered there.
        self.arrived += count(rustix::io::read(from, rest).map_err(io::Error::from))?;
        while self.arrived == HEADER + self.body.len() {
            let arrived = self.next_part(find_place)?;
            if arrived.is_some() || self.batch.is_some() {
                return Ok(arrived);
            }
        }
        Ok(None)
    }

    /// Takes the part that has arrived, and awaits the next one.
    fn next_part(&mut self, find_place: FindPlace<'_>) -> Result<Option<Arrived>, End> {
        let (kind, length) = channel::header(self.head);
        let (part, awaited) = match self.part {
            Part::Header if length > self.longest => return Err(End::TooLong(length)),
            Part::Header if channel::writes_pages(kind) => (Part::Count, BATCH_COUNT),
            Part::Header => (Part::Body, length),
            Part::Count => (Part::Batch, channel::batch_head(&self.body)?),
            Part::Batch => {
                let contents = length - self.body.len();
                let pages = channel::decode_batch(&self.body, contents, Purpose::Write)?;
                if contents > 0
                    && let Some(place) = find_place(&pages)?
                {
                    let done = 0;
                    self.batch = Some(Batch { pages, place, done });
                    return Ok(None);
                }
                (Part::Body, length)
            }
            Part::Body => {
                let frame = ToLand::decode(kind, std::mem::take(&mut self.body))?;
                self.begin();
                return Ok(Some(Arrived::Here(frame)));
            }
        };
        // A batch that is longer than its frame is not valid, and `ToLand::decode` says so.
        let (part, awaited) = match awaited <= length {
            true => (part, awaited),
            false => (Part::Body, length),
        };
        self.part = part;
        self.body.resize(awaited, 0);
        Ok(None)
    }

    fn end_batch(&mut self) -> Option<Arrived> {
        self.begin();
        let Batch { pages, .. } = self.batch.take()?;
        Some(Arrived::InPlace(pages))
    }

    /// Awaits another frame.
    fn begin(&mut self) {
        self.body.clear();
        self.arrived = 0;
        self.part = Part::Header;
    }
}

/// The number of bytes that a read has brought; 0 if it has to be done again.
fn count(read: io::Result<usize>) -> Result<usize, End> {
    match read {
        Ok(0) => Err(End::Gone),
        Ok(count) => Ok(count),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::INTR | Errno::AGAIN) => Ok(0),
            _ => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::rc::Rc;

    use lull_wire::channel::{Attach, TO_LAND_MAX};
    use proptest::prelude::*;

    use super::*;

    /// The memory of a copy, as far as a batch needs it.
    #[derive(Clone, Default)]
    struct Memory(Rc<RefCell<Vec<u8>>>);

    impl Place for Memory {
        fn read_from(&mut self, from: BorrowedFd<'_>, range: Range<usize>) -> io::Result<usize> {
            let Self(bytes) = self;
            Ok(rustix::io::read(from, &mut bytes.borrow_mut()[range])?)
        }
    }

    impl Memory {
        fn of(pages: &Pages) -> Self {
            let memory = Self::default();
            memory.0.borrow_mut().resize(pages.present.len() * PAGE, 0);
            memory
        }
    }

    fn batch(present: &[u64], zero: &[u64]) -> Pages {
        Pages {
            purpose: Purpose::Write,
            present: present.to_vec(),
            zero: zero.to_vec(),
            depopulated: Vec::new(),
        }
    }

    fn contents(pages: &Pages) -> Vec<u8> {
        let pages = pages.present.iter();
        pages.flat_map(|gfn| vec![*gfn as u8 + 1; PAGE]).collect()
    }

    fn encoded(pages: &Pages) -> Vec<u8> {
        [channel::pages_header(pages), contents(pages)].concat()
    }

    /// Sends `bytes` in pieces of these lengths, and reads after each of them. Returns what
    /// arrived, with the memory of the batches that were read into their place.
    fn arrive(
        bytes: &[u8],
        pieces: &[usize],
        has_place: bool,
    ) -> Result<(Vec<Arrived>, Vec<Memory>), End> {
        let (from, mut to) = std::io::pipe().unwrap();
        let mut inlet = Inlet::of(TO_LAND_MAX);
        let (mut arrived, mut places) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*piece));
            to.write_all(now).unwrap();
            rest = later;
            while rustix::io::ioctl_fionread(&from).unwrap() > 0 {
                let mut find = |pages: &Pages| {
                    let memory = has_place.then(|| Memory::of(pages));
                    places.extend(memory.clone());
                    Ok(memory.map(|memory| Box::new(memory) as Box<dyn Place>))
                };
                arrived.extend(inlet.read(from.as_fd(), &mut find)?);
            }
            if rest.is_empty() {
                break;
            }
        }
        assert!(!inlet.is_within_a_frame());
        Ok((arrived, places))
    }

    proptest! {
        #[test]
        fn pages_arrive_in_their_place_whatever_the_pieces(
            pieces in proptest::collection::vec(1_usize..9_000, 1..8),
            has_place: bool,
        ) {
            let batches = [batch(&[3, 4, 9], &[]), batch(&[], &[5]), batch(&[1], &[2, 7])];
            let attach = Attach { uuid: [7; 16], frames: 20, name: "web1".into() };
            let mut bytes = channel::attach(&attach);
            for pages in &batches {
                bytes.extend(encoded(pages));
                bytes.extend(channel::ping());
            }
            let (arrived, places) = arrive(&bytes, &pieces, has_place).unwrap();
            prop_assert_eq!(&arrived[0], &Arrived::Here(ToLand::Attach(attach)));
            let mut places = places.into_iter();
            for (pages, arrived) in batches.iter().zip(arrived[1..].chunks(2)) {
                prop_assert_eq!(&arrived[1], &Arrived::Here(ToLand::Ping));
                match &arrived[0] {
                    // A batch without contents needs no place.
                    Arrived::Here(ToLand::Pages(here, bytes)) => {
                        prop_assert!(!has_place || pages.present.is_empty());
                        prop_assert_eq!(here, pages);
                        prop_assert_eq!(&bytes[..], &contents(pages));
                    }
                    Arrived::InPlace(there) => {
                        prop_assert_eq!(there, pages);
                        let Memory(bytes) = places.next().unwrap();
                        prop_assert_eq!(&*bytes.borrow(), &contents(pages));
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(arrived.len(), 7);
        }
    }

    /// A hostile source may send these.
    #[test]
    fn a_batch_that_is_none_gets_no_place() {
        let good = encoded(&batch(&[3, 4], &[]));
        let changed = |at: usize, to: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + to.len()].copy_from_slice(to);
            bytes
        };
        let longer = (good.len() as u32 - HEADER as u32 + 1).to_le_bytes();
        let mut too_long = changed(4, &longer);
        too_long.push(0);
        for bytes in [
            // More entries than there may be, or than there is room for; and fewer.
            changed(HEADER, &[255; 8]),
            changed(HEADER, &1_024_u64.to_le_bytes()),
            changed(HEADER, &1_u64.to_le_bytes()),
            // Frames that are not in order.
            changed(HEADER + 8, &9_u64.to_le_bytes()),
            too_long,
            // A body that ends within the number of entries, or within the entries.
            [&good[..4], &4_u32.to_le_bytes(), &good[8..12]].concat(),
            [&good[..4], &12_u32.to_le_bytes(), &good[8..20]].concat(),
        ] {
            let ended = arrive(&bytes, &[8_192], true).map(|(arrived, _)| arrived);
            assert!(matches!(ended, Err(End::Bad(_))), "{ended:?}");
        }
        assert!(arrive(&good, &[8_192], true).is_ok());
    }

    #[test]
    fn a_source_that_goes_in_the_middle_of_a_page_has_gone() {
        let bytes = encoded(&batch(&[3, 4], &[]));
        let (from, mut to) = std::io::pipe().unwrap();
        to.write_all(&bytes[..5_000]).unwrap();
        drop(to);
        let mut inlet = Inlet::of(TO_LAND_MAX);
        let mut find = |pages: &Pages| Ok(Some(Box::new(Memory::of(pages)) as Box<dyn Place>));
        let end = loop {
            match inlet.read(from.as_fd(), &mut find) {
                Ok(arrived) => assert!(arrived.is_none() && inlet.is_within_a_frame()),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, End::Gone), "{end}");
    }
}
