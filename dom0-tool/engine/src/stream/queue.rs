//! The bytes that wait to be written, in the order of the stream: record headers made here,
//! and pages from the stub's payload slots.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;

use super::sink::Sink;

/// The most slices in one system call (`IOV_MAX` is 1,024; a few are enough).
const SLICES: usize = 16;

/// The most bytes that one call of [`Queue::write`] tries to write. The bound returns the
/// caller to its events in time.
const BYTES_AT_ONCE: usize = 4 << 20;

/// A part of the stream.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Bytes that the queue owns.
    Bytes(Vec<u8>),
    /// These pages of a slot's payload.
    Payload { slot: usize, pages: Range<usize> },
}

/// The parts that are still to be written.
#[derive(Default)]
pub struct Queue {
    parts: VecDeque<Part>,
    /// The number of bytes of the first part that are already written.
    offset: usize,
    written: u64,
}

/// The result of a call of [`Queue::write`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Slots whose payload is now written to the last byte.
    pub slots: Vec<usize>,
}

impl Queue {
    /// Appends bytes of the caller's own.
    pub fn push(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.parts.push_back(Part::Bytes(bytes));
        }
    }

    /// Appends these pages of a slot's payload.
    pub fn push_payload(&mut self, slot: usize, pages: Range<usize>) {
        if !pages.is_empty() {
            self.parts.push_back(Part::Payload { slot, pages });
        }
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The number of bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes what `sink` accepts now, and at most `allowed` bytes. `payload` returns the
    /// first pages of a slot.
    ///
    /// # Errors
    /// When the stream can accept no more bytes.
    pub fn write<'a>(
        &mut self,
        sink: &mut Sink,
        allowed: usize,
        payload: impl Fn(usize, usize) -> IoSlice<'a>,
    ) -> io::Result<Written> {
        let mut done = Written::default();
        let mut budget = BYTES_AT_ONCE.min(allowed);
        while budget > 0 && !self.parts.is_empty() {
            let parts = self.parts.iter().take(SLICES);
            let slices = parts.map(|part| match part {
                Part::Bytes(bytes) => IoSlice::new(bytes),
                Part::Payload { slot, pages } => {
                    let mut slice = payload(*slot, pages.end);
                    slice.advance(pages.start * lull_xen::PAGE);
                    slice
                }
            });
            let mut slices: Vec<_> = slices.collect();
            slices[0].advance(self.offset);
            // Cut off only what exceeds a cap. Without a cap, a few bytes more do not
            // matter.
            let within = within(
                &slices,
                if allowed < BYTES_AT_ONCE {
                    budget
                } else {
                    usize::MAX
                },
            );
            match sink.write(&within) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count as u64;
                    budget = budget.saturating_sub(count);
                    self.advance(count, &mut done);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Records that `count` more bytes are written.
    fn advance(&mut self, count: usize, done: &mut Written) {
        self.offset += count;
        while let Some(part) = self.parts.front() {
            let len = match part {
                Part::Bytes(bytes) => bytes.len(),
                Part::Payload { pages, .. } => pages.len() * lull_xen::PAGE,
            };
            if self.offset < len {
                return;
            }
            self.offset -= len;
            if let Some(Part::Payload { slot, .. }) = self.parts.pop_front() {
                done.slots.push(slot);
            }
        }
    }
}

/// The first `most` bytes of `slices`, as slices.
fn within<'a>(slices: &'a [IoSlice<'_>], mut most: usize) -> Vec<IoSlice<'a>> {
    let mut within = Vec::with_capacity(slices.len());
    for slice in slices {
        if most == 0 {
            break;
        }
        let part = &slice[..slice.len().min(most)];
        most -= part.len();
        within.push(IoSlice::new(part));
    }
    within
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn bytes_arrive_in_order_through_a_pipe_that_fills_up() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(OwnedFd::from(writer)).unwrap();
        let pages: Vec<u8> = (0..1024 * 4096_u32).map(|i| (i / 4096) as u8).collect();
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        for slot in 0..3 {
            queue.push(vec![0xf0 | slot as u8; 13]);
            // The last slot's payload is sent in part.
            let part = if slot == 2 { 700..1024 } else { 0..1024 };
            queue.push_payload(slot, part.clone());
            expected.extend(vec![0xf0 | slot as u8; 13]);
            expected.extend(&pages[part.start * 4096..]);
        }
        let mut received = Vec::new();
        let mut slots = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while !queue.is_empty() {
            let before = queue.written();
            let done = queue
                .write(&mut sink, 70_000, |_, count| {
                    IoSlice::new(&pages[..count * 4096])
                })
                .unwrap();
            slots.extend(done.slots);
            assert!(queue.written() - before <= 70_000);
            let count = reader.read(&mut buffer).unwrap();
            received.extend(&buffer[..count]);
        }
        drop(sink);
        reader.read_to_end(&mut received).unwrap();
        assert_eq!(slots, [0, 1, 2]);
        assert_eq!(queue.written(), expected.len() as u64);
        assert!(received == expected);
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(OwnedFd::from(writer)).unwrap();
        drop(reader);
        let mut queue = Queue::default();
        queue.push(vec![1]);
        let error = queue
            .write(&mut sink, usize::MAX, |_, _| IoSlice::new(&[]))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
