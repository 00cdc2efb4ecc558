//! The priority of the processes for which a paused guest waits.
//!
//! The guest's way to its stop, and its devices' way back, lead through dom0's xenstored; its
//! last pages and its state through lull's own processes. In a dom0 that is busy besides, each
//! of them waits for its turn on a processor, several times in each pause. So from the request
//! to suspend until the guest runs they have a lower nice value. At -10 a process gets nine
//! times the processor time of another one. A real-time priority, or the lowest nice value,
//! would let a guest that keeps xenstored busy stop all else in dom0.
//!
//! A guard does this, because the process that it guards may die. If the guard is killed,
//! xenstored keeps the nice value, and later attempts leave it so.

use std::fs;
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
}

impl Urgency {
    /// Finds dom0's xenstored. `own` is the process of lull's that the caller guards.
    pub fn new(own: Option<Pid>) -> Self {
        Self {
            processes: own.into_iter().chain(xenstored()).collect(),
            raised: Vec::new(),
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
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        self.end();
    }
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

    /// Without the right to do so, nothing changes.
    #[test]
    fn a_process_is_urgent_for_as_long_as_the_pause_lasts() {
        let process = Sleeping::start();
        setpriority_process(Some(process.pid()), 3).unwrap();
        let may = setpriority_process(Some(process.pid()), 2).is_ok();
        let before = process.nice();
        let meanwhile = if may { URGENT } else { before };
        let mut urgency = Urgency {
            processes: vec![process.pid()],
            raised: Vec::new(),
        };
        for _ in 0..2 {
            urgency.begin();
            urgency.begin();
            assert_eq!(process.nice(), meanwhile);
            urgency.end();
            assert_eq!(process.nice(), before);
        }
        urgency.begin();
        drop(urgency);
        assert_eq!(process.nice(), before);
    }

    /// What somebody has set meanwhile is kept.
    #[test]
    fn a_nice_value_that_is_anothers_is_left_alone() {
        let process = Sleeping::start();
        let mut urgency = Urgency {
            processes: vec![process.pid()],
            raised: Vec::new(),
        };
        urgency.begin();
        setpriority_process(Some(process.pid()), 5).unwrap();
        urgency.end();
        assert_eq!(process.nice(), 5);
    }

    #[test]
    fn only_roots_xenstored_is_taken_for_it() {
        assert!(!is_xenstored(Path::new("/proc/self")));
        assert!(!is_xenstored(Path::new("/proc/0")));
    }
}
