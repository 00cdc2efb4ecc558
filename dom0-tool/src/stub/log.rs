//! What the stub says: its log, and its last words.

use std::fmt;

use defmt_decoder::{DecodeError, Locations, StreamDecoder, Table};
use lull_core::link::{CRASH_TEXT_BYTES, CrashKind, CrashRecord, LogReader, Registers};

use super::image::Image;

/// A line of the stub's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// `error` to `trace`.
    pub level: &'static str,
    /// The text, with its time and, where known, its place in the source.
    pub text: String,
}

/// The names of the messages, from the ELF the stub was built from.
pub struct StubLog {
    table: Table,
    locations: Locations,
}

impl StubLog {
    /// Reads the names out of the embedded ELF.
    ///
    /// # Errors
    /// When it carries none.
    pub fn new() -> Result<Self, String> {
        let elf = Image::elf();
        let table = Table::parse(elf).map_err(|error| error.to_string())?;
        let table = table.ok_or("the stub's image has no .defmt section")?;
        let locations = table.get_locations(elf).unwrap_or_default();
        Ok(Self { table, locations })
    }

    /// A decoder for one stub's bytes.
    pub fn decoder(&self) -> Box<dyn StreamDecoder + '_> {
        self.table.new_stream_decoder()
    }

    /// Takes what is in the log and gives each line to `line`. Garbage is
    /// reported once per frame and skipped.
    pub fn drain(
        &self,
        reader: &mut LogReader<'_>,
        decoder: &mut (dyn StreamDecoder + '_),
        mut line: impl FnMut(LogLine),
    ) {
        let mut bytes = [0; 4096];
        // Bounded: at most what the ring holds, even if the stub goes on.
        for _ in 0..lull_core::link::LOG_BYTES / bytes.len() {
            let count = reader.read(&mut bytes);
            if count == 0 {
                break;
            }
            decoder.received(&bytes[..count]);
        }
        let mut malformed = 0_u32;
        loop {
            match decoder.decode() {
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

/// The stub's words without what a terminal would obey.
fn printable(text: &str) -> String {
    let space = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(space).collect()
}

/// The stub's last words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    kind: CrashKind,
    registers: Registers,
    text: String,
}

impl Crash {
    /// Reads the record, if the stub left one. The text is made printable.
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
