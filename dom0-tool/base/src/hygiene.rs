//! Hardening for long-lived lull processes that see guest memory or act for a paused
//! guest. Each calls these functions at its start. All of it is best effort: if the
//! kernel refuses, the migration is unaffected.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, setsid,
};
use rustix::thread::set_no_new_privs;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

/// Disables core dumps, which could contain guest pages, and prevents tracing by anyone
/// but root.
pub fn leave_no_dump() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// The most descriptors that a process may have open. None has more than some dozens; one
/// that opens them without end fails by itself, before it harms its host.
const DESCRIPTORS: u64 = 256;

/// Does the same as [`leave_no_dump`], prevents programs it starts from gaining rights
/// through set-user-ID files, and limits its descriptors. Processes that start the
/// operator's ssh must not call this, because ssh may be wrapped in sudo.
pub fn settle() {
    leave_no_dump();
    let _ = set_no_new_privs(true);
    let few = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    // This fails only if the limit is lower already.
    let _ = setrlimit(Resource::Nofile, few);
}

/// For processes that clean up after others: starts a new session, and survives every
/// signal that can be caught. The handlers do nothing, but the signals are not ignored,
/// because programs that this process starts would inherit that.
pub fn outlive_signals() {
    let received = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&received));
    }
    // This fails only for a process that already leads a group.
    let _ = setsid();
}

/// Makes this process the last that the OOM killer picks, since it is the guest's
/// safety net.
pub fn be_spared() {
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a child process, because the change cannot be undone.
    #[test]
    fn what_is_given_up_is_gone() {
        const CHILD: &str = "LULL_TEST_HYGIENE";
        if std::env::var_os(CHILD).is_some() {
            settle();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(
                status.lines().any(|line| line == "NoNewPrivs:\t1"),
                "{status}"
            );
            let limits = fs::read_to_string("/proc/self/limits").unwrap();
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"));
            let core: Vec<&str> = core.unwrap().split_whitespace().skip(4).take(2).collect();
            assert_eq!(core, ["0", "0"]);
            let behavior = rustix::process::dumpable_behavior().unwrap();
            assert_eq!(behavior, DumpableBehavior::NotDumpable);
            return;
        }
        let itself = std::env::current_exe().unwrap();
        let status = std::process::Command::new(itself)
            .args(["--exact", "hygiene::tests::what_is_given_up_is_gone"])
            .env(CHILD, "1")
            .status();
        assert!(status.unwrap().success());
    }
}
