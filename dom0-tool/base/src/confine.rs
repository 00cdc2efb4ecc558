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

/// Calls of a program with one thread that only reads, computes and writes, including those
/// that the C library makes on its own or in an abort.
const FREE: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    // Descriptors come this way, over a socket that was open before.
    libc::SYS_recvmsg,
    libc::SYS_close,
    // A debug build asks whether a descriptor is open before it closes it.
    libc::SYS_fcntl,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit_group,
];

/// Calls that map memory, with the index of their protection argument. None of them may
/// map executable memory.
const MAPPING: &[(i64, u8)] = &[(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)];

/// Calls that reach what no open or opened file reaches: another program, another process,
/// another host, the kernel itself. What root can also do by writing to a file is left out,
/// because files can be opened here: mounting, device nodes, namespaces.
const FORBIDDEN: &[i64] = &[
    // Another program.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Another process.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // Another host. io_uring opens sockets and files past any filter of calls. A socket
    // made before can be neither connected nor bound anew.
    libc::SYS_socket,
    libc::SYS_io_uring_setup,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_reboot,
];

/// Confines this process to its open files, to those that other processes hand to it over
/// them, and to its memory. The only ioctls it may make are `requests`. Threads that are already running are not confined.
pub fn to_open_files(requests: &[u32]) {
    see_no_path();
    let free = free_calls(requests);
    filter(free, SeccompAction::KillProcess, SeccompAction::Allow);
}

fn free_calls(requests: &[u32]) -> Calls {
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
    calls
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
    use std::collections::HashMap;
    use std::fs::File;
    use std::io::{IoSliceMut, Read, Write};
    use std::net::UdpSocket;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, ExitStatus};
    use std::thread;
    use std::time::Duration;

    use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

    use super::*;
    use crate::ready::is_readable;

    const CHILD: &str = "LULL_TEST_CONFINE";

    /// Runs a test of this file again in a child process, because confinement cannot be
    /// undone.
    fn child(test: &str, case: &str) -> ExitStatus {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("confine::tests::{test}")])
            .env(CHILD, case)
            // With one heap the C library does not ask how many processors there are.
            .env("MALLOC_ARENA_MAX", "1")
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

    /// Without any one of the calls that `lull land` may make, one of its ways fails: it
    /// reads, computes, waits, writes and ends, or it ends by an abort.
    #[test]
    fn no_call_is_free_without_need() {
        const WAYS: [&str; 2] = ["work", "abort"];
        // A clock of Xen's may need a call, and a sleep that was stopped goes on by one.
        const SELDOM: [i64; 2] = [libc::SYS_clock_gettime, libc::SYS_restart_syscall];
        match std::env::var(CHILD).as_deref() {
            Err(_) => {
                let test = "no_call_is_free_without_need";
                for way in WAYS {
                    let status = child(test, &format!("-1 {way}"));
                    assert!(!is_killed(status), "{way}: {status}");
                }
                let needless: Vec<i64> = FREE
                    .iter()
                    .copied()
                    .filter(|call| !SELDOM.contains(call))
                    .filter(|call| {
                        let fails = |way| is_killed(child(test, &format!("{call} {way}")));
                        !WAYS.into_iter().any(fails)
                    })
                    .collect();
                assert!(needless.is_empty(), "{needless:?}");
            }
            Ok(case) => {
                let (without, way) = case.split_once(' ').unwrap();
                let file = tempfile::tempfile().unwrap();
                let mut calls = free_calls(&[]);
                calls.remove(&without.parse().unwrap());
                filter(calls, SeccompAction::KillProcess, SeccompAction::Allow);
                match way {
                    "work" => work(file),
                    _ => std::process::abort(),
                }
                std::process::exit(0);
            }
        }
    }

    fn work(mut file: File) {
        let mut much = vec![1_u8; 64 << 20];
        much.extend_from_slice(&[2; 1 << 20]);
        file.write_all(&much).unwrap();
        let _ = file.read(&mut much);
        let mut bytes = [0];
        let mut bytes = [IoSliceMut::new(&mut bytes)];
        let mut control = RecvAncillaryBuffer::default();
        let _ = recvmsg(&file, &mut bytes, &mut control, RecvFlags::empty());
        let few: HashMap<u64, Vec<u8>> = (0..1_000).map(|n| (n, vec![0; 1_000])).collect();
        assert_eq!(few.len(), 1_000);
        let _ = is_readable(&file, Duration::from_micros(1));
        thread::sleep(Duration::from_millis(2));
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
