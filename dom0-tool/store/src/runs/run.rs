//! Reads a record back. Whatever the file contains, the result can be shown.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::spool::Folder;
use lull_base::lines::each_line;
use lull_wire::events::{
    Begun, DID_NOT_SUSPEND, Event, How, Line, Outcome, Progress, Round, SCHEMA,
};

use crate::attempt::advice::what_would_do;
use crate::attempt::observed::ObservedAttempt;

use super::MAX_FILE_BYTES;

/// The record of one attempt.
#[derive(Debug, Default)]
pub struct Run {
    /// The file's name without its extension.
    pub name: String,
    /// The first line, which names the guest.
    pub begun: Option<Begun>,
    /// What its events say.
    pub observed: ObservedAttempt,
    /// All rounds of the attempt.
    pub rounds: Vec<Round>,
    /// All lines of progress.
    pub progress: Vec<Progress>,
    /// The last error reported.
    pub error: Option<String>,
    /// Why the attempt was left to Xen's own helper, if it was.
    pub left_to_stock: Option<String>,
    /// The final result of `lull migrate`.
    pub result: Option<Outcome>,
    /// The number of lines that are malformed or from another version.
    pub not_understood: u64,
}

impl Run {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is not a regular file, or is larger than any record.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        if metadata.len() > 2 * MAX_FILE_BYTES as u64 {
            return Err(io::Error::other("it is larger than any record of lull's"));
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::read(&name, file.take(2 * MAX_FILE_BYTES as u64))
    }

