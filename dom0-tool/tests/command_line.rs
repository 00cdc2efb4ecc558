//! The command as an operator meets it on a host where it cannot work.

use std::process::{Command, Output};

fn lull(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lull"))
        .args(words)
        .env("NO_COLOR", "1")
        .output()
        .expect("lull can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_limit_is_usage_and_shows_a_good_one() {
    for bad in ["0", "-3s", "soon", "99999999999999999999"] {
        for option in ["--max-suspend-time", "--timeout"] {
            let output = lull(&["migrate", option, bad, "web1", "host2"]);
            assert_eq!(output.status.code(), Some(2), "{option} {bad}");
            let said = said(&output);
            assert!(said.contains(&format!("`{bad}`")), "{said}");
            assert!(said.contains(option) && said.contains("`250ms`"), "{said}");
        }
    }
}

#[test]
fn a_host_that_is_not_ready_is_told_why_and_that_nothing_was_done() {
    if std::path::Path::new("/sys/hypervisor/type").exists() {
        eprintln!("skipped: this host may be ready");
        return;
    }
    let output = lull(&["migrate", "--json", "web1", "host2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let said = said(&output);
    // Not root, or no Xen, as the case may be.
    assert!(said.starts_with("lull: this "), "{said}");
    assert!(said.contains("Nothing was done."), "{said}");
}
