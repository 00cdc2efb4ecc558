//! The process that holds a record until the attempt is over, and then writes
//! it.

use std::io::{self, Read};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lull_base::{confine, hygiene, inherited_fd};

use super::Folder;

/// How long the disk may take. Beyond that the process exits, because callers wait for the
/// end of its output.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes this process a spooler. It comes first, because it closes every descriptor but the
/// standard ones.
pub fn begin() {
    drop(inherited_fd::foreign(&[]));
    hygiene::settle();
    confine::to_no_program();
}

/// Runs the spooler: reads standard input to its end, writes it to a file of `folder` named
/// `name`, then calls `then` with what was read.
pub fn keep(
    what: &'static str,
    folder: &Folder,
    name: &str,
    largest: usize,
    then: impl FnOnce(&[u8]),
) -> ExitCode {
    let mut record = Vec::new();
    let most = largest as u64 + 1;
    if let Err(error) = io::stdin().lock().take(most).read_to_end(&mut record) {
        return lost(what, folder, &error);
    }
    if record.is_empty() {
        then(&record);
        return ExitCode::SUCCESS;
    }
    let late = folder.clone();
    thread::spawn(move || {
        thread::sleep(TIMEOUT);
        lost(what, &late, &io::Error::other("the disk does not answer"));
        std::process::exit(1);
    });
    let kept = folder.keep(name, &record);
    then(&record);
    match kept {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => lost(what, folder, &error),
    }
}

fn lost(what: &str, folder: &Folder, error: &io::Error) -> ExitCode {
    eprintln!(
        "lull: warning: the {what} of this attempt is lost ({}: {error}); the attempt is not affected",
        folder.path().display()
    );
    ExitCode::FAILURE
}
