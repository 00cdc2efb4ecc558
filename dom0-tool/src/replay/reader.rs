//! Reads a trace line by line, without interpreting it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use lull_base::lines::{Lines, TooLong};
use lull_store::trace::{MAX_FILE_BYTES, MAX_LINE_BYTES};
use lull_wire::trace::{Header, Line, SCHEMA};
use thiserror::Error;

/// Why a file is not a trace that can be replayed.
#[derive(Debug, Error)]
pub enum NoTrace {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// The file is larger than any that lull writes.
    #[error("it is larger than any trace ({} MiB)", MAX_FILE_BYTES >> 20)]
    TooLarge,
    /// The line is longer than any that lull writes.
    #[error("line {0} is longer than any of a trace")]
    LongLine(u64),
    /// The line is not a line of a trace.
    #[error("line {line} is not one of a trace: {why}")]
    Garbage {
        /// The number of the line, from 1.
        line: u64,
        why: String,
    },
    /// The trace was written by another version.
    #[error("it is of schema {0}, and this lull reads schema {SCHEMA}")]
    OtherSchema(u64),
    /// The last line is missing.
    #[error("it ends after line {0}, before its end: it is truncated")]
    Truncated(u64),
    /// The line is not allowed at this position.
    #[error("line {0} cannot come where it is")]
    OutOfPlace(u64),
    /// The event on this line cannot have happened.
    #[error("line {line}: the events cannot have come like this: {why}")]
    Impossible {
        /// The number of the line, from 1.
        line: u64,
        why: String,
    },
}

#[derive(Debug)]
pub struct Reader<R = File> {
    input: R,
    lines: Lines,
    line: u64,
    read: usize,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened, is not a regular file, or is too large.
    pub fn open(path: &Path) -> Result<Self, NoTrace> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file").into());
        }
        if metadata.len() > MAX_FILE_BYTES as u64 {
            return Err(NoTrace::TooLarge);
        }
        Ok(Self::of(File::open(path)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads a trace from `input`.
    pub const fn of(input: R) -> Self {
        Self {
            input,
            // Of these bytes one ends the line.
            lines: Lines::of(MAX_LINE_BYTES - 1),
            line: 0,
            read: 0,
        }
    }

    /// The number of the last line read, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Reads the first line.
    ///
    /// # Errors
    /// If it is not the header of a trace of this schema.
    pub fn header(&mut self) -> Result<Header, NoTrace> {
        let Some(text) = self.next_text()? else {
            return Err(NoTrace::Truncated(0));
        };
        // In another schema only the version number can be relied on.
        let schema = serde_json::from_slice::<serde_json::Value>(&text)
            .ok()
            .filter(|value| value["type"] == "header")
            .and_then(|value| value["schema"].as_u64());
        if let Some(schema) = schema
            && schema != u64::from(SCHEMA)
        {
            return Err(NoTrace::OtherSchema(schema));
        }
        match self.parse(&text)? {
            Line::Header(header) => Ok(*header),
            _ => Err(NoTrace::OutOfPlace(self.line)),
        }
    }

    /// Reads the next line; `None` at the end of the file.
    ///
    /// # Errors
    /// If it is not a line of a trace.
    pub fn next(&mut self) -> Result<Option<Line>, NoTrace> {
        match self.next_text()? {
            Some(text) => self.parse(&text).map(Some),
            None => Ok(None),
        }
    }

    fn next_text(&mut self) -> Result<Option<Vec<u8>>, NoTrace> {
        let line = self.lines.read(&mut self.input)?;
        if line.is_none() && self.lines.rest().is_empty() {
            return Ok(None);
        }
        self.line += 1;
        match line {
            Some(Ok(text)) => {
                self.read += text.len() + 1;
                match self.read > MAX_FILE_BYTES {
                    true => Err(NoTrace::TooLarge),
                    false => Ok(Some(text)),
                }
            }
            Some(Err(TooLong)) => Err(NoTrace::LongLine(self.line)),
            None => Err(NoTrace::Truncated(self.line)),
        }
    }

    fn parse(&self, text: &[u8]) -> Result<Line, NoTrace> {
        serde_json::from_slice(text).map_err(|error| NoTrace::Garbage {
            line: self.line,
            why: error.to_string(),
        })
    }
}
