//! What a process of lull's that lives for long, and sees guests' memory or speaks for a
//! paused guest, gives up at its start. All of it is best effort: a kernel that refuses
//! changes nothing about a migration.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, setsid,
};
use rustix::thread::set_no_new_privs;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

/// Leaves no dump of its memory, in which a guest's pages may be, and is traced by nobody
/// but root.
pub fn leave_no_dump() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// The same; and nothing it starts gains rights by a file's owner. Not for what starts
/// the operator's ssh, which may go by way of sudo.
pub fn settle() {
    leave_no_dump();
    let _ = set_no_new_privs(true);
}

/// For what clears up after others: in a session of its own, and no signal that can be
/// heard ends it. A handler that does nothing, rather than none: what is ignored would stay so in
/// whatever this process starts.
pub fn outlive_signals() {
    let heard = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&heard));
    }
    // Fails only for one that leads a group already.
    let _ = setsid();
}

/// The last to be killed where memory runs out: the guest's safety net.
pub fn be_spared() {
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: it cannot be taken back.
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
