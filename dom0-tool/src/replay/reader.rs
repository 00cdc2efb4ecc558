//! A trace, line by line, and nothing else.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use lull_wire::trace::{Header, Line, SCHEMA};
use thiserror::Error;

use crate::trace::{LARGEST, LONGEST_LINE};

/// Why a file is no trace that can be replayed.
#[derive(Debug, Error)]
pub enum NoTrace {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// No file lull wrote is as large.
    #[error("it is larger than any trace ({} MiB)", LARGEST >> 20)]
    TooLarge,
    /// No line lull wrote is as long.
    #[error("line {0} is longer than any of a trace")]
    LongLine(u64),
    /// Not a line of a trace.
    #[error("line {line} is not one of a trace: {why}")]
    Garbage {
        /// Which.
        line: u64,
        /// What the parser says.
        why: String,
    },
    /// Written by another version.
    #[error("it is of schema {0}, and this lull reads schema {SCHEMA}")]
    OtherSchema(u64),
    /// The last line is missing.
    #[error("it ends after line {0}, before its end: it is truncated")]
    Truncated(u64),
    /// A line where it cannot be.
    #[error("line {0} cannot come where it is")]
    OutOfPlace(u64),
    /// What it says happened cannot have.
    #[error("line {line}: the events cannot have come like this: {why}")]
    Impossible {
        /// Which.
        line: u64,
        /// What the machine says.
        why: String,
    },
}

/// Reads a trace.
#[derive(Debug)]
pub struct Reader<R = BufReader<File>> {
    input: R,
    line: u64,
    read: usize,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened, is no file or too large.
    pub fn open(path: &Path) -> Result<Self, NoTrace> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file").into());
        }
        if metadata.len() > LARGEST as u64 {
            return Err(NoTrace::TooLarge);
        }
        Ok(Self::of(BufReader::new(File::open(path)?)))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub const fn of(input: R) -> Self {
        Self {
            input,
            line: 0,
            read: 0,
        }
    }

    /// Number of the line read last, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// The first line.
    ///
    /// # Errors
    /// When it is not the header of a trace of this schema.
    pub fn header(&mut self) -> Result<Header, NoTrace> {
        let Some(text) = self.next_text()? else {
            return Err(NoTrace::Truncated(0));
        };
        // Of another schema nothing but the number can be relied upon.
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
            Line::Header(header) => Ok(header),
            _ => Err(NoTrace::OutOfPlace(self.line)),
        }
    }

    /// The next line; `None` at the end of the file.
    ///
    /// # Errors
    /// When it is no line of a trace.
    pub fn next(&mut self) -> Result<Option<Line>, NoTrace> {
        match self.next_text()? {
            Some(text) => self.parse(&text).map(Some),
            None => Ok(None),
        }
    }

    fn next_text(&mut self) -> Result<Option<Vec<u8>>, NoTrace> {
        let mut text = Vec::new();
        let limit = LONGEST_LINE as u64 + 1;
        let read = self
            .input
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.read += read;
        if self.read > LARGEST {
            return Err(NoTrace::TooLarge);
        }
        if read > LONGEST_LINE {
            return Err(NoTrace::LongLine(self.line));
        }
        if text.last() != Some(&b'\n') {
            return Err(NoTrace::Truncated(self.line));
        }
        Ok(Some(text))
    }

    fn parse(&self, text: &[u8]) -> Result<Line, NoTrace> {
        serde_json::from_slice(text).map_err(|error| NoTrace::Garbage {
            line: self.line,
            why: error.to_string(),
        })
    }
}
