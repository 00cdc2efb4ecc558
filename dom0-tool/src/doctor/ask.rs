//! Questions with a deadline, whether or not there is an answer.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use lull_base::child::wait_or_kill;
use lull_base::text::printable_lines;

/// How long any question to this host may take.
pub const HERE: Duration = Duration::from_secs(10);

/// The most bytes read of an answer; the rest is dropped.
const MAX_OUTPUT_BYTES: u64 = 256 << 10;

/// Asks on a separate thread; if the question hangs, the thread ends with the process.
pub fn within<T: Send + 'static>(
    limit: Duration,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    in_background(question).recv_timeout(limit).ok()
}

fn in_background<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || drop(answer.send(question())));
    answered
}

/// The output of a command, if it succeeds.
///
/// # Errors
/// The end of its error output, as a clause.
pub fn command(mut command: Command, limit: Duration) -> Result<String, String> {
    let until = Instant::now() + limit;
    let late = || format!("no answer within {} s", limit.as_secs());
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.map_err(|error| format!("it cannot be started: {error}"))?;
    let said = child.stdout.take().map(|out| in_background(|| text(out)));
    let complaint = child.stderr.take().map(|out| in_background(|| text(out)));
    let status = wait_or_kill(&mut child, until).ok_or_else(late)?;
    // A child of the command may hold the pipes open.
    let rest = |out: Option<Receiver<String>>| {
        let left = until.saturating_duration_since(Instant::now());
        out.and_then(|out| out.recv_timeout(left).ok())
    };
    if status.success() {
        return rest(said).ok_or_else(late);
    }
    let complaint = rest(complaint).unwrap_or_default();
    let last = complaint.lines().rev().map(str::trim);
    match last.clone().find(|line| !line.is_empty()) {
        Some(line) => Err(line.trim_end_matches('.').to_owned()),
        None => Err(format!("it ended with {status}")),
    }
}

/// The text without control characters that a terminal would obey.
fn text(out: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = out.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    printable_lines(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<String, String> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]);
        command(shell, limit)
    }

    #[test]
    fn an_answer_is_plain_text_and_a_complaint_the_last_line() {
        let said = shell("printf 'a\\033[31mb\\n'", HERE);
        assert_eq!(said.as_deref(), Ok("a[31mb\n"));
        let said = shell("echo one >&2; echo 'two.' >&2; exit 3", HERE);
        assert_eq!(said, Err("two".to_owned()));
    }

    #[test]
    fn nothing_is_waited_for_without_end() {
        let brief = Duration::from_millis(200);
        for script in ["sleep 60", "sleep 60 & exit 0"] {
            let said = shell(script, brief);
            assert!(said.unwrap_err().contains("no answer"), "{script}");
        }
        assert!(within(brief, || thread::sleep(Duration::from_secs(60))).is_none());
    }

    #[test]
    fn a_flood_is_cut() {
        let said = shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 0", HERE);
        assert!(said.is_ok_and(|said| said.len() as u64 == MAX_OUTPUT_BYTES));
    }
}
