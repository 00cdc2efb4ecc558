//! The priority of the processes for which a paused guest waits.
//!
//! The guest's way to its stop, and its devices' way back, lead through dom0's xenstored; its
//! last pages and its state through lull's engine. In a dom0 that is busy besides, each of
//! them waits for its turn on a processor, several times in each pause. So they have a lower
//! nice value: at the source from the request to suspend until the guest runs or is gone, at
//! the destination from the start of the copy until it is announced. At -10 a process gets
//! nine times the processor time of another one. A real-time priority, or the lowest nice
//! value, would let a guest that keeps xenstored busy stop all else in dom0.
//!
//! Where the kernel groups processes by session (`kernel.sched_autogroup_enabled`, which
//! distributions switch on), a nice value counts within a session only. The session gets the
//! same value then (`/proc/PID/autogroup`).
//!
//! A guard does this, because the process that it guards may die. If the guard is killed,
//! xenstored keeps the nice value, and later attempts leave it so. Of two guests that are
//! paused at once, the first that runs ends it for both.

use std::fs;
use std::io;
use std::path::Path;

use lull_base::processes;
use rustix::process::{Pid, getpriority_process, setpriority_process};

/// The nice value of a process for which a paused guest waits.
const URGENT: i32 = -10;

/// The names of xenstored: written in C or in OCaml. There is no such process where xenstored
/// has a domain of its own.
const XENSTORED: [&str; 2] = ["xenstored", "oxenstored"];

/// The processes for which a guest waits while it is paused.
#[derive(Debug)]
pub struct Urgency {
    processes: Vec<Pid>,
    /// The processes that are urgent now, and their nice values before.
    raised: Vec<(Pid, i32)>,
    /// The same of their sessions.
    sessions: Vec<(Pid, i32)>,
}

impl Urgency {
    /// Finds dom0's xenstored. `own` is the process of lull's that the caller guards.
    pub fn new(own: Option<Pid>) -> Self {
        Self {
            processes: own.into_iter().chain(xenstored()).collect(),
            raised: Vec::new(),
            sessions: Vec::new(),
        }
    }

    /// The guest is paused from now on. A process that cannot be made urgent stays as it is.
    pub fn begin(&mut self) {
        for process in &self.processes {
            let Ok(before) = getpriority_process(Some(*process)) else {
                continue;
            };
            if before > URGENT && setpriority_process(Some(*process), URGENT).is_ok() {
                self.raised.push((*process, before));
            }
            let before = session_nice(*process).filter(|before| *before > URGENT);
            if let Some(before) = before
                && set_session_nice(*process, URGENT).is_ok()
            {
                self.sessions.push((*process, before));
            }
        }
    }

    /// The guest runs. The processes get back the nice values that they had.
    pub fn end(&mut self) {
        for (process, before) in self.raised.drain(..) {
            // The process may have ended, and its number may be another's by now.
            if getpriority_process(Some(process)) == Ok(URGENT) {
                let _ = setpriority_process(Some(process), before);
            }
        }
        for (process, before) in self.sessions.drain(..) {
            if session_nice(process) == Some(URGENT) {
                let _ = set_session_nice(process, before);
            }
        }
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        self.end();
    }
}

/// The nice value of the process's session; `None` if the kernel knows none. The file has one
/// line, like `/autogroup-12 nice 0` (`kernel/sched/autogroup.c`, Linux 6.1).
fn session_nice(process: Pid) -> Option<i32> {
    let line = fs::read_to_string(session_file(process)).ok()?;
    line.trim_end().rsplit_once(' ')?.1.parse().ok()
}

fn set_session_nice(process: Pid, nice: i32) -> io::Result<()> {
    fs::write(session_file(process), nice.to_string())
}

fn session_file(process: Pid) -> String {
    format!("/proc/{}/autogroup", process.as_raw_nonzero())
}

/// The number of dom0's xenstored.
fn xenstored() -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let number = process.file_name().to_str()?.parse().ok()?;
        is_xenstored(&process.path()).then(|| Pid::from_raw(number))?
    })
}

fn is_xenstored(process: &Path) -> bool {
    let name = fs::read_to_string(process.join("comm"));
    name.is_ok_and(|name| XENSTORED.contains(&name.trim_end())) && processes::is_roots(process)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Sleeping(Child);

    impl Sleeping {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> Pid {
            Pid::from_child(&self.0)
        }

        fn nice(&self) -> i32 {
            getpriority_process(Some(self.pid())).unwrap()
        }
    }

    impl Drop for Sleeping {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Without the right to do so, nothing changes. One test, because the session is that of all
    /// tests.
    #[test]
    fn a_process_is_urgent_for_as_long_as_the_pause_lasts() {
        let process = Sleeping::start();
        setpriority_process(Some(process.pid()), 3).unwrap();
        let may = setpriority_process(Some(process.pid()), 2).is_ok();
        let before = process.nice();
        let meanwhile = if may { URGENT } else { before };
        let session = session_nice(process.pid());
        let mut urgency = Urgency {
            processes: vec![process.pid()],
            raised: Vec::new(),
            sessions: Vec::new(),
        };
        for _ in 0..2 {
            urgency.begin();
            urgency.begin();
            assert_eq!(process.nice(), meanwhile);
            if may && session.is_some() {
                assert_eq!(session_nice(process.pid()), Some(URGENT));
            }
            urgency.end();
            assert_eq!(process.nice(), before);
            assert_eq!(session_nice(process.pid()), session);
        }
        // What somebody has set meanwhile is kept.
        urgency.begin();
        setpriority_process(Some(process.pid()), 5).unwrap();
        urgency.end();
        assert_eq!(process.nice(), 5);
        urgency.begin();
        drop(urgency);
        assert_eq!(process.nice(), 5);
        assert_eq!(session_nice(process.pid()), session);
    }

    #[test]
    fn only_roots_xenstored_is_taken_for_it() {
        assert!(!is_xenstored(Path::new("/proc/self")));
        assert!(!is_xenstored(Path::new("/proc/0")));
    }
}