    /// Reads the lines of a record.
    ///
    /// # Errors
    /// The error of the reader.
    pub fn read(name: &str, from: impl Read) -> io::Result<Self> {
        let mut run = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        each_line(from, |line| match serde_json::from_str::<Line>(line) {
            Ok(line) if line.schema == SCHEMA => run.take(line.event),
            _ => run.not_understood += 1,
        })?;
        run.note_arrival();
        Ok(run)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begun(begun) => self.begun = Some(begun),
            Event::Result(result) => self.result = Some(*result),
            Event::Progress(progress) => {
                self.progress.push(progress.clone());
                self.observed.helper_said(Event::Progress(progress));
            }
            Event::Round(round) => {
                self.rounds.push(round.clone());
                self.observed.helper_said(Event::Round(round));
            }
            Event::Log(log) if log.level == "error" => self.error = Some(log.text),
            Event::LeftToStock(left) => self.left_to_stock = Some(left.reason),
            Event::Ready(_) | Event::HandedOver(_) | Event::Answered(_) | Event::HungUp(_) => {
                self.observed.transport_said(event);
            }
            _ => self.observed.helper_said(event),
        }
    }

    /// The time of the destination's report appears only in the result.
    fn note_arrival(&mut self) {
        let observed = self.result.as_ref().and_then(|result| {
            let pause = result.observed_downtime_ms;
            pause.filter(|_| result.outcome == "moved")
        });
        let asked = self.observed.suspended.as_ref();
        self.observed.target_started_ns = asked.zip(observed).map(|(asked, ms)| {
            let pause = ms.saturating_mul(1_000_000);
            asked.requested_monotonic_ns.saturating_add(pause)
        });
    }

    /// The name of the guest; `?` if the record does not say.
    pub fn guest(&self) -> &str {
        self.begun.as_ref().map_or("?", |begun| &begun.guest)
    }

    /// The destination, if it is known.
    pub fn destination(&self) -> Option<&str> {
        self.begun.as_ref()?.destination.as_deref()
    }

    /// How the attempt ended: as in [`Outcome`], or, as far as the helper can tell, `sent`
    /// or `left-to-stock`; `unfinished` if no end was recorded.
    pub fn outcome(&self) -> &str {
        let how = self.observed.ended.as_ref().map(|ended| ended.how);
        match (&self.result, how) {
            (Some(result), _) => &result.outcome,
            (None, Some(How::StreamComplete)) => "sent",
            (None, Some(How::RefusedDowntime)) => "refused-downtime",
            (None, Some(How::RefusedTimeout)) => "refused-timeout",
            (None, Some(How::Cancelled)) => "cancelled",
            (None, Some(How::TargetFailed)) => "target-failed",
            (None, Some(How::SourceFailed)) => "source-failed",
            (None, None) if self.left_to_stock.is_some() => "left-to-stock",
            (None, None) if self.error.is_some() => "source-failed",
            (None, None) => "unfinished",
        }
    }

    /// Whether the guest was asked to suspend itself and did not.
    pub fn did_not_suspend(&self) -> bool {
        let ended = self.observed.ended.as_ref();
        ended.is_some_and(|ended| ended.reason == DID_NOT_SUSPEND)
    }

    /// The limit on the pause, in milliseconds.
    pub fn limit_ms(&self) -> Option<u64> {
        let asked = self.result.as_ref().and_then(|result| result.limit_ms);
        asked.or(self.observed.limit_ms())
    }

    /// The limit on the pause, in microseconds, as exactly as it was recorded.
    pub fn limit_us(&self) -> Option<u64> {
        let rounded = || Some(self.limit_ms()?.saturating_mul(1_000));
        self.observed.exact_limit_us().or_else(rounded)
    }

    /// The predicted upper bound of the pause, in milliseconds.
    pub fn predicted_ms(&self) -> Option<u64> {
        self.observed.predicted_downtime_ms()
    }

    /// The observed pause, in milliseconds.
    pub fn observed_ms(&self) -> Option<u64> {
        let reported = self
            .result
            .as_ref()
            .map(|result| result.observed_downtime_ms);
        reported.unwrap_or_else(|| self.observed.refused_pause_ms())
    }

    /// Why the attempt did not move the guest, and what to do; may be empty.
    pub fn reason(&self) -> String {
        let parts = match (&self.result, &self.observed.ended, &self.error) {
            (Some(result), _, _) => vec![result.reason.clone(), result.advice.clone()],
            (None, Some(ended), _) => vec![
                ended.reason.clone(),
                what_would_do(ended).unwrap_or_default(),
                ended.advice.clone(),
            ],
            (None, None, error) => error.iter().chain(&self.left_to_stock).cloned().collect(),
        };
        parts
            .into_iter()
            .filter(|words| !words.is_empty())
            .map(|words| format!("{}.", words.trim_end_matches('.')))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The most records opened to find a guest's newest one.
const LOOKED_AT: usize = 8;

/// Finds a guest's newest record.
pub fn newest_of(folder: &Folder, guest: &str) -> Option<Run> {
    folder
        .records_of(guest)
        .take(LOOKED_AT)
        .filter_map(|path| Run::open(&path).ok())
        .find(|run| run.guest() == guest)
}

/// The path of a run that the operator named or gave as a file.
pub fn find(folder: &Folder, run: &str) -> PathBuf {
    match run.contains('/') {
        true => PathBuf::from(run),
        false => folder
            .path()
            .join(format!("{}.jsonl", run.trim_end_matches(".jsonl"))),
    }
}

#[cfg(test)]
mod tests {
    use lull_base::fuzz::any_bytes;
    use lull_wire::events::Ended;

    use super::*;

    #[test]
    fn any_bytes_are_a_record_or_none() {
        let samples: [&[u8]; 3] = [
            include_bytes!("samples/moved.jsonl"),
            include_bytes!("samples/refused.jsonl"),
            include_bytes!("samples/gate0.jsonl"),
        ];
        any_bytes(&samples, |bytes| drop(Run::read("x", bytes)));
    }

    #[test]
    fn a_guest_that_did_not_suspend_is_remembered_until_it_did() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path(), super::super::RETENTION);
        assert!(newest_of(&folder, "web1").is_none());
        let moved = include_str!("samples/moved.jsonl");
        let mut ended = Ended::so(How::SourceFailed);
        ended.reason = DID_NOT_SUSPEND.to_owned();
        let ended = Line {
            schema: SCHEMA,
            event: Event::Ended(ended),
        };
        let begun = moved.lines().next().unwrap();
        let stays = format!("{begun}\n{}\n", serde_json::to_string(&ended).unwrap());
        for (record, remembered) in [(&stays[..], true), (moved, false)] {
            folder.keep("web1", record.as_bytes()).unwrap();
            for number in 0..10 {
                let other = format!("web1{number}");
                folder.keep(&other, b"another's").unwrap();
            }
            let newest = newest_of(&folder, "web1").unwrap();
            assert_eq!(newest.did_not_suspend(), remembered);
        }
    }
}
