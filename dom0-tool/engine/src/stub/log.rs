//! Reads the stub's log and its crash record.

use std::fmt;

use defmt_decoder::{DecodeError, Locations, StreamDecoder, Table};
use lull_base::text::printable;
use lull_core::link::{CRASH_TEXT_BYTES, CrashKind, CrashRecord, LogReader, Registers};

use super::image::Image;

/// A line of the stub's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The level, from `error` to `trace`.
    pub level: &'static str,
    /// The text, with its time and, where known, its position in the source.
    pub text: String,
}

/// The format strings of the log messages, from the ELF that the stub was built from.
pub struct StubLog {
    table: Table,
    locations: Locations,
}

impl StubLog {
    /// Reads the format strings from the embedded ELF.
    ///
    /// # Errors
    /// When the ELF carries none.
    pub fn new() -> Result<Self, String> {
        let elf = Image::elf();
        let table = Table::parse(elf).map_err(|error| error.to_string())?;
        let table = table.ok_or("the stub's image has no .defmt section")?;
        let locations = table.get_locations(elf).unwrap_or_default();
        Ok(Self { table, locations })
    }

    /// A decoder for one stub's bytes.
    pub(crate) fn decoder(&self) -> LogDecoder<'_> {
        LogDecoder {
            stream: self.table.new_stream_decoder(),
            length: 0,
        }
    }

    /// Empties the log and passes each line to `line`. Garbage is reported once per frame
    /// and skipped.
    pub(crate) fn drain(
        &self,
        reader: &mut LogReader<'_>,
        decoder: &mut LogDecoder<'_>,
        line: impl FnMut(LogLine),
    ) {
        let mut bytes = [0; 4096];
        // The loop is bounded: it reads at most what the ring holds, even if the stub goes
        // on writing.
        for _ in 0..lull_core::link::LOG_BYTES / bytes.len() {
            let count = reader.read(&mut bytes);
            if count == 0 {
                break;
            }
            decoder.received(&bytes[..count]);
        }
        self.lines(decoder, line);
    }

    fn lines(&self, decoder: &mut LogDecoder<'_>, mut line: impl FnMut(LogLine)) {
        let mut malformed = 0_u32;
        loop {
            match decoder.stream.decode() {
                Ok(frame) => {
                    let place = self.locations.get(&frame.index());
                    let place = place.map(|place| format!(" ({}:{})", place.module, place.line));
                    let text = format!("{}{}", frame.display(false), place.unwrap_or_default());
                    line(LogLine {
                        level: frame.level().map_or("info", |level| level.as_str()),
                        text: printable(&text),
                    });
                }
                Err(DecodeError::UnexpectedEof) => break,
                Err(DecodeError::Malformed) => malformed += 1,
            }
        }
        if malformed > 0 {
            line(LogLine {
                level: "warn",
                text: format!("{malformed} lines that are none"),
            });
        }
    }
}

/// The most bytes that an encoded line may have; the longest of an honest stub has 300. The
/// decoder keeps a line until its end, and nests as deep as the line demands.
const MAX_LINE_BYTES: usize = 1024;

/// Splits one stub's log into lines, each ended by a zero. Bytes beyond [`MAX_LINE_BYTES`]
/// are dropped, so such a line does not decode.
pub struct LogDecoder<'s> {
    stream: Box<dyn StreamDecoder + 's>,
    /// The number of bytes of the current line so far.
    length: usize,
}

impl LogDecoder<'_> {
    fn received(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == 0) {
            let (text, end) = match piece {
                [text @ .., 0] => (text, true),
                text => (text, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.length);
            self.stream.received(&text[..text.len().min(room)]);
            self.length = self.length.saturating_add(text.len());
            if end {
                self.stream.received(&[0]);
                self.length = 0;
            }
        }
    }
}

/// The message that the stub left when it crashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    kind: CrashKind,
    registers: Registers,
    text: String,
}

impl Crash {
    /// Reads the crash record, if the stub left one. The text is made printable.
    pub fn read(record: &CrashRecord) -> Option<Self> {
        let mut text = [0; CRASH_TEXT_BYTES];
        let (kind, registers, len) = record.read(&mut text)?;
        let text = String::from_utf8_lossy(text.get(..len)?);
        Some(Self {
            kind,
            registers,
            text: printable(&text),
        })
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.registers;
        match self.kind {
            CrashKind::Panic => write!(f, "panic: {}", self.text),
            CrashKind::Link => write!(f, "link broken: {}", self.text),
            CrashKind::Fault => write!(
                f,
                "exception {} (error {:#x}) at {:#x}, address {:#x}, stack {:#x}, flags {:#x}",
                r.vector, r.error, r.rip, r.address, r.rsp, r.rflags
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use defmt_decoder::Frame;

    use super::*;
    use lull_base::fuzz::any_bytes;

    struct Received<'r>(&'r RefCell<Vec<u8>>);

    impl StreamDecoder for Received<'_> {
        fn received(&mut self, data: &[u8]) {
            self.0.borrow_mut().extend(data);
        }

        fn decode(&mut self) -> Result<Frame<'_>, DecodeError> {
            Err(DecodeError::UnexpectedEof)
        }
    }

    fn received_of(bytes: &[u8], piece: usize) -> Vec<u8> {
        let received = RefCell::default();
        let mut decoder = LogDecoder {
            stream: Box::new(Received(&received)),
            length: 0,
        };
        bytes
            .chunks(piece)
            .for_each(|bytes| decoder.received(bytes));
        drop(decoder);
        received.into_inner()
    }

    #[test]
    fn lines_pass_whatever_the_pieces_and_what_is_no_line_is_cut() {
        let long = [vec![7; 100_000], vec![0]].concat();
        let sent = [&[1, 2, 0, 3, 0][..], &long, &[4, 0, 0]].concat();
        let cut = [vec![7; MAX_LINE_BYTES], vec![0]].concat();
        let expected = [&[1, 2, 0, 3, 0][..], &cut, &[4, 0, 0]].concat();
        for piece in [1, 1_000, 4_096, sent.len()] {
            assert_eq!(received_of(&sent, piece), expected, "in pieces of {piece}");
        }
        assert_eq!(received_of(&[7; 100_000], 4_096).len(), MAX_LINE_BYTES);
    }

    /// A hostile log, as a stub that the guest has taken over may write it.
    #[test]
    fn any_bytes_are_lines_that_a_terminal_does_not_obey() {
        let log = StubLog::new().unwrap();
        let samples: [&[u8]; 2] = [b"\x01\x00\x02\x00", b"\x05\x00\xff\xff\xff\xff\x00"];
        any_bytes(&samples, |bytes| {
            let mut decoder = log.decoder();
            decoder.received(bytes);
            log.lines(&mut decoder, |line| {
                let obeyed = line.text.chars().any(char::is_control);
                assert!(!obeyed, "{:?}", line.text);
            });
        });
    }
}
