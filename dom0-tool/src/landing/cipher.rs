//! The cipher of an ssh of lull's own.
//!
//! Up to OpenSSH 9.9 ssh prefers a cipher that no processor has instructions for, and a
//! connection is as fast as one processor encrypts. Where this host's has AES, AES in GCM is
//! moved to the front of the list. The list keeps all its entries, so a destination without
//! it agrees on another. An operator who has named ciphers has a reason, and keeps them.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lull_base::child::wait_or_kill;

/// The option for ssh, as words for a shell.
pub const AES_FIRST: &str = "-o 'Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com'";

/// The same as one argument after `-o`.
const AES_FIRST_ARGUMENT: &str = "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com";

/// Time that ssh has to say what it is configured to do.
const SAYING: Duration = Duration::from_secs(5);

/// Whether ssh to this host is to be told [`AES_FIRST`].
pub fn is_aes_better(host: &str) -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    has_aes(&cpus) && is_free("ssh", host)
}

/// Whether the processor has instructions for AES, by `/proc/cpuinfo`.
fn has_aes(cpus: &str) -> bool {
    let flags = cpus.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "aes"))
}

/// Whether the operator's configuration names no ciphers for this host, and this ssh can be
/// told which to prefer.
fn is_free(ssh: &str, host: &str) -> bool {
    // Words may follow the host's name that run what stands behind them.
    let Some(host) = host.split_whitespace().next() else {
        return false;
    };
    let by_default = ciphers(ssh, &["-F", "none", host]);
    by_default.is_some()
        && by_default == ciphers(ssh, &[host])
        && ciphers(ssh, &["-F", "none", "-o", AES_FIRST_ARGUMENT, host]).is_some()
}

/// The ciphers that ssh would offer with these arguments; `None` if it does not take them.
fn ciphers(ssh: &str, arguments: &[&str]) -> Option<String> {
    let mut child = Command::new(ssh)
        .arg("-G")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It fits into a pipe.
    let status = wait_or_kill(&mut child, Instant::now() + SAYING)?;
    let mut said = String::new();
    let out = child.stdout.take().filter(|_| status.success())?;
    out.take(1 << 20).read_to_string(&mut said).ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("ciphers "));
    line.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_processor_has_aes_if_its_flags_say_so() {
        assert!(has_aes("processor\t: 0\nflags\t\t: fpu aes avx\n"));
        for cpus in [
            "",
            "processor\t: 0\nflags\t\t: fpu vaes avx\n",
            "model name\t: aes\n",
        ] {
            assert!(!has_aes(cpus), "{cpus}");
        }
    }

    #[test]
    fn ciphers_that_the_operator_names_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let ssh = folder.path().join("ssh");
        let is_free = |script: &str| {
            fs::write(&ssh, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
            super::is_free(ssh.to_str().unwrap(), "root@host2 sudo")
        };
        let says = "echo 'user root'; echo ciphers a,b";
        assert!(is_free(says));
        let named = "case $* in '-G root@host2') echo ciphers b,a ;; *) echo ciphers a,b ;; esac";
        assert!(!is_free(named));
        // An ssh too old for it, and one that is none.
        let old = format!("case $* in *^*) exit 255 ;; esac; {says}");
        assert!(!is_free(&old));
        assert!(!is_free("exit 0"));
    }
}
