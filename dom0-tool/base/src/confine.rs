//! Sandboxes for processes that read data from a guest, a stub or another host. Each
//! process restricts itself once it has opened everything it needs. An attacker who
//! takes one over reaches only its open files, or at least cannot start a program with
//! its rights.
//!
//! A forbidden call kills the process, exactly as a crash would, and the usual recovery
//! from a crash applies. All of it is best effort: on a kernel without seccomp or
//! landlock, migrations still work, and `lull doctor` reports what is missing.
//!
//! Only `lull land` uses landlock. A process restricted by landlock cannot read which
//! program another process runs (`/proc/PID/exe`). The guard, the transport and the
//! spoolers need that to tell a live lull process from a dead one.

use std::collections::BTreeMap;
use std::fs;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::mm::ProtFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Calls by number, each with the rules for its arguments. An empty list allows any
/// arguments.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls of a program that only reads, computes and writes, including those that the C
/// library makes on its own or in an abort.
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

/// Calls that map memory, with the index of their protection argument. None of them may
/// map executable memory.
const MAPPING: &[(i64, u8)] = &[(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)];

/// Calls that start a program, or that reach another process, another host or kernel
/// internals.
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

/// Confines this process to its open files and its memory. The only ioctls it may make
/// are `requests`. Threads that are already running are not confined.
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

/// Prevents this process from starting a program, opening a connection or tracing a
/// process. Threads that are already running are not confined.
pub fn to_no_program() {
    let calls = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    filter(calls, SeccompAction::Allow, SeccompAction::KillProcess);
}

/// A rule on the low 32 bits of one argument.
fn when(argument: u8, how: SeccompCmpOp, value: u64) -> impl Iterator<Item = SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .into_iter()
}

fn filter(calls: Calls, others: SeccompAction, these: SeccompAction) {
    let built =
        SeccompFilter::new(calls, others, these, TargetArch::x86_64).and_then(BpfProgram::try_from);
    if let Ok(program) = built {
        // This fails on a kernel without seccomp.
        let _ = apply_filter(&program);
    }
}

/// Prevents this process from opening any file by path.
fn see_no_path() {
    // Access rights that an older kernel does not know are dropped.
    let _ = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V3))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self());
}

/// The names of the mechanisms above that the running kernel lacks.
pub fn lacking() -> Vec<&'static str> {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let seccomp = actions.is_ok_and(|actions| actions.split(' ').any(|it| it == "kill_process"));
    // The ruleset is created but not enforced.
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

    /// Runs a test of this file again in a child process, because confinement cannot be
    /// undone.
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
