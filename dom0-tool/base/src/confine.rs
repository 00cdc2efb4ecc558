//! Walls around processes that read what a guest, a stub or another host says: what they
//! may still ask of the kernel once they have all that they need. Whoever takes one over
//! gets no further than its open files, or at least starts no program with its rights.
//!
//! A call that is not allowed ends the process, as a crash of it would: what looks after
//! each of them then does its part. All of it is best effort: where a kernel has no
//! seccomp or no landlock, migrations work without, and `lull doctor` says so.
//!
//! Landlock stands around `lull land` alone. A process behind it may not read which
//! program another runs (`/proc/PID/exe`), and by that the guard, the transport and the
//! keepers tell a lull that lives from one that is dead.

use std::collections::BTreeMap;
use std::fs;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::mm::ProtFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Calls by number, each with what its arguments must be; any will do where there is
/// nothing.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// What a program that reads, reckons and writes asks for: the C library's own needs with
/// it, an abort's too.
const FREE: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls that map memory, and which of their arguments says how: none may map code.
const MAPPING: &[(i64, u8)] = &[(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)];

/// What starts a program, reaches another process, another host or the kernel's insides.
const FORBIDDEN: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
];

/// From here on this process has its open files and its memory, and nothing else. Of
/// `requests` alone it may make ioctls. Threads that run already are not confined.
pub fn to_open_files(requests: &[u32]) {
    see_no_path();
    let mut calls: Calls = FREE.iter().map(|call| (*call, Vec::new())).collect();
    for (call, argument) in MAPPING {
        let exec = u64::from(ProtFlags::EXEC.bits());
        calls.insert(
            *call,
            when(*argument, SeccompCmpOp::MaskedEq(exec), 0).collect(),
        );
    }
    let requests = requests.iter().map(|request| u64::from(*request));
    calls.insert(
        libc::SYS_ioctl,
        requests
            .flat_map(|request| when(1, SeccompCmpOp::Eq, request))
            .collect(),
    );
    filter(calls, SeccompAction::KillProcess, SeccompAction::Allow);
}

/// From here on this process starts no program, connects to nobody, traces nobody.
/// Threads that run already are not confined.
pub fn to_no_program() {
    let calls = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    filter(calls, SeccompAction::Allow, SeccompAction::KillProcess);
}

/// A rule about one argument, 32 bits of it.
fn when(argument: u8, how: SeccompCmpOp, value: u64) -> impl Iterator<Item = SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .into_iter()
}

fn filter(calls: Calls, others: SeccompAction, these: SeccompAction) {
    let built =
        SeccompFilter::new(calls, others, these, TargetArch::x86_64).and_then(BpfProgram::try_from);
    if let Ok(program) = built {
        // A kernel without seccomp says no.
        let _ = apply_filter(&program);
    }
}

/// No file can be opened any more, whatever its name.
fn see_no_path() {
    // What an older kernel does not know is left out.
    let _ = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V3))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self());
}

/// What of this the running kernel lacks, by name.
pub fn lacking() -> Vec<&'static str> {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let seccomp = actions.is_ok_and(|actions| actions.split(' ').any(|it| it == "kill_process"));
    // Made, and not put around anything.
    let landlock = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok();
    [("seccomp", seccomp), ("landlock", landlock)]
        .into_iter()
        .filter(|(_, there)| !there)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::net::UdpSocket;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, ExitStatus};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const CHILD: &str = "LULL_TEST_CONFINE";

    /// Runs a test of this file again, in a process of its own: walls stay.
    fn child(test: &str, case: &str) -> ExitStatus {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("confine::tests::{test}")])
            .env(CHILD, case)
            .output();
        status.unwrap().status
    }

    fn is_killed(status: ExitStatus) -> bool {
        status.signal() == Some(libc::SIGSYS)
    }

    fn exec() {
        let _ = Command::new("/bin/true").exec();
    }

    fn connect() {
        let _ = UdpSocket::bind("127.0.0.1:0");
    }

    #[test]
    fn open_files_are_all_there_is() {
        match std::env::var(CHILD).as_deref() {
            Err(_) => {
                assert!(child("open_files_are_all_there_is", "work").success());
                for case in ["exec", "connect", "open", "thread", "ioctl", "signal"] {
                    let status = child("open_files_are_all_there_is", case);
                    assert!(is_killed(status), "{case}: {status}");
                }
            }
            Ok(case) => {
                let mut file = tempfile::tempfile().unwrap();
                // FIONREAD
                to_open_files(&[0x541b]);
                match case {
                    "exec" => exec(),
                    "connect" => connect(),
                    "open" => drop(File::open("/dev/null")),
                    "thread" => drop(thread::Builder::new().spawn(|| ())),
                    "ioctl" => drop(rustix::termios::tcgetwinsize(&file)),
                    "signal" => {
                        let parent = rustix::process::getppid().unwrap();
                        let _ = rustix::process::test_kill_process(parent);
                    }
                    _ => {
                        let much = vec![1_u8; 64 << 20];
                        file.write_all(&much).unwrap();
                        let _ = rustix::io::ioctl_fionread(&file);
                        thread::sleep(Duration::from_millis(2));
                        std::process::exit(0);
                    }
                }
                std::process::exit(3);
            }
        }
    }

    #[test]
    fn files_can_be_opened_but_no_program_started() {
        match std::env::var(CHILD).as_deref() {
            Err(_) => {
                assert!(child("files_can_be_opened_but_no_program_started", "work").success());
                for case in ["exec", "connect"] {
                    let status = child("files_can_be_opened_but_no_program_started", case);
                    assert!(is_killed(status), "{case}: {status}");
                }
            }
            Ok(case) => {
                to_no_program();
                match case {
                    "exec" => exec(),
                    "connect" => connect(),
                    _ => {
                        thread::spawn(|| File::open("/dev/null").unwrap())
                            .join()
                            .unwrap();
                        std::process::exit(0);
                    }
                }
                std::process::exit(3);
            }
        }
    }

    #[test]
    fn landlock_leaves_no_path() {
        if std::env::var_os(CHILD).is_some() {
            see_no_path();
            let status = File::open("/etc/passwd").is_err() && File::open("/proc/stat").is_err();
            std::process::exit(if status { 0 } else { 3 });
        }
        if !lacking().contains(&"landlock") {
            assert!(child("landlock_leaves_no_path", "").success());
        }
    }
}
